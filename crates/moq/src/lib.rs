//! MoQ over iroh.
//!
//! [`Moq`] owns every MoQ session of one iroh endpoint. Peers meet in a [`Scope`]: the endpoint's
//! own ([`Moq::own`]) or a room's ([`Moq::open_scope`]), which a dialler names in the path of its
//! SETUP and which nobody can enter without the room's key. A scope has one session for each peer
//! however many callers dial, and one place where broadcasts are published for all of them.
//!
//! - [`Broadcast`], [`TrackWriter`], [`GroupWriter`]: what this endpoint says.
//! - [`RemoteBroadcast`], [`TrackReader`], [`GroupReader`]: what a peer says, found by peer and
//!   name, independent of which session carries it.
//! - [`Session`]: the relation to one peer in one scope. It outlives the connections that carry
//!   it: glare and reconnects exchange them underneath.
//!
//! How it hangs together: `sessions` decides (sans-IO) which connection survives and who waits for
//! which dial; `actor` owns it and `handshake` has the task of each connection; `transport` lets
//! moq-net drive an iroh connection; `scope` holds the routing tables; `broadcast` and `track` are
//! the two ends of the data. No type of moq-net appears in the public interface.

// In a browser sessions belong to one thread, and so does what is shared between its tasks; the same
// code is shared between threads natively.
#![cfg_attr(target_family = "wasm", allow(clippy::arc_with_non_send_sync))]
// A peer must not be able to make this crate panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

// The helpers of the tests name the crate from outside.
#[cfg(test)]
extern crate self as iroh_rooms_moq;

mod actor;
mod announced;
mod broadcast;
mod error;
mod events;
mod flow;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gaps;
mod handshake;
mod incoming;
mod moq;
mod registry;
mod scope;
mod session;
mod sessions;
mod stats;
mod track;
mod transport;
#[cfg(test)]
mod wire_tests;
mod writer;

pub use self::{
    announced::{Announce, Announced},
    broadcast::Broadcast,
    error::{Cause, Error, SessionError, SubscribeError},
    events::{SessionEvent, SessionEvents},
    incoming::{IncomingSession, IncomingSessions},
    moq::{Accept, Config, Moq, MoqProtocolHandler},
    scope::{Scope, scope_path},
    session::{PathKind, Session, SessionStats},
    stats::Stats,
    track::{Datagram, Frame, GroupReader, RemoteBroadcast, TrackOptions, TrackReader},
    writer::{GroupWriter, TrackConfig, TrackDemand, TrackWriter},
};

/// Every limit of this crate that callers or peers can meet.
pub mod limits {
    pub use crate::{
        actor::{MAX_CONNECTIONS, MAX_HANDSHAKES, MAX_HANDSHAKES_OF_PEER},
        broadcast::MAX_TRACKS,
        events::SESSION_EVENTS_CAP,
        flow::{END_PATIENCE, MAX_UNDER_WAY_BYTES, MAX_UNDER_WAY_GROUPS, READY_PATIENCE},
        handshake::{DECISION_TIMEOUT, DIAL_TIMEOUT, HANDSHAKE_TIMEOUT},
        incoming::INCOMING_CAP,
        moq::MAX_SCOPES,
        scope::{MAX_ANNOUNCED, MAX_ANNOUNCED_HARD, MAX_NAME_BYTES, MAX_NAME_PARTS, MAX_PUBLISHED},
        writer::MAX_DATAGRAM_BYTES,
    };
}

/// The protocols to register for a [`MoqProtocolHandler`] and to offer on a dial, newest first:
/// TLS takes the first of the listener's list that the dialler offers too.
pub const ALPNS: [&[u8]; 4] = [
    b"moq-lite-06",
    b"moq-lite-05",
    b"moq-lite-04",
    b"moq-lite-03",
];

/// Codes that a session is closed with. MoQ leaves those from 64 on to applications.
pub mod close {
    /// The work is done.
    pub const NORMAL: u32 = 0;
    /// The listener does not want this session.
    pub const REJECTED: u32 = 1;
    /// Both sides dialled at once; the other session stands.
    pub const GLARE: u32 = 2;
    /// The peer leaves the room or closes its endpoint.
    pub const LEAVING: u32 = 64;
    /// The room does not admit this peer any longer.
    pub const KICKED: u32 = 65;
    /// The listener has no scope of that path.
    pub const UNKNOWN_SCOPE: u32 = 66;
    /// The same peer dialled anew; the newer session stands.
    pub const REPLACED: u32 = 67;
}
