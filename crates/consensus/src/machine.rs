//! What all members agree on: who they are, what was applied of whom, and the state.
//!
//! The same entries in the same order make the same machine everywhere. Nothing here knows a clock,
//! and nothing an entry says can make it fail otherwise than everywhere.

use iroh_rooms_sorted::{SortedMap, SortedSet};
use serde::{Deserialize, Serialize};

use crate::conf::Change;
use crate::keys::{Hash, Key, Keys, decode, digest, encode};
use crate::limits;
use crate::session::{Payload, Proposal, Session, SessionId, Vote, vote_digest};
use crate::state::State;

/// Why a member is one no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// It left.
    Left,
    /// Nothing was heard of it.
    Silent,
    /// A new incarnation of the same key took its place.
    Replaced,
    /// A moderator removed it.
    Kicked,
    /// It was not there when an epoch began without it.
    Lost,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Someone's proposal, with the leader's time in milliseconds, and what the members say to it
    /// where that counts.
    Propose(u64, Proposal, Vec<Vote>),
    /// A new member. Its id is the index of the entry.
    Join(Newcomer),
    /// No members any more.
    Remove(Vec<u64>, Why),
    /// A learner votes from now on.
    Promote(u64),
    /// A voter listens from now on.
    Demote(u64),
    /// Brings Raft's configuration in line with the members.
    Align(Vec<Change>),
}

impl Command {
    /// One from the bytes of an entry; `None` if they are not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes)
    }
}

/// Who asks to be admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newcomer {
    /// Its endpoint's key.
    pub key: Key,
    /// The name it wants to have among the participants.
    pub participant: String,
    /// How well suited it is to vote and to lead: 0 mobile, 1 hidden tab, 2 visible tab, 3 native.
    pub priority: u8,
    /// What it drew at random to recognise the answer by.
    pub nonce: Hash,
    /// The incarnation that it takes the place of.
    pub replaces: Option<u64>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its endpoint's key.
    pub key: Key,
    /// Its name.
    pub participant: String,
    /// As in [`Newcomer`].
    pub priority: u8,
    /// Its session.
    pub session: SessionId,
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing that shows.
    Nothing,
    /// A proposal counts: it was accepted, or refused for this reason.
    Proposal(Proposal, Result<(), String>),
    /// A proposal does not count: repeated, out of turn, forged, or of nobody here.
    Void(Proposal, &'static str),
    /// A new member.
    Joined(u64, Newcomer),
    /// Members that are gone, with their keys.
    Removed(Vec<(u64, Key)>, Why),
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The room, by the id that it was founded under. That is in all signatures.
    pub room: Hash,
    /// The ids that its door has had, the present one last.
    pub doors: Vec<Hash>,
    /// The last applied index.
    pub index: u64,
    /// A hash over all entries so far.
    pub chain: Hash,
    /// Where the state changed last.
    pub changed: u64,
    /// The members by id.
    pub members: SortedMap<u64, Member>,
    /// What was applied of whom.
    pub sessions: SortedMap<SessionId, Session>,
    /// Nobody is admitted.
    pub locked: bool,
    /// Who is kept out.
    pub banned: SortedSet<Key>,
    /// Who moderates.
    pub moderators: SortedSet<Key>,
    /// A change is made only if more than half of the members agree, its author among them.
    pub consent: bool,
    /// The state.
    pub state: State,
}

/// A machine in a snapshot.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u8,
    room: Hash,
    doors: Vec<Hash>,
    index: u64,
    chain: Hash,
    changed: u64,
    members: SortedMap<u64, Member>,
    sessions: Vec<(SessionId, Session)>,
    locked: bool,
    banned: SortedSet<Key>,
    moderators: SortedSet<Key>,
    consent: bool,
    state: Vec<u8>,
}

/// The version of the format of snapshots.
const VERSION: u8 = 1;

impl Machine {
    /// A room with nothing but its first state and who moderates it.
    pub fn new(room: Hash, state: State, moderators: SortedSet<Key>) -> Self {
        Self {
            room,
            doors: vec![room],
            index: 0,
            chain: digest("iroh-rooms/chain/1", &[&room]),
            changed: 0,
            members: SortedMap::new(),
            sessions: SortedMap::new(),
            locked: false,
            banned: SortedSet::new(),
            moderators,
            consent: false,
            state,
        }
    }

    /// Its bytes.
    pub fn store(&self) -> Vec<u8> {
        encode(&Stored {
            version: VERSION,
            room: self.room,
            doors: self.doors.clone(),
            index: self.index,
            chain: self.chain,
            changed: self.changed,
            members: self.members.clone(),
            sessions: self
                .sessions
                .iter()
                .map(|(id, it)| (*id, it.clone()))
                .collect(),
            locked: self.locked,
            banned: self.banned.clone(),
            moderators: self.moderators.clone(),
            consent: self.consent,
            state: self.state.store(),
        })
    }

