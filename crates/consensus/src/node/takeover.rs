//! Going on without a quorum.
//!
//! 1. A voter without a leader for [`TAKEOVER_MS`] asks the other voters what they have.
//! 2. When those that answer may go on losslessly, and all others are gone, the one with the best log
//!    signs a record of the next epoch, and offers it with its base to the rest.
//! 3. Who has the base and nothing beyond it signs, once for each epoch, and from then on neither
//!    votes nor acknowledges in the old one.
//! 4. When all have signed, it begins, everywhere with the same voters and the same log.
//!
//! A person may ask for the other way: going on alone, at once, with what this member has.

use super::blob::Blob;
use super::*;
use crate::recovery::{best, is_lossless, relevant};

/// Without a quorum for so long, survivors take over.
pub const TAKEOVER_MS: u64 = 10_000;
/// Of two halves the one without the last leader waits so many times as long.
const SECOND_HALF: u64 = 3;
/// Who has signed a successor, and hears for so long of a leader in the epoch that it left, comes back
/// as a new member: without a quorum no leader lasts so long, so the others go on there.
const LEFT_BEHIND_MS: u64 = 15_000;
/// Reports older than this do not count.
const REPORT_MS: u64 = 3_000;

impl Node {
    pub(super) fn take_over(&mut self) {
        if self.over.is_some() || !self.ready {
            return;
        }
        if self.fenced.is_some() {
            return match self.is_left_behind() {
                true => self.end(Why::Lost, Vec::new()),
                false => self.offer_again(),
            };
        }
        let since = self.quorum_at.max(self.awake_since);
        let mut without = self.now.saturating_sub(since);
        // When the others are over for certain there is nobody to wait for.
        let certain = |id: &u64| *id == self.me || self.ended.contains(id);
        if self.raft.conf().voters.iter().all(certain) && without >= REPEAT_MS {
            without = TAKEOVER_MS * SECOND_HALF;
        }
        let due = self.config.recovery == Recovery::Auto
            && self.online
            && without >= TAKEOVER_MS
            && self.raft.conf().is_voter(self.me)
            && !self.degraded;
        if !due || self.now < self.surveyed_at + REPEAT_MS {
            return;
        }
        self.surveyed_at = self.now;
        self.reports
            .retain(|_, (at, _)| *at + REPORT_MS >= self.now);
        self.reports.insert(self.me, (self.now, self.report()));
        let reports: SortedMap<u64, Report> = self
            .reports
            .iter()
            .map(|(id, (_, it))| (*id, it.clone()))
            .collect();
        let confs: Vec<Conf> = relevant(&reports)
            .into_iter()
            .map(|it| it.conf.clone())
            .collect();
        let voters: SortedSet<u64> = confs
            .iter()
            .flat_map(|it| it.voters.union(&it.outgoing))
            .collect();
        for id in &voters {
            if *id != self.me {
                self.send(*id, &Body::Survey);
            }
        }
        // Who reports without a vote in any of them does not count.
        let reports: SortedMap<u64, Report> = reports
            .into_iter()
            .filter(|(id, _)| voters.contains(id))
            .collect();
        #[allow(unused_mut)]
        let mut counted = reports.clone();
        #[cfg(feature = "mutations")]
        if self.breaks(Mutation::NoLaterConfs) {
            for report in counted.values_mut() {
                report.confs.truncate(1);
            }
        }
        let ids: SortedSet<u64> = reports.keys().copied().collect();
        let rest_gone = voters.difference(&ids).all(|id| self.gone.contains(id));
        if !rest_gone || !is_lossless(&counted) || best(&reports) != Some(self.me) {
            return;
        }
        let exact = confs.iter().any(|conf| !conf.is_majority(&ids));
        let leader = reports
            .values()
            .map(|it| it.leader)
            .max()
            .filter(|id| *id != 0);
        let first = match leader {
            Some(leader) => ids.contains(&leader),
            None => voters.first().is_some_and(|id| ids.contains(id)),
        };
        if exact && !first && without < TAKEOVER_MS * SECOND_HALF {
            return;
        }
        self.make_offer(&ids, &voters, true);
    }

