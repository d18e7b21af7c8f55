//! Raft's work: what it wants sent, and what it has committed, entry by entry.

use super::*;

/// Entries between two comparisons of states.
const CHECK_ENTRIES: u64 = 64;
/// Comparisons that are remembered; the oldest are forgotten.
pub(super) const CHECKS: usize = 8;

impl Node {
    /// Does what Raft wants done until it wants nothing more, then sends what is to be sent.
    pub(super) fn pump(&mut self) {
        if self.over.is_some() {
            return;
        }
        let mut messages = Vec::new();
        loop {
            let drained = self.raft.drain();
            let mut busy = !drained.messages.is_empty();
            messages.extend(drained.messages);
            if let Some(index) = drained.installed {
                self.install(index);
                busy = true;
            }
            self.to_apply.extend(drained.committed);
            busy |= self.apply_committed();
            if self.over.is_some() {
                return;
            }
            if self.raft.wanted() && self.deciding.is_none() {
                #[allow(unused_mut)]
                let mut machine = self.machine.store();
                #[cfg(feature = "mutations")]
                if self.breaks(Mutation::SessionsNotKept) {
                    let mut forgetful = self.machine.clone();
                    for session in forgetful.sessions.values_mut() {
                        session.last = 0;
                    }
                    machine = forgetful.store();
                }
                #[cfg(feature = "mutations")]
                if self.breaks(Mutation::DoorsNotKept) {
                    let mut forgetful = self.machine.clone();
                    forgetful.doors.truncate(1);
                    machine = forgetful.store();
                }
                self.raft.offer(machine);
                busy = true;
            }
            let before = self.acknowledged;
            self.acknowledge();
            let tells = |(_, message): &(u64, Message)| {
                matches!(message.kind, Kind::Append { .. } | Kind::Heartbeat { .. })
            };
            if self.acknowledged > before && !messages.iter().any(tells) {
                self.raft.ping();
                busy = true;
            }
            if !busy {
                break;
            }
        }
        self.send_all(messages);
        self.resolve();
        self.send_pending();
        self.watch_doorman();
    }

    pub(super) fn acknowledge(&mut self) {
        #[allow(unused_mut)]
        let mut durable = self.raft.durable();
        #[cfg(feature = "mutations")]
        if self.breaks(Mutation::AckOnCommit) && self.raft.is_leader() {
            durable = Some(self.raft.applied_index());
        } else if self.breaks(Mutation::AckHalf) {
            durable = self.raft.on_half();
        }
        if let Some(index) = durable.filter(|_| !self.is_fenced()) {
            self.acknowledged = self.acknowledged.max(index);
        }
    }

    pub(super) fn install(&mut self, index: u64) {
        let Some(machine) = self.incoming.take() else {
            return;
        };
        self.to_apply.clear();
        self.deciding = None;
        self.machine = machine;
        self.raft.applied(index);
        self.checks.clear();
        if index > self.shown {
            self.shown = index;
            self.out.events.push(Event::Replaced(index));
        }
        self.settle_in();
        // What the snapshot has of one's own has its outcome in the table.
        if let Some(session) = self.session.and_then(|id| self.machine.sessions.get(&id)) {
            for pending in &mut self.pending {
                if pending.done.is_none() && pending.sequence <= session.last {
                    let accepted = session.was_accepted(pending.sequence).unwrap_or(true);
                    let result = if accepted {
                        Ok(())
                    } else {
                        Err("refused".to_owned())
                    };
                    pending.done = Some((index, result));
                }
            }
        }
    }

    fn watch_door(&mut self) {
        let door = self.machine.door();
        if door != std::mem::replace(&mut self.door, door) {
            self.out.events.push(Event::Rotated(door));
        }
    }

    /// Whether one is a member, as far as the machine tells.
    pub(super) fn settle_in(&mut self) {
        let Some(member) = self.machine.members.get(&self.me) else {
            return;
        };
        let first = self.session.replace(member.session).is_none();
        if first && !self.machine.doors.contains(&self.door) {
            // Not the room that was asked for.
            return self.end(Why::Lost, Vec::new());
        }
        self.watch_door();
        self.ready = true;
        self.out.events.push(Event::Members);
        if first {
            self.out.events.push(Event::Ready);
        }
    }

    pub(super) fn apply_committed(&mut self) -> bool {
        let mut busy = false;
        while self.deciding.is_none() {
            let Some((index, entry)) = self.to_apply.pop_front() else {
                break;
            };
            busy = true;
            if let Some(event) = self.to_decide(index, &entry) {
                self.deciding = Some(index);
                self.out.events.push(event);
                self.to_apply.push_front((index, entry));
                break;
            }
            self.apply(index, &entry, Ok(None));
            if self.over.is_some() {
                break;
            }
        }
        busy
    }

    /// What the application has to be asked before an entry is applied.
    pub(super) fn to_decide(&self, index: u64, entry: &Entry) -> Option<Event> {
        if !self.config.host || entry.config {
            return None;
        }
        let Some(Command::Propose(time, proposal, votes)) = decode(&entry.data) else {
            return None;
        };
        let epoch = self.epoch_of(index);
        let (machine, keys) = (&self.machine, &*self.config.keys);
        let due = machine.is_due(&proposal, keys, &epoch).is_ok()
            && machine.is_agreed(&proposal, &votes, keys, &epoch);
        let author = self.machine.sessions.get(&proposal.session)?.key;
        match proposal.payload {
            Payload::Change(ref change) if due && self.machine.is_current(&proposal) => {
                let seed = digest("iroh-rooms/seed/1", &[&self.machine.chain]);
                let seed = seed
                    .iter()
                    .take(8)
                    .fold(0, |seed, byte| seed << 8 | u64::from(*byte));
                let change = change.clone();
                Some(Event::Decide {
                    index,
                    author,
                    change,
                    time,
                    seed,
                })
            }
            _ => None,
        }
    }

