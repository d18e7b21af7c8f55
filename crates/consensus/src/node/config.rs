//! What a node is made with.

use std::sync::Arc;

use crate::keys::{Hash, Keys};
use crate::limits;

/// What a node is made with.
#[derive(Clone)]
pub struct Config {
    /// The own key, and how keys are checked.
    pub keys: Arc<dyn Keys>,
    /// The room's id; of one that is joined, the id of its door.
    pub room: Hash,
    /// What random numbers are drawn from; different for each node.
    pub seed: u64,
    /// The most voters: 1, 3, 5 or 7. Five by default.
    pub voters: usize,
    /// Whether a lost quorum is recovered from without being asked.
    pub recovery: Recovery,
    /// What a change needs to be made, in a room that is founded with this.
    pub approval: Approval,
    /// Whether the application decides about each change, see [`Event::Decide`].
    pub host: bool,
    /// Which rule to break.
    #[cfg(feature = "mutations")]
    pub mutation: Option<Mutation>,
}

impl Config {
    /// Whether elections ask first, so that who comes back does not depose a leader.
    pub(super) fn pre_vote(&self) -> bool {
        #[cfg(feature = "mutations")]
        let pre_vote = self.mutation != Some(Mutation::NoPreVote);
        #[cfg(not(feature = "mutations"))]
        let pre_vote = true;
        pre_vote
    }

    /// Five voters, recovery by itself, and changes that are made without asking.
    pub fn new(keys: Arc<dyn Keys>, room: Hash, seed: u64) -> Self {
        Self {
            keys,
            room,
            seed,
            voters: limits::VOTERS,
            recovery: Recovery::Auto,
            approval: Approval::Guard,
            host: false,
            #[cfg(feature = "mutations")]
            mutation: None,
        }
    }
}

/// What a change needs to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// Nothing but what every member finds by itself when it applies it.
    Guard,
    /// More than half of the members agree, its author among them; they are asked by
    /// [`Event::Consider`]. Who does not answer within 15 s does not agree.
    Majority,
}

/// What to do about a lost quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Take over where nothing acknowledged can be lost.
    Auto,
    /// Wait for [`Input::Recover`].
    Manual,
}

/// Rules that the simulator breaks to see that it notices.
#[cfg(feature = "mutations")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A returning key gets its old id again.
    ReuseIds,
    /// Elections without asking first.
    NoPreVote,
    /// Acknowledged when half have it in their logs.
    AckHalf,
    /// Acknowledged when committed.
    AckOnCommit,
    /// Only the committed configuration counts in a takeover.
    NoLaterConfs,
    /// Whoever signed a successor goes on in the parent.
    NoFence,
    /// A newcomer is welcomed before its Join is committed.
    StaleWelcome,
    /// Snapshots lack the table of sessions.
    SessionsNotKept,
    /// Snapshots lack the ids of the door but the first.
    DoorsNotKept,
}