    /// A machine from bytes; `None` if they are not one, of another version, or beyond a limit.
    pub fn load(bytes: &[u8]) -> Option<Self> {
        let stored: Stored = decode(bytes)?;
        let whole = stored.version == VERSION
            && stored.members.len() <= limits::MEMBERS
            && stored.sessions.len() <= limits::MEMBERS + limits::ENDED_SESSIONS
            && stored.banned.len() <= limits::BANNED
            && stored.moderators.len() <= limits::MODERATORS
            && (1..=limits::DOORS).contains(&stored.doors.len())
            && stored.index < limits::INDEX
            && stored
                .members
                .values()
                .all(|it| it.participant.len() <= limits::PARTICIPANT_BYTES);
        if !whole {
            return None;
        }
        Some(Self {
            room: stored.room,
            doors: stored.doors,
            index: stored.index,
            chain: stored.chain,
            changed: stored.changed,
            members: stored.members,
            sessions: stored.sessions.into_iter().collect(),
            locked: stored.locked,
            banned: stored.banned,
            moderators: stored.moderators,
            consent: stored.consent,
            state: State::load(&stored.state)?,
        })
    }

    /// The id that the room is found under.
    pub fn door(&self) -> Hash {
        self.doors.last().copied().unwrap_or(self.room)
    }

    /// The live member with a key.
    pub fn find(&self, key: &Key) -> Option<u64> {
        let mut members = self.members.iter();
        members.find(|(_, it)| it.key == *key).map(|(id, _)| *id)
    }