    fn report(&self) -> Report {
        let mut conf = self.raft.conf().clone();
        let applied = self.machine.index;
        // When it came into force does not matter, only which of two is later.
        let mut confs = vec![crate::recovery::Seen {
            index: applied,
            committed: true,
            conf: conf.clone(),
        }];
        let entries = self.raft.entries_after(applied).unwrap_or_default();
        let mut machine = None;
        for (entry, index) in entries
            .iter()
            .zip(applied + 1..)
            .filter(|(it, _)| it.config)
        {
            let machine = machine.get_or_insert_with(|| self.machine.clone());
            let changes = match Command::decode(&entry.data) {
                Some(command) => machine.changes(index, &command),
                None if entry.data.is_empty() => Vec::new(),
                None => continue,
            };
            let leaves = entry.data.is_empty();
            if changes.is_empty() != leaves {
                continue;
            }
            if let Some(next) = conf.after(&changes) {
                conf = next.clone();
                confs.push(crate::recovery::Seen {
                    index,
                    committed: false,
                    conf: next,
                });
            }
        }
        Report {
            last: self.raft.last(),
            confs,
            leader: self.last_leader,
        }
    }

    pub(super) fn report_to(&mut self, to: u64) {
        if self.ready && self.now >= self.quorum_at + QUORUM_LOST_MS && self.fenced.is_none() {
            let report = self.report();
            self.send(to, &Body::Report(report));
        }
    }

    pub(super) fn hear_report(&mut self, from: u64, report: Report) {
        let fits = report.confs.len() <= limits::MEMBERS
            && report.confs.iter().all(|it| it.conf.is_valid())
            && report.confs.first().is_some_and(|it| it.committed);
        if !fits || self.reports.len() > limits::MEMBERS {
            return self.refuse("not a report");
        }
        self.reports.insert(from, (self.now, report));
    }

    /// Goes on alone, whatever is lost by it. After a takeover that did not come about, its base is
    /// what is gone on from, as that was signed.
    pub(super) fn recover_alone(&mut self) {
        let active = self.now < self.quorum_at + QUORUM_LOST_MS;
        if !self.ready || active || self.degraded {
            return;
        }
        if let (Some(record), Some(base)) = (self.offer.take(), self.base.take())
            && Some(record.body()) == self.fenced
        {
            self.begin(record, base);
        }
        if self.fenced.is_some() {
            return;
        }
        let conf = self.raft.conf().ids();
        self.make_offer(&SortedSet::from([self.me]), &conf, false);
    }

    fn make_offer(&mut self, survivors: &SortedSet<u64>, voters: &SortedSet<u64>, lossless: bool) {
        let keys = survivors.iter().map(|id| Some((*id, self.key_of(*id)?)));
        let (Some(keys), Some(parent)) = (
            keys.collect::<Option<SortedMap<_, _>>>(),
            self.records.last(),
        ) else {
            return;
        };
        let number = parent.number + 1;
        let index = self.machine.index;
        let Some(mut tail) = self.raft.entries_after(index) else {
            return;
        };
        for entry in &mut tail {
            entry.term = 1;
            entry.config = false;
        }
        let members = self.machine.members.keys().copied();
        let lost: Vec<u64> = match lossless {
            true => voters.difference(survivors).copied().collect(),
            false => members.clone().filter(|id| *id != self.me).collect(),
        };
        let learners = members
            .filter(|id| !survivors.contains(id) && !lost.contains(id))
            .collect();
        let data = encode(&Command::Remove(lost, Why::Lost));
        tail.push(Entry {
            term: 1,
            config: false,
            data,
        });
        let base = Base {
            machine: self.machine.store(),
            index,
            conf: Conf {
                voters: survivors.clone(),
                learners,
                ..Default::default()
            },
            tail,
        };
        let blob = Blob::Base(base.clone());
        if blob.len() > limits::SNAPSHOT_BYTES {
            return;
        }
        let mut nonce = [0; 32];
        for byte in &mut nonce {
            *byte = self.random() as u8;
        }
        let mut record = Record {
            room: self.config.room,
            number,
            parent: self.epoch,
            base: self.raft.last(),
            settled: index,
            base_hash: blob.hash(),
            survivors: keys,
            lossless,
            nonce,
            signatures: SortedMap::new(),
        };
        let body = record.body();
        record
            .signatures
            .insert(self.me, self.config.keys.sign(&body));
        self.fence(body);
        self.offer = Some(record);
        self.base = Some(base);
        self.surveyed_at = 0;
        self.offer_again();
    }

    fn fence(&mut self, body: Hash) {
        self.fenced = Some(body);
        if self.raft.is_leader() {
            self.raft.step_down();
        }
        self.joins.clear();
    }

    /// Who has signed does nothing in the old epoch any more, but sees that others do.
    pub(super) fn hear_of_the_old_epoch(&mut self, from: u64, message: &Message) {
        let leads = matches!(message.kind, Kind::Append { .. } | Kind::Heartbeat { .. });
        if leads && message.term >= self.raft.term() && self.raft.conf().is_voter(from) {
            let since = self
                .left_behind
                .filter(|(_, last)| self.now < last + QUORUM_LOST_MS);
            self.left_behind = Some((since.map_or(self.now, |(since, _)| since), self.now));
        }
    }

