//! What a leader does besides leading: who votes, and what others propose.

use super::*;
use crate::conf;
use crate::membership::{Seen, Step, plan};

/// A leaver asks the leader this often to be removed.
const LEAVE_MS: u8 = b'g';
/// How far a learner may be behind and still keep up.
const LAG: u64 = 16;

impl Node {
    /// One step of what is due, if nothing else is under way.
    pub(super) fn lead(&mut self) {
        if !self.raft.is_settled() || self.is_fenced() {
            self.joins_refused();
            self.stable.clear();
            if !self.raft.is_leader() {
                self.asked.clear();
            }
            return;
        }
        self.watch_consent();
        self.watch_members();
        self.watch_guests();
        if !self.raft.can_change() {
            return;
        }
        if self.raft.is_joint() {
            // Left behind by a leader before.
            self.raft.propose_change(&[], Vec::new());
        } else if let Some(change) = self.misaligned() {
            self.change(Command::Align(vec![change]));
        } else if let Some(command) = self.next_step() {
            self.change(command);
        } else {
            self.next_join();
        }
    }

    pub(super) fn change(&mut self, command: Command) -> bool {
        let index = self.raft.last().index + 1;
        let changes = self.machine.changes(index, &command);
        !changes.is_empty() && self.raft.propose_change(&changes, encode(&command))
    }

    fn watch_members(&mut self) {
        let commit = self.raft.commit();
        for id in self.raft.conf().ids() {
            if self.raft.matched(id) + LAG >= commit {
                self.stable.entry(id).or_insert(self.now);
            } else {
                self.stable.remove(&id);
            }
            self.heard.entry(id).or_insert(self.now);
        }
        let banned = |it: &Member| self.machine.banned.contains(&it.key);
        let kicked = self.machine.members.iter().filter(|(_, it)| banned(it));
        let kicked: Vec<u64> = kicked.map(|(id, _)| *id).collect();
        for id in kicked {
            self.leaving.insert(id, Why::Kicked);
        }
        if self.leaving.contains_key(&self.me) || self.going {
            self.hand_over();
        }
    }

    /// What an epoch's beginning left different between the members and Raft's configuration.
    fn misaligned(&self) -> Option<conf::Change> {
        let conf = self.raft.conf();
        let members = &self.machine.members;
        let extra = conf.ids().into_iter().find(|id| !members.contains_key(id));
        let missing = members.keys().find(|id| !conf.contains(**id));
        extra
            .filter(|id| *id != self.me)
            .map(conf::Change::Remove)
            .or(missing.map(|id| conf::Change::Learner(*id)))
    }

    fn next_step(&self) -> Option<Command> {
        let seen: Vec<Seen> = self
            .machine
            .members
            .iter()
            .map(|(id, member)| {
                let heard = self.heard.get(id).copied().unwrap_or(self.now);
                let mine = *id == self.me;
                let going = self.going.then_some(Why::Left);
                Seen {
                    id: *id,
                    priority: member.priority,
                    silent: if mine {
                        0
                    } else {
                        self.now.saturating_sub(heard)
                    },
                    stable: self.stable.get(id).map(|at| self.now.saturating_sub(*at)),
                    leaving: self.leaving.get(id).copied().or(going.filter(|_| mine)),
                }
            })
            .collect();
        let step = plan(self.me, self.raft.conf(), &seen, self.config.voters)?;
        Some(match step {
            Step::Remove(id, why) => Command::Remove(vec![id], why),
            Step::Promote(id) => Command::Promote(id),
            Step::Demote(id) => Command::Demote(id),
        })
    }

    /// Hands the lead to the voter that is suited best and keeps up.
    pub(super) fn hand_over(&mut self) {
        let voters = self.raft.conf().voters.clone();
        let members = &self.machine.members;
        let fit = voters
            .into_iter()
            .filter(|id| *id != self.me && !self.leaving.contains_key(id));
        let best = fit.max_by_key(|id| {
            let lag = self
                .raft
                .last()
                .index
                .saturating_sub(self.raft.matched(*id));
            (
                members.get(id).map(|it| it.priority),
                std::cmp::Reverse(lag),
            )
        });
        if let Some(best) = best.filter(|_| self.raft.is_leader()) {
            self.raft.transfer(best);
        }
    }

    /// Asks to be removed, until it has happened.
    pub(super) fn leave(&mut self) {
        if !self.going || self.over.is_some() {
            return;
        }
        let others = self.machine.members.keys().any(|id| *id != self.me);
        if !self.ready || !others {
            return self.end(Why::Left, Vec::new());
        }
        let leader = self.raft.leader();
        let key = self.config.keys.key();
        if leader != 0 && leader != self.me && self.may_tell(&key, LEAVE_MS) {
            self.send(leader, &Body::Leave);
        }
    }

    // --- Proposals of others ------------------------------------------------------------------

    /// Appends proposals that may count; each only once in a term, however often it is asked for.
    pub(super) fn propose_for(&mut self, proposals: Vec<Proposal>) {
        if !self.raft.is_leader() || self.is_fenced() {
            return;
        }
        if self.proposed_in != self.raft.term() {
            self.proposed_in = self.raft.term();
            self.proposed.clear();
            self.asked.clear();
        }
        for proposal in proposals.into_iter().take(limits::PENDING) {
            let Some(session) = self.machine.sessions.get(&proposal.session) else {
                self.refuse("no such session");
                continue;
            };
            let proposed = self.proposed.get(&proposal.session).copied().unwrap_or(0);
            let asked = self.last_asked(proposal.session);
            let next = proposed.max(session.last).max(asked) + 1;
            if proposal.sequence != next {
                continue;
            }
            if proposal.payload.size() > limits::CHANGE_BYTES {
                self.refuse("a change too large");
                continue;
            }
            let (keys, room) = (&*self.config.keys, &self.config.room);
            if !proposal.is_signed(keys, &session.key, room, &self.epoch) {
                self.refuse("forged");
                continue;
            }
            if self.machine.consent {
                self.ask_consent(proposal);
                continue;
            }
            let id = proposal.session;
            let command = Command::Propose(self.now, proposal, Vec::new());
            if self.raft.propose(encode(&command)) {
                self.proposed.insert(id, next);
                #[cfg(feature = "mutations")]
                if self.breaks(Mutation::AckHalf) && Some(id) == self.session {
                    self.settle_early(next);
                }
            }
        }
    }
}
