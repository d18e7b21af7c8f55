//! A signed last-writer-wins map over a gossip topic, wire-compatible with iroh-smol-kv 0.4.
//!
//! Everyone in the topic owns a scope (their public key) with a few small values; everyone else
//! reads them. [`Kv`] is the handle, [`store::Store`] the logic without clock and network,
//! [`wire`] the bytes.
//!
//! A value lives only as long as its writer: what was not written again for
//! [`Config::expiry`] is gone. While a [`Kv`] lives it writes its own values again by itself,
//! at least with every anti-entropy pass, so that they neither expire nor pass newcomers by.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)
)]

mod actor;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod kv;
mod refusal;
pub mod store;
pub mod wire;

pub use kv::{Config, Error, Event, Kv, Stats, Subscription};
pub use refusal::{Refusal, Refused};
