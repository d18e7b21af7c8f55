//! The topic: what this peer says of itself, what others say, and who is a neighbour.

use std::time::Duration;

use iroh::{EndpointId, RelayUrl};
use iroh_rooms_kv as kv;
use iroh_rooms_moq::close;
use iroh_rooms_sorted::SortedSet;
use n0_future::{task, time::Instant};
use rand::seq::SliceRandom;

use super::{Actor, Dial, join_topic, wall_micros};
use crate::{
    Error,
    event::{EndReason, Event, LeftReason},
    presence::{PEER_STATE_KEY, ROOM_STATE_KEY, RoomState},
    room::lock,
    roster::{Input, Output},
};

/// How often presence is signed anew.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Every so many heartbeats iroh-live's value is signed anew too.
const PEER_STATE_EVERY: u32 = 3;
/// How long the side with the higher id waits for the other's dial.
const DIAL_GRACE: Duration = Duration::from_millis(1500);
/// Peers whose last value's time is remembered; those who are gone are forgotten first.
const MAX_LAST_VALUES: usize = 4096;
/// Relays that peers may name, all together. Each one that is dialled there has us connect to it, so
/// whoever enters could otherwise send us to ever more hosts; a peer that names one more is looked for
/// at our own relay.
const MAX_RELAYS: usize = 8;
/// Peers asked at once when neighbours are lost.
const REJOIN_PEERS: usize = 8;
/// How long a peer with sessions may be without a neighbour before gossip is started anew.
const LONELY: Duration = Duration::from_secs(4);

