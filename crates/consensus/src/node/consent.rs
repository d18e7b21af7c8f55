//! Rooms in which a change needs the members' consent ([`Approval::Majority`]).
//!
//! 1. The leader asks all members about a proposal ([`Body::Consider`]). Its author has agreed.
//! 2. Each member asks its application ([`Event::Consider`]) and signs the answer.
//! 3. When more than half agree, or cannot any more, or after [`CONSIDER_MS`], the leader appends the
//!    proposal with the answers. Every member counts them when it applies it.
//!
//! Proposals of one session keep their order, and those that need no consent wait in it as well.

use super::*;
use crate::session::{Vote, vote_digest};

/// A proposal that a majority has not agreed to after this is refused.
const CONSIDER_MS: u64 = 15_000;
/// Members that have not answered are asked again after this.
const ASK_AGAIN_MS: u64 = 2_000;

/// A proposal that members are asked about, at the leader.
pub(super) struct Asked {
    proposal: Proposal,
    digest: Hash,
    since: u64,
    asked: u64,
    votes: SortedMap<u64, Vote>,
}

/// A proposal that the application is asked about, and its signed answer.
pub(super) struct Considered {
    digest: Hash,
    answer: Option<(bool, Signature)>,
}

impl Node {
    /// Takes in a proposal whose turn it is, to be appended when it is agreed to.
    pub(super) fn ask_consent(&mut self, proposal: Proposal) {
        if self.asked.len() >= limits::CONSIDERED {
            return;
        }
        let key = (proposal.session, proposal.sequence);
        let asked = Asked {
            digest: proposal.digest(&self.config.room, &self.epoch),
            proposal,
            since: self.now,
            asked: 0,
            votes: SortedMap::new(),
        };
        self.asked.insert(key, asked);
        self.watch_consent();
    }

    /// The last sequence of a session that is appended or asked about.
    pub(super) fn last_asked(&self, session: SessionId) -> u64 {
        let mut asked = self.asked.range((session, 0)..=(session, u64::MAX));
        asked.next_back().map_or(0, |((_, sequence), _)| *sequence)
    }

    /// Asks who has not answered, and appends what is decided.
    pub(super) fn watch_consent(&mut self) {
        let due = |it: &&mut Asked| it.asked == 0 || self.now >= it.asked + ASK_AGAIN_MS;
        let mut questions = Vec::new();
        for asked in self.asked.values_mut().filter(due) {
            asked.asked = self.now.max(1);
            let author = self.machine.sessions.get(&asked.proposal.session);
            for (id, member) in &self.machine.members {
                let is_author = author.is_some_and(|it| it.key == member.key);
                if !is_author && !asked.votes.contains_key(id) {
                    questions.push((*id, asked.proposal.clone()));
                }
            }
        }
        for (id, proposal) in questions {
            if !matches!(proposal.payload, Payload::Change(_)) {
                continue;
            }
            match id == self.me {
                true => self.hear_consider(self.me, proposal),
                false => self.send(id, &Body::Consider(proposal)),
            }
        }
        let mut before = None;
        let mut decided = Vec::new();
        for (key, asked) in &self.asked {
            // Of each session only the first: they count in their order.
            if before.replace(key.0) != Some(key.0) && self.is_decided(asked) {
                decided.push(*key);
            }
        }
        for key in decided {
            let Some(asked) = self.asked.remove(&key) else {
                continue;
            };
            let votes = asked.votes.values().cloned().collect();
            let command = Command::Propose(self.now, asked.proposal.clone(), votes);
            if self.raft.propose(encode(&command)) {
                self.proposed.insert(key.0, key.1);
            } else {
                self.asked.insert(key, asked);
            }
        }
    }

    fn is_decided(&self, asked: &Asked) -> bool {
        let members = &self.machine.members;
        let votes = asked.votes.values();
        let votes: Vec<&Vote> = votes
            .filter(|it| members.contains_key(&it.member))
            .collect();
        let against = votes.iter().filter(|it| !it.agrees).count();
        // With the author's.
        let agree = votes.len() - against + 1;
        !matches!(asked.proposal.payload, Payload::Change(_))
            || 2 * agree > members.len()
            || 2 * against >= members.len()
            || self.now >= asked.since + CONSIDER_MS
    }

    /// Asks the application about another's change, once; says again what it answered.
    pub(super) fn hear_consider(&mut self, from: u64, proposal: Proposal) {
        let digest = proposal.digest(&self.config.room, &self.epoch);
        let known = self.considered.iter().find(|it| it.digest == digest);
        if let Some(answer) = known.map(|it| it.answer) {
            return self.tell_answer(from, digest, answer);
        }
        let author = self.machine.sessions.get(&proposal.session);
        let author = author.map(|it| it.key);
        let (keys, room) = (&*self.config.keys, &self.config.room);
        let signed = author.filter(|key| proposal.is_signed(keys, key, room, &self.epoch));
        let (Some(author), Payload::Change(change)) = (signed, proposal.payload) else {
            return self.refuse("nothing to consider");
        };
        self.considered.push_back(Considered {
            digest,
            answer: None,
        });
        if self.considered.len() > limits::CONSIDERED {
            self.considered.pop_front();
        }
        self.out.events.push(Event::Consider {
            proposal: digest,
            author,
            change,
        });
    }

    /// The application has answered.
    pub(super) fn considered(&mut self, digest: Hash, agrees: bool) {
        let signature = self.config.keys.sign(&vote_digest(&digest, agrees));
        let mut open = self.considered.iter_mut();
        let Some(considered) = open.find(|it| it.digest == digest && it.answer.is_none()) else {
            return;
        };
        considered.answer = Some((agrees, signature));
        let leader = self.raft.leader();
        self.tell_answer(leader, digest, Some((agrees, signature)));
    }

    fn tell_answer(&mut self, to: u64, digest: Hash, answer: Option<(bool, Signature)>) {
        let Some((agrees, signature)) = answer else {
            return;
        };
        if to == self.me {
            self.hear_considered(self.me, digest, agrees, signature);
        } else if to != 0 {
            self.send(to, &Body::Considered(digest, agrees, signature));
        }
    }

    pub(super) fn hear_considered(
        &mut self,
        from: u64,
        digest: Hash,
        agrees: bool,
        signature: Signature,
    ) {
        let body = vote_digest(&digest, agrees);
        let key = self.machine.members.get(&from).map(|it| it.key);
        if !key.is_some_and(|key| self.config.keys.verify(&key, &body, &signature)) {
            return self.refuse("forged");
        }
        let Some(asked) = self.asked.values_mut().find(|it| it.digest == digest) else {
            return;
        };
        let vote = Vote {
            member: from,
            agrees,
            signature,
        };
        asked.votes.entry(from).or_insert(vote);
        if self.raft.is_leader() && !self.is_fenced() {
            self.watch_consent();
        }
    }
}
