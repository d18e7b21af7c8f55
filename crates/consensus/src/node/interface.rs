//! What a node is told, and what it tells.

use serde::{Deserialize, Serialize};

use crate::attest::Attestation;
use crate::conf::Conf;
use crate::keys::{Hash, Key, Signature, decode, encode};
use crate::limits;
use crate::machine::{Newcomer, Why};
use crate::raft::Position;
use crate::recovery::Record;
use crate::session::Payload;
use crate::state::Change;
use crate::wire::Lane;

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passes. At least every 100 ms.
    Tick,
    /// A frame from an authenticated peer.
    Receive(Key, Vec<u8>),
    /// A connection to a member stands, or does not any more.
    Link(Key, bool),
    /// A member's endpoint cannot be reached any more. Said again if it comes back and goes again.
    Gone(Key),
    /// Whether the own connection to the network stands.
    Online(bool),
    /// A change to propose. Its outcome is told under the ticket.
    Propose {
        /// The caller's name for it.
        ticket: u64,
        /// What.
        payload: Payload,
        /// Refuse it if the state has changed after this index.
        base: Option<u64>,
    },
    /// Someone at the door whom the application would let in. Answered by [`Event::Admitted`] or
    /// [`Event::Refused`].
    Admit(Newcomer),
    /// This peer answered as the room's doorman, or may be of another lineage: tell it of this one.
    Meet(Key),
    /// The new incarnation of a key says, signed by [`ended_digest`], that the old one is over.
    Ended(u64, Signature),
    /// Leave. Ends with [`Event::Over`]; do not wait for it for long.
    Leave,
    /// Let another lead: this member will be slow.
    HandOver,
    /// Go on alone with what this member has, accepting that acknowledged changes may be lost.
    Recover,
    /// The application's answer to [`Event::Decide`].
    Decided(u64, Verdict),
    /// The application's answer to [`Event::Consider`]: whether it agrees.
    Considered(Hash, bool),
}

/// What the application makes of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Make it. With a reducer: the state that it made.
    Accept(Option<Vec<u8>>),
    /// Refuse it, for this reason.
    Refuse(String),
    /// The application threw or hung. This member must not guess: it stops voting.
    Failed,
}

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was made at this index, and survives what [`crate::recovery`] allows for.
    Committed(u64),
    /// It was refused, for good.
    Rejected(String),
    /// It may have been made, and may yet be. Asking again is safe only with a precondition.
    Unknown,
}

/// A change of a lineage that another one superseded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Where it was; nothing if it was not made.
    pub index: Option<u64>,
    /// Whose it is.
    pub author: Key,
    /// The change.
    pub change: Change,
}

/// What a node tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The state is there, and this is a member.
    Ready,
    /// A change was made, or refused.
    Changed {
        /// Where.
        index: u64,
        /// Whose.
        author: Key,
        /// What.
        change: Change,
        /// Why not.
        result: Result<(), String>,
    },
    /// The state was replaced as a whole: some changes were not seen one by one.
    Replaced(u64),
    /// What became of a proposal.
    Outcome(u64, Outcome),
    /// Who leads now, and whether that is this member and it may stand at the door.
    Doorman(Option<Key>, bool),
    /// A newcomer was admitted: hand it this.
    Admitted(Key, Hash, Box<Welcome>),
    /// A newcomer was not admitted, with the door's code.
    Refused(Key, Hash, &'static str),
    /// Members that came or went.
    Members,
    /// The member with this key is one no more. Not told of who went while entries were skipped.
    Removed(Key, Why),
    /// The room's door has another id: who leads stands there from now on, and not at the old one.
    Rotated(Hash),
    /// No quorum: the state can be read, not changed.
    QuorumLost,
    /// There is one again.
    QuorumRestored,
    /// A new epoch began here. Nothing acknowledged was lost, if `true`.
    Recovered(Hash, bool),
    /// There are two lineages of this room.
    ForkDetected,
    /// Another member came to another state at this index.
    Divergence(u64),
    /// Another member has another log at this index, although it is committed.
    IntegrityFault(u64),
    /// The application has to decide about a change. Nothing more is applied until it has.
    Decide {
        /// Where.
        index: u64,
        /// Whose.
        author: Key,
        /// What.
        change: Change,
        /// The leader's clock, in milliseconds.
        time: u64,
        /// Random, and the same everywhere.
        seed: u64,
    },
    /// The application is asked whether it agrees to a change, see [`super::Approval::Majority`].
    /// Nothing waits for the answer but the change.
    Consider {
        /// What to name it by in [`Input::Considered`].
        proposal: Hash,
        /// Whose.
        author: Key,
        /// What.
        change: Change,
    },
    /// This node has ended. What it made that the others do not have is handed back.
    Over(Why, Vec<Orphan>),
}

/// A frame to send.
#[derive(Clone, Debug)]
pub struct Send {
    /// To whom.
    pub to: Key,
    /// On which stream.
    pub lane: Lane,
    /// The frame.
    pub bytes: Vec<u8>,
}

/// What a node wants done.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Frames to send. To whom no connection stands, dial; a frame that cannot be sent may be dropped.
    pub send: Vec<Send>,
    /// What to tell.
    pub events: Vec<Event>,
}

/// What an admitted newcomer begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The lineage.
    pub records: Vec<Record>,
    /// Who is a member, and who votes.
    pub roster: Vec<(u64, Key)>,
    /// What the voters say about its id and its key, and the nonce that it asked with.
    pub attestation: Attestation,
}

impl Welcome {
    /// The bytes that the door carries.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// A welcome from bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let welcome: Self = decode(bytes)?;
        let id = welcome.attestation.id;
        let fits = welcome.roster.len() <= limits::MEMBERS * 2 && id < limits::INDEX;
        (fits && id > 0).then_some(welcome)
    }
}

/// How a node is.
#[derive(Clone, Debug)]
pub struct Status {
    /// The epoch.
    pub epoch: Hash,
    /// Its number.
    pub number: u64,
    /// The own id.
    pub id: u64,
    /// Raft's term.
    pub term: u64,
    /// The leader's id, 0 if none is known.
    pub leader: u64,
    /// Whether this member leads, and what came before is settled.
    pub doorman: bool,
    /// Whether it leads, settled or not.
    pub leads: bool,
    /// The end of the log.
    pub last: Position,
    /// The last applied index.
    pub index: u64,
    /// Up to where everything is acknowledged.
    pub acknowledged: u64,
    /// Raft's configuration.
    pub conf: Conf,
    /// The state has arrived, and nothing has ended it.
    pub ready: bool,
    /// There has been no leader for a while.
    pub quorum_lost: bool,
    /// A successor of the epoch is signed: here nothing happens in this one any more.
    pub fenced: bool,
    /// The application failed to decide: this member does not vote.
    pub degraded: bool,
}