    fn is_left_behind(&self) -> bool {
        self.left_behind
            .is_some_and(|(since, last)| last >= since + LEFT_BEHIND_MS)
    }

    /// Begins when all have signed, and until then asks those again who have not.
    fn offer_again(&mut self) {
        let Some(record) = self.offer.clone() else {
            return;
        };
        if record.is_signed(&*self.config.keys) {
            return self.begin_offered(record);
        }
        if self.now < self.surveyed_at + REPEAT_MS {
            return;
        }
        self.surveyed_at = self.now;
        let Some(blob) = self.base.clone().map(Blob::Base) else {
            return;
        };
        for id in record
            .survivors
            .keys()
            .filter(|id| !record.signatures.contains_key(id))
        {
            self.send_blob(*id, &blob);
            self.send(*id, &Body::Offer(record.clone()));
        }
    }

    pub(super) fn hear_base(&mut self, hash: Hash, base: Base) {
        if self.fenced.is_some() {
            return;
        }
        // Kept until an offer names it; a later one takes its place.
        let known = self.offer.as_ref().is_some_and(|it| it.base_hash == hash);
        self.base = Some(base);
        if known && let Some(record) = self.offer.clone() {
            self.hear_offer(record);
        }
    }

    pub(super) fn hear_offer(&mut self, record: Record) {
        let body = record.body();
        if self.fenced.is_none() {
            self.offer = Some(record.clone());
            if !self.may_sign(&record) {
                return;
            }
            self.fence(body);
        } else if self.fenced != Some(body) {
            return self.refuse("signed another");
        }
        let signature = self.config.keys.sign(&body);
        let Some(offer) = self.offer.as_mut() else {
            return;
        };
        offer.signatures.extend(record.signatures);
        offer.signatures.insert(self.me, signature);
        let me = self.me;
        for id in record.survivors.keys().filter(|id| **id != me) {
            self.send(*id, &Body::Signed(body, signature));
        }
        self.offer_again();
    }

    /// Whether a successor may be signed: it follows on this epoch, its base is here, and nothing
    /// that is here is missing in it.
    fn may_sign(&self, record: &Record) -> bool {
        let Some(base) = &self.base else { return false };
        let hash = Blob::Base(base.clone()).hash();
        let length = base.index + base.tail.len() as u64;
        let machine = Machine::load(&base.machine);
        self.ready
            && !self.degraded
            && self.now >= self.quorum_at + QUORUM_LOST_MS
            && record.room == self.config.room
            && record.parent == self.epoch
            && record.lossless
            && self
                .records
                .last()
                .is_some_and(|it| record.number == it.number + 1)
            && record.survivors.get(&self.me) == Some(&self.config.keys.key())
            && record
                .survivors
                .iter()
                .all(|(id, key)| self.key_of(*id) == Some(*key))
            && self.raft.last() <= record.base
            && hash == record.base_hash
            && length == record.base.index + 1
            && record.settled == base.index
            && base.tail.iter().all(|it| it.term == 1 && !it.config)
            && base.conf.is_valid()
            && base.conf.outgoing.is_empty()
            && base.conf.voters.iter().eq(record.survivors.keys())
            && machine.is_some_and(|it| it.index == base.index && it.room == self.config.room)
    }

    pub(super) fn hear_signed(&mut self, from: u64, body: Hash, signature: crate::keys::Signature) {
        let Some(record) = self.offer.as_mut().filter(|_| self.fenced == Some(body)) else {
            return;
        };
        let key = record.survivors.get(&from);
        if key.is_some_and(|key| self.config.keys.verify(key, &body, &signature)) {
            record.signatures.insert(from, signature);
        }
        self.offer_again();
    }

    pub(super) fn hear_begin(&mut self, record: Record) {
        if record.is_signed(&*self.config.keys) && self.can_begin(&record) {
            self.begin_offered(record);
        }
    }

    /// Whether this is the successor that was signed, and its base is here.
    pub(super) fn can_begin(&self, record: &Record) -> bool {
        self.fenced == Some(record.body()) && self.base.is_some()
    }

    pub(super) fn begin_offered(&mut self, record: Record) {
        let Some(base) = self.base.take() else { return };
        let lossless = record.lossless;
        let me = self.me;
        for id in record.survivors.keys().filter(|id| **id != me) {
            self.send(*id, &Body::Begin(record.clone()));
        }
        self.begin(record, base);
        self.out.events.push(Event::Recovered(self.epoch, lossless));
    }
}
