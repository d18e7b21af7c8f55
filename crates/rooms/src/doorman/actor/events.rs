//! What consensus tells, what handles ask, and how the one answers the other.

use iroh_rooms_sorted::SortedSet;

use iroh::{EndpointId, SecretKey};
use iroh_rooms_consensus::{
    self as consensus, Input, Node, Outcome, Verdict,
    keys::{Hash, Key},
    machine::{Command as Entry, Why},
    session::Payload,
    state::State,
};
use n0_future::time::Instant;
use serde_json::Value;

use super::{Actor, FORKED, MAX_GONE, guests::Asked};
use crate::{
    Error,
    doorman::{
        Command, Recovery, Reply,
        questions::{CONSIDER, DECIDE, Question, QuestionKind},
        view::{self, id_of, lock, parts, raw},
    },
    event::{Ending, Event, LeftReason, Orphan},
};

/// Who waits for the outcome of a proposal.
pub(super) enum Proposal {
    /// For the index at which it was made.
    Index(Reply<u64>),
    /// For the new room id.
    Door(EndpointId, Reply<EndpointId>),
}

impl Proposal {
    pub(super) fn tell(self, outcome: Result<u64, Error>) {
        // Who has stopped waiting does not want it.
        match self {
            Self::Index(reply) => drop(reply.send(outcome)),
            Self::Door(door, reply) => drop(reply.send(outcome.map(|_| door))),
        }
    }
}

