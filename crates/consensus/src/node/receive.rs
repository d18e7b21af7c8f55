//! What comes from others. Every byte of it may be meant to harm.

use std::cmp::Ordering;

use super::apply::CHECKS;
use super::blob::{Assembly, Blob, is_chunk};
use super::send::transfer_digest;
use super::*;
use crate::recovery::{common, compare, is_chain, is_related};
use crate::sanitize;

/// A voter without a quorum for so long, longer than any half waits to take over, gives way to any
/// lineage that has one.
const STRANDED_MS: u64 = 40_000;

impl Node {
    pub(super) fn receive(&mut self, from: Key, bytes: &[u8]) {
        match Frame::decode(bytes) {
            None => self.refuse("malformed"),
            Some(Frame::Lineage(lineage)) => self.hear_lineage(from, lineage),
            Some(Frame::Envelope(envelope)) => self.open(from, envelope),
        }
    }

    fn open(&mut self, via: Key, envelope: Envelope) {
        if envelope.epoch != self.epoch {
            self.tell_lineage(via);
            return;
        }
        let from = envelope.from;
        let former = self.former(from);
        let key = self.key_of(from).or(former);
        let Some(key) = key.or_else(|| self.returned(via, &envelope)) else {
            self.ask_who(via, from);
            return self.refuse("unknown member");
        };
        // What came over its own connection needs no further proof: that asked for the same key.
        let is_direct = via == key && envelope.to == self.me;
        if !is_direct && !envelope.is_signed(&*self.config.keys, &key) {
            return self.refuse("forged");
        }
        if self.key_of(from).is_none() {
            self.roster.insert(from, key);
        }
        if former.is_some() {
            // It does not know yet that it is a member no more.
            if self.may_tell(&key, b'r') {
                self.send(from, &Body::Removed);
            }
            return self.refuse("former member");
        }
        if envelope.to != self.me {
            return self.pass_on(envelope);
        }
        if via == key {
            self.routes.remove(&envelope.from);
        } else {
            self.routes.insert(envelope.from, via);
        }
        self.heard.insert(from, self.now);
        self.gone.remove(&from);
        if self.ended.contains(&from) {
            self.gone.insert(from);
        }
        match envelope.body() {
            Some(body) => self.hear(from, body),
            None => self.refuse("malformed"),
        }
    }

    /// The key of an id that was a member's once. One that was never seen may be newer than what is
    /// known.
    fn former(&self, id: u64) -> Option<Key> {
        let here = self.machine.members.contains_key(&id) || self.raft.conf().contains(id);
        if here || !self.ready {
            return None;
        }
        let mut sessions = self.machine.sessions.iter();
        let ended = sessions.find(|(session, it)| session.id == id && it.ended.is_some());
        ended.map(|(_, it)| it.key)
    }

    /// A member that came back is known by its key, and tells its new id itself: who knew it may all
    /// have come back since.
    fn returned(&self, via: Key, envelope: &Envelope) -> Option<Key> {
        let newer = self.id_of(&via).is_some_and(|id| id < envelope.from);
        let room = self.roster.len() < limits::MEMBERS * 4;
        let keys = &*self.config.keys;
        // Nobody passes on what is not signed: that is its own.
        let own = || envelope.signature.is_none() || envelope.is_signed(keys, &via);
        (newer && room && own()).then_some(via)
    }

    /// Whether a member votes, or did before it came back.
    fn has_voted(&self, id: u64) -> bool {
        let key = self.key_of(id);
        let mut voters = self.raft.conf().ids().into_iter();
        voters.any(|it| self.raft.conf().is_voter(it) && self.key_of(it) == key)
    }

    fn pass_on(&mut self, mut envelope: Envelope) {
        let Some(key) = self
            .key_of(envelope.to)
            .filter(|key| self.links.contains(key))
        else {
            return self.refuse("not for me");
        };
        if envelope.hops != 1 {
            return self.refuse("not for me");
        }
        envelope.hops = 0;
        let lane = envelope.body().map_or(Lane::Bulk, |body| body.lane());
        let bytes = Frame::Envelope(envelope).encode();
        self.out.send.push(Send {
            to: key,
            lane,
            bytes,
        });
    }

