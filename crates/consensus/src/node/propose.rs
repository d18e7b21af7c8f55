//! Own proposals, from the caller's ticket to their outcome.

use super::*;

/// An unanswered proposal is sent again after this.
const RETRY_MS: u64 = 1_000;
/// After this a proposal's outcome is reported as unknown. It is still tried, and may yet be made.
const UPDATE_TIMEOUT_MS: u64 = 30_000;

/// Messages with own proposals that are under way to the leader. Those that come meanwhile wait and
/// travel together, see [`Node::handle_all`].
const UNDER_WAY: usize = 2;

/// A proposal of one's own that waits for its outcome.
pub(super) struct Pending {
    pub(super) ticket: u64,
    pub(super) sequence: u64,
    pub(super) payload: Payload,
    base: Option<u64>,
    since: u64,
    /// When and in which term and epoch it was last sent.
    pub(super) sent: Option<(u64, u64, Hash)>,
    /// The first one in the same message.
    first: u64,
    /// Where it was applied, and with which result.
    pub(super) done: Option<(u64, Result<(), String>)>,
    pub(super) told: bool,
}

impl Node {
    pub(super) fn propose(&mut self, ticket: u64, payload: Payload, base: Option<u64>) {
        let too_large = payload.size() > limits::CHANGE_BYTES;
        if too_large || self.pending.len() >= limits::PENDING {
            let why = if too_large {
                "the change is larger than 64 KiB"
            } else {
                "busy"
            };
            let outcome = Outcome::Rejected(why.to_owned());
            self.out.events.push(Event::Outcome(ticket, outcome));
            return;
        }
        self.sequence += 1;
        self.pending.push_back(Pending {
            ticket,
            sequence: self.sequence,
            payload,
            base,
            since: self.now,
            sent: None,
            first: 0,
            done: None,
            told: false,
        });
    }

    /// Hands own proposals to the leader, again where no answer came. Each is signed for the epoch
    /// it is sent in; session and sequence stay, so that it counts once.
    pub(super) fn send_pending(&mut self) {
        let leader = self.raft.leader();
        let Some(session) = self.session.filter(|_| leader != 0 && !self.is_fenced()) else {
            return;
        };
        let term = self.raft.term();
        let (now, epoch, leads) = (self.now, self.epoch, self.raft.is_leader());
        let is_sent = |it: &Pending| {
            let sent = it
                .sent
                .filter(|(_, sent_in, of)| *sent_in == term && *of == epoch);
            sent.map(|(at, ..)| at)
        };
        // They count only in their order: if one has to be sent again, so have those after it. One's
        // own Raft takes nothing while it hands over the lead, or is full.
        let again = |it: &Pending| is_sent(it).is_some_and(|at| now >= at + RETRY_MS);
        let open = self.pending.iter_mut().filter(|it| it.done.is_none());
        let open: Vec<&mut Pending> = open.collect();
        let first = open
            .iter()
            .position(|it| again(it) || is_sent(it).is_none());
        let Some(first) = first else {
            return;
        };
        let sent: SortedSet<u64> = open.iter().take(first).map(|it| it.first).collect();
        if !leads && sent.len() >= UNDER_WAY {
            return;
        }
        let number = open.get(first).map_or(0, |it| it.sequence);
        let mut bytes = 0;
        let open = open.into_iter().skip(first).take_while(|it| {
            bytes += it.payload.size();
            bytes <= limits::ENTRIES_BYTES
        });
        let mut proposals = Vec::new();
        for pending in open {
            pending.sent = Some((now, term, epoch));
            pending.first = number;
            let mut proposal = Proposal {
                session,
                sequence: pending.sequence,
                base: pending.base,
                payload: pending.payload.clone(),
                signature: Default::default(),
            };
            proposal.sign(&*self.config.keys, &self.config.room, &epoch);
            proposals.push(proposal);
        }
        if leads {
            self.propose_for(proposals);
            self.pump();
        } else {
            self.send(leader, &Body::Propose(proposals));
        }
    }

    /// Takes an own proposal for made as soon as it is in the log.
    #[cfg(feature = "mutations")]
    pub(super) fn settle_early(&mut self, sequence: u64) {
        let index = self.raft.last().index;
        let mut pending = self.pending.iter_mut();
        if let Some(pending) = pending.find(|it| it.sequence == sequence) {
            pending.done = Some((index, Ok(())));
        }
    }

    /// Tells outcomes that are certain.
    pub(super) fn resolve(&mut self) {
        while let Some(pending) = self.pending.front() {
            let Some((index, _)) = pending.done else {
                break;
            };
            if index > self.acknowledged {
                break;
            }
            let Some(pending) = self.pending.pop_front() else {
                break;
            };
            let outcome = match pending.done {
                Some((index, Ok(()))) => Outcome::Committed(index),
                Some((_, Err(why))) => Outcome::Rejected(why),
                None => Outcome::Unknown,
            };
            if !pending.told {
                self.out
                    .events
                    .push(Event::Outcome(pending.ticket, outcome));
            }
        }
    }

    /// Reports as unknown what has waited for too long.
    pub(super) fn give_up(&mut self) {
        for pending in &mut self.pending {
            if !pending.told && self.now >= pending.since + UPDATE_TIMEOUT_MS {
                pending.told = true;
                self.out
                    .events
                    .push(Event::Outcome(pending.ticket, Outcome::Unknown));
            }
        }
    }
}
