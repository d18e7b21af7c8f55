//! Rooms over iroh: peers meet by a ticket, see each other come and go, chat, and read each
//! other's broadcasts. No application server; browsers and native programs alike.
//!
//! ```no_run
//! # async fn example() -> Result<(), iroh_rooms::Error> {
//! use iroh_rooms::{Live, Room, RoomTicket};
//!
//! let live = Live::builder().spawn().await?;
//! let mut room = Room::new(&live, RoomTicket::generate()).await?;
//! println!("join with {}", room.ticket().await?);
//! while let Some(event) = room.recv().await {
//!     println!("{event:?}");
//! }
//! # Ok(()) }
//! ```
//!
//! [`Live`] is one identity on the network; [`Room`] a room it is in; [`Event`] what happens
//! there. What can be wrong without a network lives in `roster`, `presence`, `ticket` and
//! `chat`; `room` is the actor around them.

// In a browser sessions belong to one thread, and so does what is shared between its tasks; the same
// code is shared between threads natively.
#![cfg_attr(target_family = "wasm", allow(clippy::arc_with_non_send_sync))]
// What a peer sends must not be able to panic: that would end a whole Worker.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

pub mod channel;
pub mod chat;
mod door;
pub mod doorman;
mod error;
pub mod event;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gossip;
pub mod live;
pub mod presence;
pub mod publisher;
pub mod room;
mod roster;
mod ticket;
mod transport;
mod warm;

#[doc(hidden)]
pub use iroh_rooms_kv as kv;
pub use iroh_rooms_moq as moq;

pub use self::{
    chat::ChatPublisher,
    doorman::StateRoom,
    error::Error,
    event::{ChatMessage, Event, Peer},
    live::{Live, Relays, Tuning},
    publisher::{PublishOpts, PublishSources, RoomPublisherSync},
    room::{Room, RoomEvents, RoomHandle},
    ticket::RoomTicket,
    warm::warm_up,
};

/// Without what could steer a terminal: what others say ends up in messages.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Bytes as lower-case hex.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