    /// Asks someone known who a member is that joined after what is known here.
    fn ask_who(&mut self, via: Key, id: u64) {
        let known = self.id_of(&via).filter(|id| *id != self.me);
        let leader = Some(self.raft.leader()).filter(|id| *id != 0);
        let Some(to) = known.or(leader).filter(|to| *to != id) else {
            // Nobody to ask but the stranger's own connection: any voter that is linked.
            let voters = self.raft.conf().voters.clone();
            let linked = |id: &u64| {
                self.key_of(*id)
                    .is_some_and(|key| self.links.contains(&key))
            };
            let voter = voters.into_iter().find(|id| *id != self.me && linked(id));
            if let Some(voter) = voter
                && self.may_tell(&via, b'w')
            {
                self.send(voter, &Body::Who(id));
            }
            return;
        };
        if self.may_tell(&via, b'w') {
            self.send(to, &Body::Who(id));
        }
    }

    fn hear(&mut self, from: u64, body: Body) {
        match body {
            Body::Raft(message) => self.hear_raft(from, message),
            Body::Chunk(chunk) => self.hear_chunk(from, chunk),
            Body::Propose(proposals) => self.propose_for(proposals),
            Body::Leave => {
                self.leaving.insert(from, Why::Left);
                self.lead();
            }
            // Only voters are believed: of learners anyone may have become one.
            Body::Removed if !self.has_voted(from) && from != self.raft.leader() => {
                self.refuse("not a voter");
            }
            Body::Removed => {
                let why = if self.going { Why::Left } else { Why::Lost };
                let orphaned = self.orphans_after(u64::MAX);
                self.end(why, orphaned);
            }
            Body::Check(check) => match self.checks.get(&check.index) {
                Some(ours) => self.compare(*ours, check),
                None if check.index > self.machine.index => {
                    self.claims.insert(check.index, check);
                    while self.claims.len() > CHECKS {
                        self.claims.pop_first();
                    }
                }
                None => {}
            },
            Body::Who(id) => {
                if let Some(member) = self.machine.members.get(&id) {
                    let key = member.key;
                    self.send(from, &Body::Member(id, key));
                }
            }
            Body::Member(id, key) => {
                let room = self.roster.len() < limits::MEMBERS * 4;
                if self.key_of(id).is_none() && room {
                    self.roster.insert(id, key);
                }
            }
            Body::Survey => self.report_to(from),
            Body::Report(report) => self.hear_report(from, report),
            Body::Offer(record) => self.hear_offer(record),
            Body::Signed(body, signature) => self.hear_signed(from, body, signature),
            Body::Begin(record) => self.hear_begin(record),
            Body::Attest(id) => self.speak_for(id),
            Body::Attested(id, signature) => self.hear_attested(from, id, signature),
            Body::Consider(proposal) => self.hear_consider(from, proposal),
            Body::Considered(digest, agrees, signature) => {
                self.hear_considered(from, digest, agrees, signature);
            }
        }
    }

