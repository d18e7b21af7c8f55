//! Peers of iroh-live, in a room with [`crate::room::Compat::IrohLive`].
//!
//! They say who they are at another key of the topic, without a proof that they know it, and their
//! sessions are in the endpoint's own MoQ scope. There is more in it than this room, so here the
//! broadcasts of a peer are those that its presence names.

use std::time::Duration;

use iroh::EndpointId;
use iroh_rooms_moq::close;
use iroh_rooms_sorted::SortedMap;
use n0_future::time::Instant;

use super::{Actor, wall_micros};
use crate::{
    event::EndReason,
    presence::{PeerState, RoomState},
    roster::{Input, is_internal},
};

/// Peers of this library write both values, and theirs says more: it is waited for so long.
const OWN_VALUE_WAIT: Duration = Duration::from_millis(500);
/// Peers whose last value's time is remembered; those who are gone are forgotten first.
const MAX_KNOWN: usize = 4096;

/// What is known of peers of iroh-live.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    /// When the last value of each was written.
    last: SortedMap<EndpointId, u64>,
    /// Those to be met, unless a value of this library comes first. The topic has no more peers
    /// than [`iroh_rooms_kv`] takes, and none is here for longer than [`OWN_VALUE_WAIT`] and a tick.
    waiting: SortedMap<EndpointId, (Instant, PeerState)>,
}

impl Actor {
    /// Takes a value that peers of iroh-live write, and those of this library beside their own.
    pub(super) fn foreign_value(&mut self, peer: EndpointId, value: &[u8], timestamp: u64) {
        let Some(foreign) = &mut self.foreign else {
            return;
        };
        if peer == self.me || self.last_values.contains_key(&peer) {
            return;
        }
        if foreign.last.len() >= MAX_KNOWN && !foreign.last.contains_key(&peer) {
            let roster = &self.roster;
            foreign.last.retain(|id, _| roster.get(id).is_some());
        }
        let last = foreign.last.entry(peer).or_default();
        if timestamp <= *last {
            return;
        }
        *last = timestamp;
        let Some(state) = PeerState::decode(value) else {
            self.refused += 1;
            return;
        };
        if self.roster.get(&peer).is_some() {
            self.meet(peer, state);
        } else {
            let due = Instant::now() + OWN_VALUE_WAIT;
            let (due, _) = foreign
                .waiting
                .remove(&peer)
                .unwrap_or((due, state.clone()));
            foreign.waiting.insert(peer, (due, state));
        }
    }

    /// A value of this library came: what the peer says in the other one it says there too.
    pub(super) fn is_no_foreigner(&mut self, peer: EndpointId) {
        if let Some(foreign) = &mut self.foreign {
            foreign.waiting.remove(&peer);
        }
    }

    /// Meets those of whom nothing but iroh-live's value came.
    pub(super) fn meet_foreigners(&mut self) {
        let Some(foreign) = &mut self.foreign else {
            return;
        };
        let now = Instant::now();
        let due: Vec<_> = foreign
            .waiting
            .extract_if(|_, (due, _)| *due <= now)
            .collect();
        for (peer, (_, state)) in due {
            self.meet(peer, state);
        }
    }

    fn meet(&mut self, peer: EndpointId, state: PeerState) {
        let state = RoomState::foreign(state);
        let wall_ms = wall_micros() / 1000;
        self.feed(Input::Presence {
            peer,
            state: &state,
            repeated: false,
            wall_ms,
        });
        if self.roster.get(&peer).is_some() {
            self.learn_relay(peer, None);
        }
    }

    /// Whether a broadcast on a session is one of the room. Those of its own are in no presence.
    pub(super) fn belongs(&self, peer: EndpointId, name: &str) -> bool {
        let named = |peer: &crate::event::Peer| peer.broadcasts.iter().any(|known| known == name);
        self.foreign.is_none() || is_internal(name) || self.roster.get(&peer).is_some_and(named)
    }

    /// A peer's presence names other broadcasts than before.
    pub(super) fn compare_broadcasts(&mut self, peer: EndpointId) {
        if self.foreign.is_none() {
            return;
        }
        for name in self.live_broadcasts.get(&peer).cloned().unwrap_or_default() {
            if self.belongs(peer, &name) {
                self.begin_reading(peer, &name);
            } else if self.readers.remove(&(peer, name.clone())).is_some() {
                self.end_broadcast(peer, &name, EndReason::Unpublished);
            }
        }
    }

    /// The endpoint's own scope goes on without the room: what was published in it is withdrawn, and
    /// the sessions with those who were here end.
    pub(super) fn leave_own_scope(&self) {
        for name in self.published.keys() {
            self.scope.unpublish(name);
        }
        for peer in self.roster.iter() {
            self.scope.disconnect(peer.id, close::LEAVING, "leaving");
        }
    }
}