    /// Why a newcomer would not be admitted, as one of the door's codes.
    pub fn refusal(&self, newcomer: &Newcomer) -> Option<&'static str> {
        let replaces = self.find(&newcomer.key);
        let name = &newcomer.participant;
        let mut others = self.members.iter().filter(|(id, _)| Some(**id) != replaces);
        if self.banned.contains(&newcomer.key) || (self.locked && replaces.is_none()) {
            Some("denied")
        } else if name.is_empty() || name.len() > limits::PARTICIPANT_BYTES {
            Some("bad-id")
        } else if others.any(|(_, it)| it.participant == *name) {
            Some("participant-id-taken")
        } else if self.members.len() >= limits::MEMBERS && replaces.is_none() {
            Some("full")
        } else {
            None
        }
    }

    /// What a command does to Raft's configuration when it is applied at `index`; nothing if it must
    /// not. Every member comes to the same answer, whoever proposed it.
    pub fn changes(&self, index: u64, command: &Command) -> Vec<Change> {
        match command {
            Command::Propose(..) => Vec::new(),
            Command::Join(newcomer) => {
                let fits = self.refusal(newcomer).is_none();
                let replaces = self.find(&newcomer.key);
                if !fits || replaces != newcomer.replaces {
                    return Vec::new();
                }
                let removed = replaces.map(Change::Remove);
                [Change::Learner(index)]
                    .into_iter()
                    .chain(removed)
                    .collect()
            }
            Command::Remove(ids, _) => ids.iter().copied().map(Change::Remove).collect(),
            Command::Promote(id) if self.members.contains_key(id) => vec![Change::Voter(*id)],
            Command::Demote(id) if self.members.contains_key(id) => vec![Change::Learner(*id)],
            Command::Promote(_) | Command::Demote(_) => Vec::new(),
            Command::Align(changes) => changes.clone(),
        }
    }

    /// Whether a proposal's turn has come, so that it will be accepted or refused for good.
    pub fn is_due(
        &self,
        proposal: &Proposal,
        keys: &dyn Keys,
        epoch: &Hash,
    ) -> Result<(), &'static str> {
        let session = self
            .sessions
            .get(&proposal.session)
            .ok_or("session-expired")?;
        if session.ended.is_some() {
            return Err("session-expired");
        }
        if proposal.sequence <= session.last {
            return Err("repeated");
        }
        if proposal.sequence > session.last + 1 {
            return Err("out of turn");
        }
        if !proposal.is_signed(keys, &session.key, &self.room, epoch) {
            return Err("forged");
        }
        Ok(())
    }

    /// Whether its payload would be looked at: the state has not changed since its base.
    pub fn is_current(&self, proposal: &Proposal) -> bool {
        proposal.base.is_none_or(|base| self.changed <= base)
    }

    /// Whether a change has the consent that it needs.
    pub fn is_agreed(
        &self,
        proposal: &Proposal,
        votes: &[Vote],
        keys: &dyn Keys,
        epoch: &Hash,
    ) -> bool {
        if !self.consent || !matches!(proposal.payload, Payload::Change(_)) {
            return true;
        }
        let author = self.sessions.get(&proposal.session).map(|it| it.key);
        let body = vote_digest(&proposal.digest(&self.room, epoch), true);
        let agrees = |vote: &&Vote| {
            let member = self.members.get(&vote.member);
            let signed = |it: &Member| keys.verify(&it.key, &body, &vote.signature);
            vote.agrees && member.is_some_and(signed)
        };
        let votes = votes.iter().filter(agrees).map(|it| it.member);
        let agree: SortedSet<u64> = votes.chain(author.and_then(|it| self.find(&it))).collect();
        2 * agree.len() > self.members.len()
    }

    /// Applies the next entry. `taken` says that Raft's configuration took the command's change;
    /// `epoch` is the one that the index belongs to; `verdict` is the application's, where it was
    /// asked: a refusal, or the state that its reducer made.
    pub fn apply(
        &mut self,
        index: u64,
        data: &[u8],
        taken: bool,
        keys: &dyn Keys,
        epoch: &Hash,
        verdict: Result<Option<Vec<u8>>, String>,
    ) -> Applied {
        self.index = index;
        self.chain = digest(
            "iroh-rooms/chain/1",
            &[&self.chain, &index.to_le_bytes(), data],
        );
        let Some(command) = Command::decode(data) else {
            return Applied::Nothing;
        };
        match command {
            Command::Propose(_, proposal, votes) => match self.is_due(&proposal, keys, epoch) {
                Err(why) => Applied::Void(proposal, why),
                Ok(()) => {
                    let agreed = self.is_agreed(&proposal, &votes, keys, epoch);
                    let verdict = match agreed {
                        true => verdict,
                        false => Err("not agreed to".into()),
                    };
                    let result = self.propose(index, &proposal, verdict);
                    if let Some(session) = self.sessions.get_mut(&proposal.session) {
                        session.record(result.is_ok());
                    }
                    Applied::Proposal(proposal, result)
                }
            },
            Command::Join(newcomer) if taken => {
                if let Some(old) = newcomer.replaces {
                    self.remove(old);
                }
                let session = SessionId {
                    epoch: *epoch,
                    id: index,
                };
                self.sessions.insert(session, Session::new(newcomer.key));
                let member = Member {
                    key: newcomer.key,
                    participant: newcomer.participant.clone(),
                    priority: newcomer.priority,
                    session,
                };
                self.members.insert(index, member);
                Applied::Joined(index, newcomer)
            }
            Command::Remove(ids, why) if taken => {
                let gone = ids
                    .iter()
                    .filter_map(|id| Some((*id, self.remove(*id)?)))
                    .collect();
                Applied::Removed(gone, why)
            }
            _ => Applied::Nothing,
        }
    }

    fn propose(
        &mut self,
        index: u64,
        proposal: &Proposal,
        verdict: Result<Option<Vec<u8>>, String>,
    ) -> Result<(), String> {
        let author = self.sessions.get(&proposal.session).map(|it| it.key);
        let moderates = author.is_some_and(|key| self.moderators.contains(&key));
        if !self.is_current(proposal) {
            return Err("stale".into());
        }
        match &proposal.payload {
            Payload::Change(change) => {
                self.state.apply(change, verdict?)?;
                self.changed = index;
            }
            _ if !moderates => return Err("not a moderator".into()),
            Payload::Kick(key) => {
                if self.banned.len() < limits::BANNED {
                    self.banned.insert(*key);
                }
            }
            Payload::Pardon(key) => {
                self.banned.remove(key);
            }
            Payload::Lock(locked) => self.locked = *locked,
            Payload::Moderators(keys) if keys.is_empty() || keys.len() > limits::MODERATORS => {
                return Err("between 1 and 64 moderators".into());
            }
            Payload::Moderators(keys) => self.moderators = keys.iter().copied().collect(),
            Payload::Rotate(door) if self.doors.contains(door) => {
                return Err("an id that the door had".into());
            }
            Payload::Rotate(door) => {
                self.doors.push(*door);
                if self.doors.len() > limits::DOORS {
                    self.doors.remove(0);
                }
            }
        }
        Ok(())
    }

    /// Takes a member out, and ends its session.
    pub fn remove(&mut self, id: u64) -> Option<Key> {
        let member = self.members.remove(&id)?;
        if let Some(session) = self.sessions.get_mut(&member.session) {
            session.ended = Some(self.index);
        }
        let sessions = self.sessions.iter();
        let ended = sessions.filter_map(|(id, it)| Some((it.ended?, *id)));
        if ended.clone().count() > limits::ENDED_SESSIONS
            && let Some((_, oldest)) = ended.min()
        {
            self.sessions.remove(&oldest);
        }
        Some(member.key)
    }
}