    fn hear_raft(&mut self, from: u64, mut message: Message) {
        if self.is_fenced() {
            self.hear_of_the_old_epoch(from, &message);
            return self.refuse("fenced");
        }
        if let Err(why) = sanitize::check(&self.raft, from, &message) {
            return self.refuse(why);
        }
        let mut told = 0;
        match &mut message.kind {
            Kind::Snapshot(_) => return self.refuse("a snapshot in one piece"),
            Kind::Vote { .. } if self.degraded => return self.refuse("degraded"),
            Kind::Vote { token, .. } => {
                // Without a leader's permission it has to wait like everyone.
                let holds = token.is_some_and(|it| self.is_permitted(&it, message.term, from));
                *token = token.filter(|_| holds);
            }
            Kind::TimeoutNow { token } => {
                self.token = token.map(|it| (message.term, it));
            }
            Kind::Append { acknowledged, .. } | Kind::Heartbeat { acknowledged, .. } => {
                told = *acknowledged;
            }
            Kind::AppendReply {
                index,
                reject: None,
                ..
            } if self
                .transfers
                .get(&from)
                .is_some_and(|it| *index >= it.index) =>
            {
                self.transfers.remove(&from);
            }
            _ => {}
        }
        let term = message.term;
        self.raft.step(from, message);
        if self.raft.leader() == from && self.raft.term() == term {
            self.quorum_at = self.now;
            if self.quorum_lost {
                self.watch_quorum();
            }
            // What is acknowledged is committed, so it cannot be beyond what will be applied.
            self.acknowledged = self.acknowledged.max(told.min(limits::INDEX));
        }
    }

    fn is_permitted(&self, token: &Token, term: u64, to: u64) -> bool {
        let Some(before) = term.checked_sub(1) else {
            return false;
        };
        let leader = self.raft.leader();
        let known = leader == 0 || leader == token.leader || self.raft.term() != before;
        let digest = transfer_digest(&self.epoch, before, to);
        let key = self.key_of(token.leader);
        known && key.is_some_and(|key| self.config.keys.verify(&key, &digest, &token.signature))
    }

    // --- Large things -------------------------------------------------------------------------

    fn hear_chunk(&mut self, from: u64, chunk: Chunk) {
        if !is_chunk(&chunk) {
            return self.refuse("not a chunk");
        }
        let hash = chunk.hash;
        if self.assemblies.get(&from).is_none_or(|it| it.hash != hash) {
            // One for each sender, and few senders: leaders and survivors are voters.
            if self.assemblies.len() > limits::TRANSFERS {
                self.assemblies.pop_first();
            }
            self.assemblies.insert(from, Assembly::new(&chunk));
        }
        let Some(assembly) = self.assemblies.get_mut(&from) else {
            return;
        };
        let Some(bytes) = assembly.add(chunk) else {
            return;
        };
        self.assemblies.remove(&from);
        match Blob::decode(&bytes, &hash) {
            Err(why) => self.refuse(why),
            Ok(Blob::Snapshot(term, snapshot)) => self.hear_snapshot(from, term, snapshot),
            Ok(Blob::Base(base)) => self.hear_base(hash, base),
        }
    }

    fn hear_snapshot(&mut self, from: u64, term: u64, snapshot: Snapshot) {
        if self.fenced.is_some() {
            return self.refuse("fenced");
        }
        let Some(machine) = Machine::load(&snapshot.data) else {
            return self.refuse("not a snapshot");
        };
        if machine.index != snapshot.position.index || machine.room != self.config.room {
            return self.refuse("not a snapshot");
        }
        let message = Message {
            term,
            kind: Kind::Snapshot(snapshot),
        };
        if let Err(why) = sanitize::check(&self.raft, from, &message) {
            return self.refuse(why);
        }
        self.incoming = Some(machine);
        self.raft.step(from, message);
        if self.raft.leader() == from {
            self.quorum_at = self.now;
        }
        self.pump();
        // Raft had no use for it: what it has is as new.
        self.incoming = None;
    }

    // --- Lineages -----------------------------------------------------------------------------

    pub(super) fn tell_lineage(&mut self, to: Key) {
        if self.may_tell(&to, b'l') {
            let bytes = Frame::Lineage(self.lineage()).encode();
            self.out.send.push(Send {
                to,
                lane: Lane::Entries,
                bytes,
            });
        }
    }