impl Actor {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Propose {
                payload,
                base,
                reply,
            } => self.propose(payload, base, Some(Proposal::Index(reply))),
            Command::Kick { who, reply } => match self.find(&who) {
                Some(key) => {
                    self.propose(Payload::Kick(key), None, Some(Proposal::Index(reply)));
                }
                None => {
                    let why = format!("nobody here is called {who:?}");
                    let _ = reply.send(Err(Error::InvalidArgument(why)));
                }
            },
            Command::Rotate { reply } => self.rotate(reply),
            Command::Recover { reply } => {
                let _ = reply.send(self.recover());
            }
            Command::HandOver => self.step(Input::HandOver),
            Command::Answer(question, answer) => self.answer(question, &answer),
            Command::LeaveNow => self.leave_now(),
            Command::Resume => self.resume(),
            Command::Leave { reply } => self.leave(Some(reply)),
        }
    }

    /// The key of a participant, by its name or its endpoint.
    fn find(&self, who: &str) -> Option<Key> {
        let participants = lock(&self.shared).participants();
        let mut found = participants.iter();
        let found = found.find(|it| it.participant_id == who);
        let id = found.map(|it| it.id).or_else(|| who.parse().ok());
        id.map(|id| *id.as_bytes())
    }

    /// Puts a proposal to what is to be done when all commands that wait are taken.
    pub(super) fn propose(
        &mut self,
        payload: Payload,
        base: Option<u64>,
        proposal: Option<Proposal>,
    ) {
        let status = lock(&self.shared).node.as_ref().map(Node::status);
        // Who leads has a quorum, even if it was not told so yet.
        let can = status.is_some_and(|it| it.ready && !it.fenced && (it.leads || !it.quorum_lost));
        if !can || self.leaving.is_some() || self.away {
            let error = match self.leaving.is_some() {
                true => Error::Closed("room"),
                false => Error::NoQuorum,
            };
            proposal
                .into_iter()
                .for_each(|it| it.tell(Err(error.clone())));
            return;
        }
        self.count += 1;
        let ticket = self.count;
        if let Some(proposal) = proposal {
            self.proposals.insert(ticket, proposal);
        }
        self.todo.push_back(Input::Propose {
            ticket,
            payload,
            base,
        });
    }

    fn rotate(&mut self, reply: Reply<EndpointId>) {
        let key = SecretKey::from_bytes(&rand::random());
        let door = key.public();
        // Who votes may lead when it is made, and must then hold the key.
        let voters: SortedSet<Key> = {
            let shared = lock(&self.shared);
            let consensus = shared.consensus();
            consensus.voters.iter().map(|it| *it.as_bytes()).collect()
        };
        if let Some(mesh) = &mut self.mesh {
            mesh.hand_key(door.as_bytes(), &key.to_bytes(), &voters);
        }
        self.learn_key(key);
        let payload = Payload::Rotate(*door.as_bytes());
        self.propose(payload, None, Some(Proposal::Door(door, reply)));
    }

    fn recover(&mut self) -> Result<(), Error> {
        if self.options.recovery == Recovery::Never {
            return Err(Error::InvalidArgument(
                "this room was entered with `recovery: 'never'`".into(),
            ));
        }
        let lost = {
            let shared = lock(&self.shared);
            let status = shared.node.as_ref().map(Node::status);
            status.is_some_and(|it| it.quorum_lost || it.fenced)
        };
        if !lost {
            return Err(Error::InvalidArgument(
                "there is nothing to recover from".into(),
            ));
        }
        self.step(Input::Recover);
        Ok(())
    }

    pub(super) fn event(&mut self, event: consensus::Event) {
        use consensus::Event as Told;
        match event {
            Told::Ready | Told::Members => {
                if let Some(why) = self.misfit() {
                    self.step_later_leave();
                    return self.fail(Error::InvalidArgument(why.into()));
                }
                lock(&self.shared).kept = None;
                self.watch_members();
                self.tell_doorman();
            }
            Told::Removed(key, why) => self.removed(&key, why),
            // Told to readers when it happened.
            Told::Changed { .. } => {}
            Told::Replaced(_) => self.watch_members(),
            Told::Outcome(ticket, outcome) => {
                if let Some(proposal) = self.proposals.remove(&ticket) {
                    proposal.tell(match outcome {
                        Outcome::Committed(index) => Ok(index),
                        Outcome::Rejected(why) => Err(Error::UpdateRejected(why)),
                        Outcome::Unknown => Err(Error::UpdateUnknown),
                    });
                }
            }
            Told::Doorman(..) => self.tell_doorman(),
            Told::Admitted(key, nonce, welcome) => self.admitted(&key, &nonce, &welcome),
            Told::Refused(key, nonce, code) => self.refused(&key, &nonce, code),
            Told::QuorumLost => self.quorum_lost(),
            Told::QuorumRestored => self.emit(Event::QuorumRestored),
            Told::Recovered(epoch, lossless) => self.recovered(&epoch, lossless),
            Told::ForkDetected => {
                lock(&self.shared).forked = Some(Instant::now() + FORKED);
                self.emit(Event::ForkDetected);
            }
            Told::Divergence(index) => self.emit(Event::Divergence { index }),
            Told::IntegrityFault(index) => self.emit(Event::IntegrityFault { index }),
            Told::Rotated(door) => {
                self.watch_members();
                if let Some(id) = id_of(&door) {
                    self.emit(Event::Rotated { id: id.to_z32() });
                }
            }
            Told::Decide {
                index,
                author,
                change,
                time,
                seed,
            } => {
                let state = lock(&self.shared)
                    .node
                    .as_ref()
                    .and_then(|it| raw(&it.machine().state));
                let (change_kind, change) = parts(&change);
                let asked = Asked::Decide(index);
                let kind = id_of(&author)
                    .zip(state)
                    .map(|(author, state)| QuestionKind::Decide {
                        change,
                        change_kind,
                        author,
                        index,
                        time,
                        seed: format!("{seed:016x}"),
                        state,
                    });
                self.ask(asked, kind, DECIDE);
            }
            Told::Consider {
                proposal,
                author,
                change,
            } => {
                if !self.options.validate {
                    return self.todo.push_back(Input::Considered(proposal, true));
                }
                let (change_kind, change) = parts(&change);
                let kind = id_of(&author).map(|author| QuestionKind::Consider {
                    change,
                    change_kind,
                    author,
                });
                self.ask(Asked::Consider(proposal), kind, CONSIDER);
            }
            Told::Over(why, orphaned) => self.ended(why, orphaned),
        }
    }

    /// What this application lacks, or has too much, for the room's state.
    fn misfit(&self) -> Option<&'static str> {
        let shared = lock(&self.shared);
        let node = shared.node.as_ref().filter(|it| it.status().ready)?;
        match (&node.machine().state, self.options.reducer) {
            (State::Opaque(_), false) => {
                Some("the state of this room is made by a reducer: enter it with the same one")
            }
            (State::Json(..), true) => {
                Some("the state of this room is made without a reducer: enter it without one")
            }
            _ => None,
        }
    }

    /// Has itself removed, if there is time for it.
    fn step_later_leave(&mut self) {
        self.todo.push_back(Input::Leave);
    }

    fn removed(&mut self, key: &Key, why: Why) {
        let reason = match why {
            Why::Left => LeftReason::Left,
            Why::Kicked => LeftReason::Kicked,
            Why::Silent | Why::Lost => LeftReason::Timeout,
            Why::Replaced => return,
        };
        if let Some(id) = id_of(key) {
            if self.gone.len() >= MAX_GONE {
                self.gone.pop_first();
            }
            self.gone.insert(id, reason);
        }
    }

    pub(super) fn tell_doorman(&mut self) {
        if !matches!(*self.ready.borrow(), Some(Ok(()))) {
            return;
        }
        let (doorman, participant_id) = {
            let shared = lock(&self.shared);
            let node = shared.node.as_ref();
            let key = node.and_then(view::doorman);
            let name = node.zip(key).and_then(|(node, key)| {
                let machine = node.machine();
                let member = machine.members.get(&machine.find(&key)?)?;
                Some(member.participant.clone())
            });
            (key.and_then(|key| id_of(&key)), name)
        };
        if doorman == self.doorman {
            return;
        }
        self.doorman = doorman;
        self.emit(Event::DoormanChanged {
            doorman,
            participant_id,
            is_self: doorman == Some(self.live.endpoint_id()),
        });
    }

    fn quorum_lost(&mut self) {
        let (missing, eligible, at_loss) = {
            let shared = lock(&self.shared);
            let Some(node) = &shared.node else { return };
            let status = node.status();
            let here = |id: &u64| {
                let key = node.key(*id);
                let heard = |key: &Key| self.mesh.as_ref().is_some_and(|it| it.is_heard(key));
                *id == status.id || key.is_some_and(|key| heard(&key))
            };
            let (here, missing): (SortedSet<u64>, SortedSet<u64>) =
                status.conf.voters.iter().copied().partition(here);
            let eligible = self.options.recovery == Recovery::Auto
                && status.conf.is_voter(status.id)
                && status.conf.is_half(&here);
            let missing = missing.into_iter().filter_map(|id| id_of(&node.key(id)?));
            let at_loss = (status.conf.voters.len(), node.machine().members.len());
            (missing.collect(), eligible, at_loss)
        };
        self.at_loss = at_loss;
        self.emit(Event::QuorumLost { missing, eligible });
    }

    fn recovered(&mut self, epoch: &Hash, lossless: bool) {
        self.watch_members();
        let survivors = {
            let shared = lock(&self.shared);
            let record = shared.node.as_ref().and_then(|it| it.records().last());
            record.map_or(0, |it| it.survivors.len())
        };
        // Learners are carried over, unless one goes on alone.
        let (voters, members) = self.at_loss;
        let before = if lossless { voters } else { members };
        self.emit(Event::Recovered {
            epoch: crate::hex(epoch),
            lossless,
            dropped: before.saturating_sub(survivors),
        });
    }

    // --- The end ------------------------------------------------------------------------------

    fn ended(&mut self, why: Why, orphaned: Vec<consensus::Orphan>) {
        let kicked = {
            let shared = lock(&self.shared);
            let node = shared.node.as_ref();
            why == Why::Kicked || node.is_some_and(|it| it.machine().banned.contains(&self.me))
        };
        if self.leaving.is_some() || self.over {
            self.over = true;
        } else if self.away {
            // Until it is back.
        } else if kicked {
            self.end(Ending::Kicked);
        } else if why == Why::Replaced {
            self.end(Ending::Replaced);
        } else {
            let orphans = orphaned.into_iter().filter_map(|it| {
                let (kind, change) = parts(&it.change);
                Some(Orphan {
                    index: it.index,
                    author: id_of(&it.author)?,
                    kind,
                    change,
                })
            });
            let orphans = orphans.collect();
            self.supersede(orphans);
        }
    }

    /// Gives up what this member was in, and comes back by the door.
    pub(super) fn supersede(&mut self, orphaned: Vec<Orphan>) {
        let was_ready = self.ready.borrow().is_some();
        if was_ready {
            self.emit(Event::Superseded { orphaned });
        }
        for (_, proposal) in self.proposals.drain() {
            proposal.tell(Err(Error::UpdateUnknown));
        }
        self.dismantle();
        self.find_the_way(super::COME_BACK.mul_f64(rand::random_range(0.1..0.5)));
    }

    /// What was changed in a room that nobody else was ever in.
    pub(super) fn own_changes(&self) -> Vec<Orphan> {
        let shared = lock(&self.shared);
        let log = shared.node.as_ref().and_then(|it| it.log_after(1));
        let log = log.unwrap_or_default().into_iter().zip(2..);
        let changes = log.filter_map(|(entry, index)| match Entry::decode(&entry.data)? {
            Entry::Propose(_, proposal, _) => match proposal.payload {
                Payload::Change(change) => {
                    let (kind, change) = parts(&change);
                    Some(Orphan {
                        index: Some(index),
                        author: self.live.endpoint_id(),
                        kind,
                        change,
                    })
                }
                _ => None,
            },
            _ => None,
        });
        changes.collect()
    }

    // --- Questions ----------------------------------------------------------------------------

    /// Asks the application; without a question that can be asked, silence is the answer.
    pub(super) fn ask(
        &mut self,
        asked: Asked,
        kind: Option<QuestionKind>,
        patience: std::time::Duration,
    ) {
        self.count += 1;
        let id = self.count;
        let until = Instant::now() + patience;
        let sent = kind.is_some_and(|kind| self.questions.try_send(Question { id, kind }).is_ok());
        self.asked.insert(id, asked);
        match sent {
            true => drop(self.deadlines.insert(id, until)),
            false => self.silence(id),
        }
    }

    fn answer(&mut self, id: u64, answer: &Value) {
        self.deadlines.remove(&id);
        match self.asked.remove(&id) {
            None => {}
            Some(Asked::Admit(guest)) => match answer {
                Value::Bool(true) => self.agree_to(guest),
                Value::String(why) => self.deny(guest, why),
                _ => self.deny(guest, "denied"),
            },
            Some(Asked::Consider(proposal)) => {
                self.step(Input::Considered(proposal, answer == &Value::Bool(true)));
            }
            Some(Asked::Decide(index)) => {
                let state = answer.get("state");
                let verdict = match (answer.get("accept"), answer.get("refuse")) {
                    (Some(Value::Bool(true)), _) => self.accepted(state),
                    (_, Some(Value::String(why))) => Verdict::Refuse(why.clone()),
                    _ => Verdict::Failed,
                };
                self.step(Input::Decided(index, verdict));
            }
        }
    }

    /// The state that the reducer made, in its one form.
    fn accepted(&self, state: Option<&Value>) -> Verdict {
        match (self.options.reducer, state) {
            (false, _) => Verdict::Accept(None),
            (true, None) => Verdict::Failed,
            (true, Some(state)) => match State::json(state.to_string().as_bytes()) {
                Ok(state) => Verdict::Accept(Some(state.bytes())),
                // The same everywhere: it depends on the state alone.
                Err(why) => Verdict::Refuse(why),
            },
        }
    }

    /// There was no answer.
    fn silence(&mut self, id: u64) {
        self.deadlines.remove(&id);
        match self.asked.remove(&id) {
            None | Some(Asked::Consider(_)) => {}
            Some(Asked::Admit(guest)) => self.deny(guest, "nobody let you in"),
            Some(Asked::Decide(index)) => {
                self.todo.push_back(Input::Decided(index, Verdict::Failed));
            }
        }
    }

    pub(super) fn watch_questions(&mut self) {
        let now = Instant::now();
        let late = self.deadlines.iter().filter(|(_, until)| now >= **until);
        let late: Vec<u64> = late.map(|(id, _)| *id).collect();
        for id in late {
            self.silence(id);
        }
        self.watch_guests();
        if let Some(next) = self.todo.pop_front() {
            self.step(next);
        }
    }
}