impl Actor {
    pub(super) async fn write_presence(&mut self) {
        self.dirty = false;
        self.written = Instant::now();
        self.state.relay_url = self.live.relay_url().map(|url| url.to_string());
        let wrote = match self.state.encode() {
            Ok(value) => self
                .kv
                .put(ROOM_STATE_KEY, value)
                .await
                .map_err(Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = wrote {
            self.fail(&error);
        }
        self.write_peer_state().await;
    }

    pub(super) async fn write_peer_state(&mut self) {
        // Postcard fails only on types of unknown length.
        let Ok(value) = postcard::to_stdvec(&self.state.peer_state()) else {
            return;
        };
        if let Err(error) = self.kv.put(PEER_STATE_KEY, value).await {
            self.fail(&error.into());
        }
    }

    pub(super) async fn heartbeat(&mut self) {
        if self.written.elapsed() < HEARTBEAT {
            return;
        }
        self.heartbeats += 1;
        self.written = Instant::now();
        self.state.relay_url = self.live.relay_url().map(|url| url.to_string());
        if let Ok(value) = self.state.encode()
            && let Err(error) = self.kv.put(ROOM_STATE_KEY, value).await
        {
            self.fail(&error.into());
        }
        if self.heartbeats.is_multiple_of(PEER_STATE_EVERY) {
            self.write_peer_state().await;
        }
    }

    pub(super) fn presence(&mut self, event: kv::Event) {
        match event {
            kv::Event::Value {
                scope,
                key,
                value,
                timestamp,
                repeated,
            } if key == ROOM_STATE_KEY => {
                if !self.admits(&scope) {
                    return;
                }
                // Reading the values anew also brings those of peers that are gone.
                if !self.is_news(scope, timestamp) {
                    return;
                }
                self.is_no_foreigner(scope);
                let Some(mut state) = RoomState::decode(&value, &self.key, &scope) else {
                    self.refused += 1;
                    return;
                };
                if scope == self.me {
                    return;
                }
                // What it says of itself counts where nobody else knows.
                if let Some(guard) = &self.guard {
                    state.participant_id = guard.borrow().participants.get(&scope).cloned();
                }
                let wall_ms = wall_micros() / 1000;
                self.feed(Input::Presence {
                    peer: scope,
                    state: &state,
                    repeated,
                    wall_ms,
                });
                if self.roster.get(&scope).is_some() {
                    self.learn_relay(scope, state.relay());
                }
            }
            kv::Event::Value {
                scope,
                key,
                value,
                timestamp,
                ..
            } if key == PEER_STATE_KEY => self.foreign_value(scope, &value, timestamp),
            kv::Event::NeighborUp(peer) => {
                self.live.marks().set("neighbor");
                self.neighbors.insert(peer);
            }
            kv::Event::NeighborDown(peer) => {
                self.neighbors.remove(&peer);
            }
            kv::Event::Detached => self.neighbors.clear(),
            // Values of other keys are for other readers, and who is silent is the roster's to say.
            _ => {}
        }
    }

    /// Whether a peer may be here.
    pub(super) fn admits(&self, peer: &EndpointId) -> bool {
        let guard = self.guard.as_ref();
        guard.is_none_or(|it| it.borrow().participants.contains_key(peer))
    }

    /// Shows out who is a member no more.
    pub(super) fn members_changed(&mut self) {
        let Some(members) = self.guard.as_ref().map(|it| it.borrow().clone()) else {
            return;
        };
        let here = self.roster.iter().map(|peer| peer.id);
        let here: SortedSet<EndpointId> = here.chain(self.sessions.keys().copied()).collect();
        for peer in here {
            if members.participants.contains_key(&peer) {
                continue;
            }
            let reason = members.gone.get(&peer).copied().unwrap_or(LeftReason::Left);
            let (code, why) = match reason {
                LeftReason::Kicked => (close::KICKED, "kicked"),
                _ => (close::NORMAL, "no member"),
            };
            self.scope.disconnect(peer, code, why);
            self.feed(Input::Gone(peer, reason));
            self.last_values.remove(&peer);
        }
        // Whom to ask when there are no neighbours.
        let others = members.participants.into_keys();
        self.bootstrap = others.filter(|peer| *peer != self.me).collect();
    }

    pub(super) fn learn_relay(&mut self, peer: EndpointId, relay: Option<RelayUrl>) {
        let known: SortedSet<&RelayUrl> = self.relays.values().collect();
        let relay = relay.filter(|relay| known.contains(relay) || known.len() < MAX_RELAYS);
        self.live.learn(peer, relay.clone());
        match relay {
            Some(relay) => self.relays.insert(peer, relay),
            None => self.relays.remove(&peer),
        };
    }

    /// Joins the topic once more, with everyone known to begin with.
    pub(super) async fn enter_topic(&mut self) -> Option<kv::Subscription> {
        self.neighbors.clear();
        self.lonely_since = None;
        let peers = self.known_peers();
        match join_topic(&self.live, self.topic, peers).await {
            Ok(kv) => self.kv = kv,
            Err(error) => {
                self.fail(&error.into());
                return None;
            }
        }
        self.write_presence().await;
        self.kv.subscribe().await.ok()
    }

    /// Whether a peer's value is strictly newer than the last one seen here.
    pub(super) fn is_news(&mut self, peer: EndpointId, timestamp: u64) -> bool {
        if self.last_values.len() >= MAX_LAST_VALUES && !self.last_values.contains_key(&peer) {
            let roster = &self.roster;
            self.last_values.retain(|id, _| roster.get(id).is_some());
        }
        let last = self.last_values.entry(peer).or_default();
        let news = timestamp > *last;
        *last = timestamp.max(*last);
        news
    }

    /// Feeds the roster and does what follows.
    pub(super) fn feed(&mut self, input: Input<'_>) {
        let goodbye = matches!(&input, Input::Presence { state, .. } if state.is_leaving());
        for output in self.roster.handle(input, self.now()) {
            match output {
                Output::Joined(peer) => {
                    let id = peer.id;
                    self.emit(Event::PeerJoined { peer });
                    self.joined(id);
                }
                Output::Updated(peer, changed) => {
                    let id = peer.id;
                    self.emit(Event::PeerUpdated { peer, changed });
                    self.compare_broadcasts(id);
                }
                Output::Announced(peer, names) => {
                    self.emit(Event::BroadcastAnnounced { peer, names });
                }
                Output::Left(peer, reason) => {
                    self.left(peer.id, reason);
                    self.withhold(peer.id, goodbye);
                    self.emit(Event::PeerLeft { peer, reason });
                }
            }
        }
    }

    pub(super) fn joined(&mut self, peer: EndpointId) {
        self.live.marks().set("peer");
        for open in self.channels.values_mut() {
            if let Err(error) = open.writer.add_peer(peer) {
                tracing::debug!(%error, "no track for a peer");
            }
        }
        let wait = if self.sessions.contains_key(&peer) || self.me < peer {
            Duration::ZERO
        } else {
            DIAL_GRACE
        };
        let due = (!self.sessions.contains_key(&peer)).then(|| Instant::now() + wait);
        // One that the ticket names is being dialled already.
        self.dials.entry(peer).or_insert(Dial {
            due,
            ..Dial::default()
        });
        if self.sessions.contains_key(&peer) {
            self.feed(Input::Heard(peer));
        }
        for name in self.live_broadcasts.get(&peer).cloned().unwrap_or_default() {
            self.appeared(peer, &name);
        }
    }

    pub(super) fn left(&mut self, peer: EndpointId, reason: LeftReason) {
        // Not within the loop's head: the lock would be held through the loop.
        let names = lock(&self.view).subscribed(peer);
        for name in names {
            self.end_broadcast(peer, &name, EndReason::PeerLeft);
        }
        self.readers.retain(|(owner, _), _| *owner != peer);
        self.fading.retain(|(owner, _), _| *owner != peer);
        self.dials.remove(&peer);
        self.relays.remove(&peer);
        self.refused_of.remove(&peer);
        for open in self.channels.values_mut() {
            open.writer.remove_peer(&peer);
        }
        let why = if reason == LeftReason::Timeout {
            "silent"
        } else {
            "left"
        };
        self.scope.disconnect(peer, close::NORMAL, why);
        if !self.neighbors.contains(&peer) && !self.bootstrap.contains(&peer) {
            self.live.forget(peer);
        }
    }

    /// Newcomers are no longer told of a peer that is gone. Its goodbye is for them, too: of those who
    /// have not heard it, some may still tell them of the peer.
    fn withhold(&self, peer: EndpointId, goodbye: bool) {
        let kv = self.kv.clone();
        task::spawn(async move {
            // A topic that was left tells nobody anything.
            let _ = kv.withhold(peer, PEER_STATE_KEY).await;
            if !goodbye {
                let _ = kv.withhold(peer, ROOM_STATE_KEY).await;
            }
        });
    }

    /// Gossip does not look for new neighbours by itself once all are gone.
    pub(super) async fn find_neighbors(&mut self) {
        self.rejoined = Instant::now();
        if !self.neighbors.is_empty() {
            return;
        }
        let peers = self.known_peers();
        if peers.is_empty() {
            return;
        }
        for peer in &peers {
            self.live.look_everywhere(*peer);
        }
        if let Err(error) = self.kv.join_peers(peers).await {
            tracing::debug!(%error, "no neighbours");
        }
    }

    /// A few of those present, and of those that the ticket named, or who are members.
    pub(super) fn known_peers(&self) -> Vec<EndpointId> {
        let mut known: Vec<EndpointId> = self.roster.iter().map(|peer| peer.id).collect();
        let mut named = self.bootstrap.clone();
        for peers in [&mut known, &mut named] {
            peers.shuffle(&mut rand::rng());
            peers.truncate(REJOIN_PEERS);
        }
        known.extend(named);
        known
    }

    /// Peers have sessions with this one, and yet none becomes its neighbour: they may take it
    /// for the one that it was before it came back, and do not answer.
    pub(super) fn check_loneliness(&mut self) {
        // In the endpoint's own scope there are sessions with peers that are in no room.
        let has_session = if self.foreign.is_some() {
            self.sessions
                .keys()
                .any(|peer| self.roster.get(peer).is_some() || self.bootstrap.contains(peer))
        } else {
            !self.sessions.is_empty()
        };
        if !self.neighbors.is_empty() || !has_session {
            self.lonely_since = None;
            return;
        }
        let since = *self.lonely_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= LONELY {
            self.lonely_since = None;
            self.live.gossip().restart();
        }
    }
}