    fn hear_lineage(&mut self, from: Key, lineage: Lineage) {
        let theirs = lineage.records;
        let ours = theirs.iter().all(|it| it.room == self.config.room);
        if !ours || !is_chain(&theirs, &*self.config.keys) {
            return self.refuse("not a lineage");
        }
        let tip = theirs.last().map(Record::id);
        if tip == Some(self.epoch) {
            return;
        }
        let position = |records: &[Record], id: Option<Hash>| {
            records.iter().position(|it| Some(it.id()) == id)
        };
        let active = self.lineage().active;
        if let Some(at) = position(&self.records, tip) {
            // They are where we were.
            let next = self.records.get(at + 1);
            if lineage.active && next.is_some_and(|it| !it.lossless) {
                self.fork();
                return self.give_way(&theirs);
            }
            return self.tell_lineage(from);
        }
        if let Some(at) = position(&theirs, Some(self.epoch)) {
            // We are where they were.
            let Some(next) = theirs.get(at + 1).cloned() else {
                return;
            };
            if active && !next.lossless {
                self.fork();
                return self.tell_lineage(from);
            }
            let is_tip = at + 2 == theirs.len();
            if is_tip && self.can_begin(&next) {
                return self.begin_offered(next);
            }
            return self.follow_or_give_way(theirs, &next);
        }
        if !is_related(&self.records, &theirs)
            && self.records.first().is_some_and(|it| it.number > 0)
        {
            // What was common is forgotten, on one side or both.
            self.refuse("a foreign lineage");
        }
        self.fork();
        let lives = self.fenced.is_none() && self.now < self.quorum_at + QUORUM_LOST_MS;
        let lesser = compare(&self.records, &theirs) == Ordering::Less;
        // What has a quorum does not end for what has none, and may never have one again.
        let gives_way = match (lesser, lives, lineage.active) {
            (true, lives, active) => active || !lives,
            (false, false, true) => self.is_stranded(),
            (false, ..) => false,
        };
        match gives_way {
            true => self.give_way(&theirs),
            false => self.tell_lineage(from),
        }
    }

    /// Whether this lineage has no quorum and this member nothing to wait for: a learner cannot take
    /// over, and a voter would have long since.
    fn is_stranded(&self) -> bool {
        let since = self.quorum_at.max(self.awake_since);
        !self.raft.conf().is_voter(self.me) || self.now >= since + STRANDED_MS
    }

    fn fork(&mut self) {
        let key = self.config.keys.key();
        if self.may_tell(&key, b'f') {
            self.out.events.push(Event::ForkDetected);
        }
    }

    /// A learner goes along; a voter that was not there when its epoch ended cannot.
    fn follow_or_give_way(&mut self, theirs: Vec<Record>, next: &Record) {
        let learner = self.raft.conf().learners.contains(&self.me);
        let late = theirs.last().map(Record::id) != Some(next.id());
        let seed = self.random();
        match Raft::new(self.me, None, seed, self.config.pre_vote()) {
            Some(raft) if learner && next.lossless && !late => {
                self.roster
                    .extend(next.survivors.iter().map(|(id, key)| (*id, *key)));
                let members = self.machine.members.iter().map(|(id, it)| (*id, it.key));
                self.roster.extend(members);
                self.named = next.survivors.keys().copied().collect();
                self.unsettle(next.settled);
                self.recent.retain(|(index, ..)| *index <= next.settled);
                // Its state comes as a snapshot, which may be older than what was shown.
                self.shown = 0;
                self.ready = false;
                self.epoch = next.id();
                self.records = theirs;
                self.raft = raft;
                self.forget_epoch();
            }
            _ => self.give_way(&theirs),
        }
    }

    fn give_way(&mut self, theirs: &[Record]) {
        let orphaned = self.orphans_after(common(&self.records, theirs));
        self.end(Why::Lost, orphaned);
    }

    pub(super) fn orphans_after(&self, index: u64) -> Vec<Orphan> {
        let late = self.recent.iter().filter(|(at, ..)| *at > index);
        late.map(|(at, author, change)| Orphan {
            index: Some(*at),
            author: *author,
            change: change.clone(),
        })
        .collect()
    }
}
