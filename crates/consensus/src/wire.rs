//! What members send each other: frames of postcard, at most [`limits::FRAME_BYTES`] long.

use serde::{Deserialize, Serialize};

use crate::keys::{Hash, Key, Keys, Signature, decode, digest, encode};
use crate::limits;
use crate::raft::{Kind, Message};
use crate::recovery::{Record, Report};
use crate::session::Proposal;

/// Which stream a frame is for, the most urgent first: bulk must not hold up votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Votes and heartbeats.
    Pulse,
    /// Entries, proposals and the like.
    Entries,
    /// Chunks of snapshots.
    Bulk,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// Among members of one epoch.
    Envelope(Envelope),
    /// To who is in another epoch.
    Lineage(Lineage),
}

/// A message from one member to another. Signed by its origin where another passes it on, who then
/// cannot change it; over the origin's own connection it needs no more proof than that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The epoch.
    pub epoch: Hash,
    /// The origin's id.
    pub from: u64,
    /// The receiver's id.
    pub to: u64,
    /// How often it may still be passed on: 0 or 1. Not signed.
    pub hops: u8,
    /// An encoded [`Body`].
    pub body: Vec<u8>,
    /// The origin's, over epoch, ids and body, if it is to be passed on.
    pub signature: Option<Signature>,
}

impl Envelope {
    fn digest(&self) -> Hash {
        digest(
            "iroh-rooms/envelope/1",
            &[
                &self.epoch,
                &self.from.to_le_bytes(),
                &self.to.to_le_bytes(),
                &self.body,
            ],
        )
    }

    /// One for the own connection to the receiver.
    pub fn new(epoch: Hash, from: u64, to: u64, body: &Body) -> Self {
        Self {
            epoch,
            from,
            to,
            hops: 0,
            body: encode(body),
            signature: None,
        }
    }

    /// The same, to be passed on.
    pub fn by_another(mut self, keys: &dyn Keys) -> Self {
        self.hops = 1;
        self.signature = Some(keys.sign(&self.digest()));
        self
    }

    /// Whether `key` has signed it.
    pub fn is_signed(&self, keys: &dyn Keys, key: &Key) -> bool {
        let signed = |it| keys.verify(key, &self.digest(), it);
        self.signature.as_ref().is_some_and(signed)
    }
}

/// What a member tells who is in another epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The records that led here, oldest first; at most [`limits::LINEAGE`].
    pub records: Vec<Record>,
    /// Whether its epoch has a quorum at the moment.
    pub active: bool,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// From Raft to Raft.
    Raft(Message),
    /// A piece of something large.
    Chunk(Chunk),
    /// Changes that their author asks the leader to propose.
    Propose(Vec<Proposal>),
    /// The sender wants to be removed.
    Leave,
    /// The receiver was removed.
    Removed,
    /// What the sender came to at an index.
    Check(Check),
    /// Asks who a member is.
    Who(u64),
    /// Answers that.
    Member(u64, Key),
    /// Asks a survivor of an epoch without quorum what it has.
    Survey,
    /// Answers that.
    Report(Report),
    /// Asks a survivor to sign, when the chunks of the base have arrived.
    Offer(Record),
    /// A survivor's signature: the hash of the record's body, and the signature.
    Signed(Hash, Signature),
    /// The epoch has begun.
    Begin(Record),
    /// Asks a voter to speak for a newcomer, see [`crate::attest`].
    Attest(u64),
    /// Speaks for it.
    Attested(u64, Signature),
    /// Asks a member whether it agrees to a change of another.
    Consider(Proposal),
    /// Answers that: the proposal's digest, whether, and the signature of [`crate::session::Vote`].
    Considered(Hash, bool, Signature),
}

impl Body {
    /// The stream for it.
    pub fn lane(&self) -> Lane {
        match self {
            Self::Chunk(_) => Lane::Bulk,
            Self::Raft(message) => match message.kind {
                Kind::Append { .. } | Kind::AppendReply { .. } => Lane::Entries,
                _ => Lane::Pulse,
            },
            _ => Lane::Entries,
        }
    }
}

/// A piece of something that is named by its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The hash of the whole.
    pub hash: Hash,
    /// Its length in bytes.
    pub length: u64,
    /// Where this piece begins, a multiple of [`limits::CHUNK_BYTES`].
    pub offset: u64,
    /// The piece.
    pub data: Vec<u8>,
}

/// What someone came to: two who differ have found a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Where.
    pub index: u64,
    /// The hash over all entries.
    pub chain: Hash,
    /// The hash of the state.
    pub state: Hash,
}

impl Frame {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// A frame from bytes; `None` if they are not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > limits::FRAME_BYTES {
            return None;
        }
        decode(bytes)
    }
}

impl Envelope {
    /// What it says; `None` if that is nothing.
    pub fn body(&self) -> Option<Body> {
        decode(&self.body)
    }
}