    pub(super) fn decided(&mut self, index: u64, verdict: Verdict) {
        if self.deciding != Some(index) {
            return;
        }
        let verdict = match verdict {
            Verdict::Accept(state) => Ok(state),
            Verdict::Refuse(why) => Err(why),
            Verdict::Failed => {
                self.degraded = true;
                if self.raft.is_leader() {
                    self.raft.step_down();
                }
                return;
            }
        };
        self.deciding = None;
        if let Some((index, entry)) = self.to_apply.pop_front() {
            self.apply(index, &entry, verdict);
        }
    }

    pub(super) fn apply(
        &mut self,
        index: u64,
        entry: &Entry,
        verdict: Result<Option<Vec<u8>>, String>,
    ) {
        let command = Command::decode(&entry.data);
        let taken = match (&command, entry.config) {
            // Raft's own entry, to leave a joint configuration.
            (None, true) if entry.data.is_empty() => self.raft.apply_change(&[]),
            (Some(command), true) => {
                let changes = self.machine.changes(index, command);
                !changes.is_empty() && self.raft.apply_change(&changes)
            }
            (Some(command), false) => self.is_carried(index, command),
            _ => false,
        };
        let epoch = self.epoch_of(index);
        let keys = self.config.keys.clone();
        let applied = self
            .machine
            .apply(index, &entry.data, taken, &*keys, &epoch, verdict);
        self.raft.applied(index);
        match applied {
            Applied::Nothing => {}
            Applied::Proposal(proposal, result) => self.applied_proposal(index, proposal, result),
            Applied::Void(proposal, why) => {
                let mine = Some(proposal.session) == self.session;
                let pending = self
                    .pending
                    .iter()
                    .any(|it| it.sequence == proposal.sequence);
                if mine && pending && why == "session-expired" {
                    self.end(Why::Lost, Vec::new());
                }
            }
            Applied::Joined(id, newcomer) => self.joined(id, newcomer),
            Applied::Removed(gone, why) => self.removed(gone, why),
        }
        if index.is_multiple_of(CHECK_ENTRIES) {
            self.check(index);
        }
    }

    pub(super) fn applied_proposal(
        &mut self,
        index: u64,
        proposal: Proposal,
        result: Result<(), String>,
    ) {
        if Some(proposal.session) == self.session {
            for pending in &mut self.pending {
                if pending.sequence == proposal.sequence {
                    pending.done = Some((index, result.clone()));
                }
            }
            self.sequence = self.sequence.max(proposal.sequence);
        }
        let Some(author) = self
            .machine
            .sessions
            .get(&proposal.session)
            .map(|it| it.key)
        else {
            return;
        };
        let Payload::Change(change) = proposal.payload else {
            self.out.events.push(Event::Members);
            return self.watch_door();
        };
        if index <= self.shown {
            return;
        }
        self.shown = index;
        if result.is_ok() {
            self.recent_bytes += change.bytes().len();
            self.recent.push_back((index, author, change.clone()));
            while self.recent.len() > limits::RECENT || self.recent_bytes > limits::RECENT_BYTES {
                let Some((.., oldest)) = self.recent.pop_front() else {
                    break;
                };
                self.recent_bytes -= oldest.bytes().len();
            }
        }
        self.out.events.push(Event::Changed {
            index,
            author,
            change,
            result,
        });
    }

    pub(super) fn joined(&mut self, id: u64, newcomer: Newcomer) {
        self.out.events.push(Event::Members);
        self.heard.insert(id, self.now);
        if id == self.me {
            self.settle_in();
        }
        if let Some(old) = newcomer.replaces {
            self.dismiss(old, &newcomer.key);
        }
        self.attest(id, &newcomer);
    }

    pub(super) fn removed(&mut self, gone: Vec<(u64, Key)>, why: Why) {
        self.out.events.push(Event::Members);
        for (id, key) in gone {
            self.out.events.push(Event::Removed(key, why));
            self.dismiss(id, &key);
            if id == self.me {
                self.end(if self.going { Why::Left } else { why }, Vec::new());
            }
        }
    }

    /// Tells a former member that it is one no more, which its own Raft cannot: the leader sends it
    /// nothing any more, not even this.
    pub(super) fn dismiss(&mut self, id: u64, key: &Key) {
        self.roster.insert(id, *key);
        self.leaving.remove(&id);
        self.stable.remove(&id);
        self.transfers.remove(&id);
        self.guests.remove(&id);
        self.heard.remove(&id);
        self.gone.remove(&id);
        self.ended.remove(&id);
        while self.roster.len() > limits::MEMBERS * 4 {
            self.roster.pop_first();
        }
        if self.raft.is_leader() {
            self.send(id, &Body::Removed);
        }
        if id == self.me && !self.machine.members.contains_key(&self.me) {
            self.end(Why::Replaced, Vec::new());
        }
    }

    pub(super) fn check(&mut self, index: u64) {
        let check = Check {
            index,
            chain: self.machine.chain,
            state: self.machine.state.hash(),
        };
        if let Some(claim) = self.claims.remove(&index) {
            self.compare(check, claim);
        }
        self.checks.insert(index, check);
        while self.checks.len() > CHECKS {
            self.checks.pop_first();
        }
        if self.raft.is_leader() {
            for id in self.others() {
                self.send(id, &Body::Check(check));
            }
        }
    }

    pub(super) fn compare(&mut self, ours: Check, theirs: Check) {
        if ours.chain != theirs.chain {
            self.out.events.push(Event::IntegrityFault(ours.index));
        } else if ours.state != theirs.state {
            self.out.events.push(Event::Divergence(ours.index));
        }
    }
}
