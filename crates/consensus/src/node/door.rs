//! The door: who asks to be admitted, and what voters say for it.
//!
//! 1. A newcomer waits in line until its Join can be proposed ([`Node::admit`]).
//! 2. Each voter that applies the Join tells the leader that it follows it, about the newcomer's nonce.
//! 3. With a majority of these the newcomer is welcomed ([`Event::Admitted`]).

use super::*;
use crate::attest::Attestation;

/// A newcomer whose Join is committed, and that a majority has not spoken for in so long, is refused.
const ATTEST_MS: u64 = 10_000;

/// A newcomer that is a member already, and is to be shown so.
pub(super) struct Guest {
    attestation: Attestation,
    since: u64,
}

impl Node {
    pub(super) fn admit(&mut self, mut newcomer: Newcomer) {
        newcomer.replaces = self.machine.find(&newcomer.key);
        #[cfg(feature = "mutations")]
        {
            if let Some(id) = newcomer
                .replaces
                .filter(|_| self.breaks(Mutation::ReuseIds))
            {
                self.welcome_unproven(id, &newcomer);
                return;
            }
            if self.breaks(Mutation::StaleWelcome) && self.raft.is_leader() {
                self.welcome_unproven(self.raft.last().index + 1, &newcomer);
            }
        }
        let refusal = match () {
            () if !self.raft.is_settled() || self.is_fenced() => Some("no-quorum"),
            () if self.joins.len() >= limits::NEWCOMERS => Some("rate-limited"),
            () => self.machine.refusal(&newcomer),
        };
        if let Some(code) = refusal {
            let event = Event::Refused(newcomer.key, newcomer.nonce, code);
            return self.out.events.push(event);
        }
        // Of the same key only the latest counts.
        self.joins.retain(|it| it.key != newcomer.key);
        self.joins.push_back(newcomer);
        self.lead();
    }

    pub(super) fn next_join(&mut self) {
        while let Some(mut newcomer) = self.joins.pop_front() {
            newcomer.replaces = self.machine.find(&newcomer.key);
            if let Some(code) = self.machine.refusal(&newcomer) {
                let event = Event::Refused(newcomer.key, newcomer.nonce, code);
                self.out.events.push(event);
                continue;
            }
            // The leader itself cannot be replaced by its own commit.
            if newcomer.replaces == Some(self.me) || !self.change(Command::Join(newcomer.clone())) {
                self.joins.push_front(newcomer);
            }
            break;
        }
    }

    pub(super) fn joins_refused(&mut self) {
        for newcomer in std::mem::take(&mut self.joins) {
            let event = Event::Refused(newcomer.key, newcomer.nonce, "no-quorum");
            self.out.events.push(event);
        }
    }

    #[cfg(feature = "mutations")]
    fn welcome_unproven(&mut self, id: u64, newcomer: &Newcomer) {
        let leads = (self.raft.term(), self.me);
        let conf = self.raft.conf().clone();
        self.welcome(Attestation::new(self.epoch, leads, id, newcomer, conf));
    }

    /// A Join is applied: whoever votes tells the leader that it follows it still.
    pub(super) fn attest(&mut self, id: u64, newcomer: &Newcomer) {
        let leads = (self.raft.term(), self.raft.leader());
        let conf = self.raft.conf().clone();
        let attestation = Attestation::new(self.epoch, leads, id, newcomer, conf);
        let guest = Guest {
            attestation,
            since: self.now,
        };
        self.guests.insert(id, guest);
        while self.guests.len() > limits::NEWCOMERS {
            self.guests.pop_first();
        }
        self.speak_for(id);
    }

    /// Signs for a newcomer, if it came into a configuration that this member votes in, while it
    /// follows someone.
    pub(super) fn speak_for(&mut self, id: u64) {
        let (term, leader) = (self.raft.term(), self.raft.leader());
        let Some(guest) = self.guests.get_mut(&id) else {
            return;
        };
        if leader == 0 || self.fenced.is_some() || !guest.attestation.conf.is_voter(self.me) {
            return;
        }
        if self.me != leader {
            (guest.attestation.term, guest.attestation.leader) = (term, leader);
        }
        let signature = self.config.keys.sign(&guest.attestation.digest());
        match self.me == leader {
            true => self.hear_attested(self.me, id, signature),
            false => self.send(leader, &Body::Attested(id, signature)),
        }
    }

    /// Welcomes a newcomer when a majority has spoken for it.
    pub(super) fn hear_attested(&mut self, from: u64, id: u64, signature: Signature) {
        let Some(guest) = self.guests.get_mut(&id) else {
            return;
        };
        let attestation = &mut guest.attestation;
        let mine = attestation.leader == self.me && attestation.term == self.raft.term();
        if !mine || !self.raft.is_leader() || !attestation.conf.is_voter(from) {
            return;
        }
        attestation.signatures.insert(from, signature);
        let attestation = attestation.clone();
        let (keys, key_of) = (&*self.config.keys, |id| self.key_of(id));
        if !attestation.is_proven(keys, key_of) {
            return;
        }
        self.guests.remove(&id);
        self.welcome(attestation);
    }

    pub(super) fn welcome(&mut self, attestation: Attestation) {
        let members = self.machine.members.iter().map(|(id, it)| (*id, it.key));
        let voters = attestation.conf.ids().into_iter();
        let voters = voters.filter_map(|id| Some((id, self.key_of(id)?)));
        let roster: SortedMap<u64, Key> = members.chain(voters).collect();
        let (key, nonce) = (attestation.key, attestation.nonce);
        let welcome = Welcome {
            records: self.records.clone(),
            roster: roster.into_iter().collect(),
            attestation,
        };
        let event = Event::Admitted(key, nonce, Box::new(welcome));
        self.out.events.push(event);
    }

    /// Asks again for what has not come, and gives up what does not come.
    pub(super) fn watch_guests(&mut self) {
        let now = self.now;
        let late = self.guests.extract_if(|_, it| now >= it.since + ATTEST_MS);
        let late: Vec<Guest> = late.map(|(_, it)| it).collect();
        let mine = |it: &Guest| it.attestation.leader == self.me;
        for guest in late.iter().filter(|it| mine(it)) {
            let (key, nonce) = (guest.attestation.key, guest.attestation.nonce);
            let event = Event::Refused(key, nonce, "no-quorum");
            self.out.events.push(event);
        }
        let own = self.config.keys.key();
        let open = |it: &&Guest| mine(it) && now >= it.since + REPEAT_MS;
        let open: Vec<&Attestation> = self
            .guests
            .values()
            .filter(open)
            .map(|it| &it.attestation)
            .collect();
        let silent = |it: &Attestation| {
            let voters = it.conf.ids().into_iter().filter(|id| it.conf.is_voter(*id));
            let silent = voters.filter(|id| !it.signatures.contains_key(id));
            silent.map(|id| (id, it.id)).collect::<Vec<_>>()
        };
        let questions: Vec<(u64, u64)> = open.into_iter().flat_map(silent).collect();
        if questions.is_empty() || !self.raft.is_leader() || !self.may_tell(&own, b'a') {
            return;
        }
        for (voter, id) in questions {
            if voter != self.me {
                self.send(voter, &Body::Attest(id));
            }
        }
    }
}
