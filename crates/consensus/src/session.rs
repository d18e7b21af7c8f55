//! Proposals, signed by who makes them, and the table that applies each exactly once.

use serde::{Deserialize, Serialize};

use crate::keys::{Hash, Key, Keys, Signature, digest, encode};
use crate::state;

/// One stay of one member: the epoch that it joined in, and the index of its Join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId {
    /// The epoch of the Join.
    pub epoch: Hash,
    /// The member's id.
    pub id: u64,
}

/// What can be proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// A change of the state.
    Change(state::Change),
    /// Removes a key and keeps it out. For moderators, like the rest.
    Kick(Key),
    /// Lets a key in again.
    Pardon(Key),
    /// Admits nobody, or again.
    Lock(bool),
    /// The keys that moderate.
    Moderators(Vec<Key>),
    /// Moves the door to another room id. The room is the same; who knows only the old id stays out.
    Rotate(Hash),
}

impl Payload {
    /// Bytes of the change in it.
    pub fn size(&self) -> usize {
        match self {
            Self::Change(change) => change.bytes().len(),
            _ => 0,
        }
    }
}

/// A signed proposal. Which epoch it was signed in is not in it: the index tells where it is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Whose.
    pub session: SessionId,
    /// The how-many-eth of the session, from 1.
    pub sequence: u64,
    /// Refused if the state has changed after this index.
    pub base: Option<u64>,
    /// What.
    pub payload: Payload,
    /// Over all of this, room and epoch.
    pub signature: Signature,
}

/// What a member says to the change of another, where changes need consent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Its id.
    pub member: u64,
    /// Whether it agrees.
    pub agrees: bool,
    /// Over that and the proposal.
    pub signature: Signature,
}

/// What a member signs that agrees to a proposal with this digest, or does not.
pub fn vote_digest(proposal: &Hash, agrees: bool) -> Hash {
    digest("iroh-rooms/vote/1", &[proposal, &[u8::from(agrees)]])
}

impl Proposal {
    /// What is signed, in this epoch. It names the proposal.
    pub fn digest(&self, room: &Hash, epoch: &Hash) -> Hash {
        let body = encode(&(&self.session, self.sequence, self.base, &self.payload));
        digest("iroh-rooms/proposal/1", &[room, epoch, &body])
    }

    /// Signs it for an epoch.
    pub fn sign(&mut self, keys: &dyn Keys, room: &Hash, epoch: &Hash) {
        self.signature = keys.sign(&self.digest(room, epoch));
    }

    /// Whether `key` signed it for this epoch.
    pub fn is_signed(&self, keys: &dyn Keys, key: &Key, room: &Hash, epoch: &Hash) -> bool {
        keys.verify(key, &self.digest(room, epoch), &self.signature)
    }
}

/// What is remembered of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Whose.
    pub key: Key,
    /// The last sequence that was applied.
    pub last: u64,
    /// Which of the last 64 were refused: bit 0 is `last`.
    pub refused: u64,
    /// Where it ended. Nothing new is applied from then on.
    pub ended: Option<u64>,
}

impl Session {
    /// A new one.
    pub fn new(key: Key) -> Self {
        Self {
            key,
            last: 0,
            refused: 0,
            ended: None,
        }
    }

    /// Counts one more.
    pub fn record(&mut self, accepted: bool) {
        self.last += 1;
        self.refused = self.refused << 1 | u64::from(!accepted);
    }

    /// Whether a sequence that was applied was accepted; `None` if it is too long ago, or to come.
    pub fn was_accepted(&self, sequence: u64) -> Option<bool> {
        let ago = self.last.checked_sub(sequence).filter(|ago| *ago < 64)?;
        Some(self.refused >> ago & 1 == 0)
    }
}
