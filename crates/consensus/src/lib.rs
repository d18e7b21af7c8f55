//! The agreed state of a room: Raft among its members, without I/O, clock and randomness.
//!
//! [`Node`] is one member. It is told what happens by [`Node::handle`], with the time, and says what
//! to send and what to tell; the same inputs at the same times give the same outputs. Around it:
//!
//! - [`raft`]: the seam to the `raft` crate; [`sanitize`] keeps from it what it could not bear.
//! - [`machine`]: what the entries of the log mean: members, sessions, the [`state`].
//! - [`session`]: proposals, signed, each applied exactly once.
//! - [`attest`]: what a newcomer is shown of who leads the room.
//! - [`membership`]: who should vote; [`conf`]: what a change of voters does.
//! - [`recovery`]: epochs, when survivors may go on, which of two lineages does.
//! - [`storage`]: what is worth keeping on disk; [`wire`]: the bytes between members.
//!
//! What it withstands is crashes, loss, delay and partitions, and any bytes from anyone. A member
//! that lies within the rules can delay and censor, but not forge what another proposed.

#![cfg_attr(
    not(any(test, fuzzing)),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

pub mod attest;
pub mod conf;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod keys;
pub mod limits;
pub mod machine;
pub mod membership;
mod node;
pub mod raft;
pub mod recovery;
pub mod sanitize;
pub mod session;
pub mod state;
pub mod storage;
pub mod wire;

#[cfg(feature = "mutations")]
pub use node::Mutation;
pub use node::{
    Approval, Config, Event, Input, Node, Orphan, Outcome, Outputs, Recovery, Send, Status,
    Verdict, Welcome, ended_digest,
};
