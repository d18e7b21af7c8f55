//! One identity on the network: endpoint, gossip, MoQ and the router that serves them.
//!
//! 1. [`Builder::spawn`] binds the endpoint, registers the protocols and waits for the relay.
//! 2. Rooms are opened on it ([`crate::Room::open`]); each registers itself here.
//! 3. [`Live::close`] leaves the rooms, ends the sessions and closes the endpoint, in this
//!    order, so that peers hear a goodbye instead of waiting for a timeout.

use std::{
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayUrl, SecretKey, TransportAddr, Watcher,
    address_lookup::memory::MemoryLookup, protocol::Router,
};
use iroh_gossip::{TopicId, net::GOSSIP_ALPN};
use iroh_rooms_moq::{ALPNS, Accept, Config as MoqConfig, Moq};
use iroh_rooms_sorted::SortedMap;
use n0_future::{
    StreamExt, task,
    time::{self, Instant},
};
use serde::Serialize;
use tokio::sync::watch;

use crate::{
    Error, RoomHandle, doorman,
    event::Status,
    gossip::GossipSlot,
    room::WeakRoom,
    transport::{self, Line},
};

pub use crate::transport::{Relays, Tuning};

/// How long `spawn` waits for a relay.
pub const RELAY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long `close` waits for the network. By then the goodbyes are out; QUIC would wait for as long as
/// it goes on asking a peer that has vanished, up to a minute.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two early looks for a relay that is not there.
const EARLY_RETRY: Duration = Duration::from_millis(500);

/// Configures a [`Live`].
#[derive(Debug)]
pub struct Builder {
    relays: Relays,
    secret_key: Option<SecretKey>,
    moq: MoqConfig,
    tuning: Tuning,
    line: Option<Line>,
}

impl Builder {
    /// Which relays to use. Default: [`Relays::N0`].
    pub fn relays(mut self, relays: Relays) -> Self {
        self.relays = relays;
        self
    }

    /// The identity. Default: a fresh one.
    pub fn secret_key(mut self, key: SecretKey) -> Self {
        self.secret_key = Some(key);
        self
    }

    /// Whether sessions from outside the rooms are accepted by hand. Default: all are.
    pub fn accept(mut self, accept: Accept) -> Self {
        self.moq.accept = accept;
        self
    }

    /// MoQ connections with peers; see [`MoqConfig::max_connections`].
    pub fn max_connections(mut self, max: usize) -> Self {
        self.moq.max_connections = max;
        self
    }

    /// What makes it fast. Default: all of it.
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        self.tuning = tuning;
        self
    }

    /// On a line within the process, and on nothing else.
    pub(crate) fn on_line(mut self, line: Line) -> Self {
        self.line = Some(line);
        self.relays(Relays::Disabled)
    }

    /// Starts it, and waits up to [`RELAY_TIMEOUT`] for a relay.
    pub async fn spawn(self) -> Result<Live, Error> {
        let marks = Marks::new();
        let lookup = MemoryLookup::new();
        let secret_key = self
            .secret_key
            .unwrap_or_else(|| SecretKey::from_bytes(&rand::random()));
        let endpoint = transport::endpoint(
            secret_key,
            &self.relays,
            self.line,
            lookup.clone(),
            self.tuning,
        )
        .bind()
        .await
        .map_err(|error| Error::Endpoint(format!("{error:#}")))?;
        marks.set("bound");
        let gossip = Arc::new(GossipSlot::new(&endpoint));
        let mut config = self.moq;
        config.dialling = Some(transport::dialling(self.tuning));
        let moq = Moq::with_config(endpoint.clone(), config);
        let mut router = Router::builder(endpoint.clone());
        for alpn in ALPNS {
            router = router.accept(alpn, moq.protocol_handler());
        }
        let hub = doorman::Hub::new(endpoint.secret_key().clone());
        let router = router
            .accept(GOSSIP_ALPN, gossip.clone())
            .accept(doorman::DOOR_ALPN, doorman::DoorHandler(hub.clone()))
            .accept(doorman::RAFT_ALPN, doorman::MemberHandler(hub.clone()))
            .spawn();
        let (status, _) = watch::channel(match self.relays {
            Relays::Disabled => Status::Connected,
            _ => Status::Connecting,
        });
        let live = Live {
            inner: Arc::new(Inner {
                endpoint,
                router,
                gossip,
                moq,
                lookup,
                status: status.clone(),
                relays: self.relays,
                tuning: self.tuning,
                rooms: Mutex::default(),
                hub,
                marks,
            }),
        };
        if live.inner.relays != Relays::Disabled {
            let early = live.only_relay().filter(|_| self.tuning.early).cloned();
            task::spawn(watch_relay(live.inner.endpoint.clone(), early, status));
            if let Err(error) = live.wait_for_relay().await {
                live.close().await;
                return Err(error);
            }
        }
        live.marks().set("relay");
        Ok(live)
    }
}

/// One identity on the network. Cheap to clone; [`Live::close`] ends it for all clones.
#[derive(Debug, Clone)]
pub struct Live {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    router: Router,
    gossip: Arc<GossipSlot>,
    moq: Moq,
    lookup: MemoryLookup,
    status: watch::Sender<Status>,
    relays: Relays,
    tuning: Tuning,
    rooms: Mutex<SortedMap<TopicId, WeakRoom>>,
    hub: Arc<doorman::Hub>,
    marks: Marks,
}

/// When what happened for the first time: where the time of a start goes.
#[derive(Debug)]
pub(crate) struct Marks {
    started: Instant,
    first: Mutex<SortedMap<&'static str, f64>>,
}

impl Marks {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            first: Mutex::default(),
        }
    }

    /// Only the first time counts.
    pub(crate) fn set(&self, what: &'static str) {
        self.lock()
            .entry(what)
            .or_insert_with(|| self.started.elapsed().as_secs_f64() * 1000.0);
    }

    fn lock(&self) -> MutexGuard<'_, SortedMap<&'static str, f64>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a [`Live`] counts.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Stats {
    /// Open rooms.
    pub rooms: usize,
    /// MoQ sessions, all scopes together.
    pub sessions: u64,
    /// Sessions, announcements and frames refused since the start.
    pub refused: u64,
    /// Times that gossip hung or lost its way and was started anew.
    pub gossip_restarts: u64,
    /// When what happened for the first time, in milliseconds since the start: `bound`, `relay`,
    /// and of the rooms `topic`, `neighbor`, `peer`, `dial`, `session`, `broadcast`, `message`.
    pub first_ms: SortedMap<&'static str, f64>,
}

impl Live {
    /// Starts to configure one.
    pub fn builder() -> Builder {
        Builder {
            relays: Relays::N0,
            secret_key: None,
            moq: MoqConfig::default(),
            tuning: Tuning::default(),
            line: None,
        }
    }

    /// The identity.
    pub fn endpoint_id(&self) -> EndpointId {
        self.inner.endpoint.id()
    }

    /// The secret behind the identity.
    pub fn secret_key(&self) -> &SecretKey {
        self.inner.endpoint.secret_key()
    }

    /// Where this endpoint can be dialled.
    pub fn addr(&self) -> EndpointAddr {
        let addr = self.inner.endpoint.addr();
        match self.only_relay() {
            // iroh names it when its report on the network is there.
            Some(relay) if addr.relay_urls().next().is_none() => addr.with_relay_url(relay.clone()),
            _ => addr,
        }
    }

    /// The relay through which this endpoint is reached.
    pub fn relay_url(&self) -> Option<RelayUrl> {
        self.addr().relay_urls().next().cloned()
    }

    /// How it is connected.
    pub fn status(&self) -> Status {
        *self.inner.status.borrow()
    }

    /// Follows the status; the current one counts as seen.
    pub fn status_changes(&self) -> watch::Receiver<Status> {
        self.inner.status.subscribe()
    }

    /// MoQ: the endpoint's own scope, sessions by hand.
    pub fn moq(&self) -> &Moq {
        &self.inner.moq
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        let moq = self.inner.moq.stats();
        Stats {
            rooms: self.rooms().len(),
            sessions: moq.sessions,
            refused: moq.refused + self.inner.gossip.refusals() + self.inner.hub.refusals(),
            gossip_restarts: self.inner.gossip.restarts(),
            first_ms: self.marks().lock().clone(),
        }
    }

    /// Says goodbye in every room at once, as far as that goes without waiting. For a page that
    /// is about to vanish.
    pub fn leave_now(&self) {
        doorman::leave_now(&self.inner.hub);
        for room in self.open_rooms() {
            room.leave_now();
        }
    }

    /// Looks at the network anew, and is back in every room that [`Live::leave_now`] said goodbye
    /// to. For a page that was shown again, or a machine that woke up.
    pub async fn resume(&self) {
        for room in self.open_rooms() {
            room.resume();
        }
        doorman::resume(&self.inner.hub);
        self.inner.endpoint.network_change().await;
    }

    /// Leaves the rooms, ends the sessions and closes the endpoint. Waits some seconds for peers that do
    /// not answer, and no longer. Idempotent.
    pub async fn close(&self) {
        doorman::leave_all(&self.inner.hub).await;
        for room in self.open_rooms() {
            room.leave().await;
        }
        self.inner.moq.shutdown().await;
        let (router, endpoint) = (self.inner.router.clone(), self.inner.endpoint.clone());
        let closing = task::spawn(async move {
            // Fails only when a handler panicked; the endpoint closes all the same.
            let _ = router.shutdown().await;
            endpoint.close().await;
        });
        // What is not done by then goes on.
        let _ = time::timeout(CLOSE_TIMEOUT, closing).await;
        self.inner.status.send_replace(Status::Disconnected);
    }

    /// Whether it has entered no room, and is about to enter none.
    pub(crate) fn is_idle(&self) -> bool {
        self.rooms().is_empty() && self.inner.hub.rooms().is_empty()
    }

    pub(crate) fn marks(&self) -> &Marks {
        &self.inner.marks
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    pub(crate) fn relays(&self) -> &Relays {
        &self.inner.relays
    }

    pub(crate) fn tuning(&self) -> Tuning {
        self.inner.tuning
    }

    pub(crate) fn hub(&self) -> &Arc<doorman::Hub> {
        &self.inner.hub
    }

    pub(crate) fn gossip(&self) -> &Arc<GossipSlot> {
        &self.inner.gossip
    }

    /// Remembers where a peer is reached, for gossip as well as for MoQ.
    pub(crate) fn learn(&self, peer: EndpointId, relay: Option<RelayUrl>) {
        let relay = relay.or_else(|| self.relay_url());
        if let Some(relay) = relay.filter(|_| peer != self.endpoint_id()) {
            self.inner
                .lookup
                .add_endpoint_info(EndpointAddr::new(peer).with_relay_url(relay));
        }
    }

    /// Says that a peer is at this address and no other.
    pub(crate) fn learn_addr(&self, peer: EndpointId, addr: TransportAddr) {
        self.inner
            .lookup
            .add_endpoint_info(EndpointAddr::from_parts(peer, [addr]));
    }

    /// Looks for a peer that is not where it was at all relays of this endpoint: if theirs was the same
    /// and is gone for good, it is at another one of them.
    pub(crate) fn look_everywhere(&self, peer: EndpointId) {
        if let Relays::Custom(urls) = &self.inner.relays {
            let relays = urls.iter().cloned().map(TransportAddr::Relay);
            self.inner
                .lookup
                .add_endpoint_info(EndpointAddr::from_parts(peer, relays));
        }
    }

    pub(crate) fn forget(&self, peer: EndpointId) {
        self.inner.lookup.remove_endpoint_info(peer);
    }

    /// Refuses a room that this endpoint is in already, and a second one in its own MoQ scope.
    pub(crate) fn check_vacant(&self, topic: &TopicId, is_compat: bool) -> Result<(), Error> {
        // Dropped without the lock: the last handle of a room takes it.
        let open = self.open_rooms();
        let mut rooms = self.rooms();
        rooms.retain(|_, room| room.upgrade().is_some());
        if rooms.contains_key(topic) {
            return Err(Error::InvalidArgument(
                "this Live is in that room already: use the Room it has, or another Live".into(),
            ));
        }
        if is_compat && open.iter().any(RoomHandle::is_compat) {
            return Err(Error::InvalidArgument(
                "this Live is in a room with compat already, and has one MoQ scope for them: leave it, or use another Live".into(),
            ));
        }
        Ok(())
    }

    /// Takes the place of a room.
    pub(crate) fn register(&self, topic: TopicId, room: WeakRoom) {
        self.rooms().insert(topic, room);
    }

    pub(crate) fn unregister(&self, topic: &TopicId) {
        self.rooms().remove(topic);
    }

    fn open_rooms(&self) -> Vec<RoomHandle> {
        self.rooms()
            .values()
            .filter_map(WeakRoom::upgrade)
            .collect()
    }

    fn rooms(&self) -> MutexGuard<'_, SortedMap<TopicId, WeakRoom>> {
        self.inner
            .rooms
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The relay, if there is no choice.
    fn only_relay(&self) -> Option<&RelayUrl> {
        match &self.inner.relays {
            Relays::Custom(urls) => match urls.as_slice() {
                [url] => Some(url),
                _ => None,
            },
            _ => None,
        }
    }

    async fn wait_for_relay(&self) -> Result<(), Error> {
        let mut status = self.inner.status.subscribe();
        let connected = status.wait_for(|status| *status == Status::Connected);
        if time::timeout(RELAY_TIMEOUT, connected).await.is_ok() {
            return Ok(());
        }
        let relays = match &self.inner.relays {
            Relays::Custom(urls) => urls
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
            _ => "the public relays".into(),
        };
        let reason = self
            .inner
            .endpoint
            .home_relay_status()
            .get()
            .iter()
            .find_map(|relay| {
                relay
                    .last_error()
                    .map(|error| format!("; last error: {error:#}"))
            })
            .unwrap_or_default();
        Err(Error::RelayUnreachable {
            relays,
            waited: RELAY_TIMEOUT,
            reason,
        })
    }
}

/// Turns the relay's connection into the status, until the endpoint closes. With `early` that relay
/// counts before iroh has chosen it.
async fn watch_relay(endpoint: Endpoint, early: Option<RelayUrl>, status: watch::Sender<Status>) {
    let mut relays = endpoint.home_relay_status().stream();
    let closed = endpoint.closed();
    let mut early = early.map(|relay| Box::pin(watch_early(endpoint, relay, status.clone())));
    let follow = async {
        loop {
            let relays = tokio::select! {
                relays = relays.next() => relays,
                () = async {
                    match &mut early {
                        Some(early) => early.await,
                        None => pending().await,
                    }
                } => None,
            };
            let Some(relays) = relays else { break };
            let up = relays.iter().any(|relay| relay.is_connected());
            if up || relays.iter().any(|relay| relay.last_error().is_some()) {
                early = None;
            }
            if early.is_none() {
                set_status(&status, up);
            }
        }
    };
    tokio::select! {
        () = follow => {}
        _ = closed => {}
    }
}

/// The same for one relay, until iroh has chosen it. Never ends by itself.
async fn watch_early(endpoint: Endpoint, relay: RelayUrl, status: watch::Sender<Status>) {
    loop {
        if let Some(mut client) = transport::carries(&endpoint, &relay).await {
            if *status.borrow() == Status::Reconnecting {
                // iroh found no relay when it looked, and looks again only in 20 s.
                endpoint.network_change().await;
            }
            set_status(&status, true);
            while let Some(Ok(_)) = client.next().await {}
            set_status(&status, false);
        }
        time::sleep(EARLY_RETRY).await;
    }
}

fn set_status(status: &watch::Sender<Status>, up: bool) {
    status.send_if_modified(|status| {
        let next = match (*status, up) {
            (_, true) => Status::Connected,
            (Status::Connected, false) => Status::Reconnecting,
            (other, false) => other,
        };
        std::mem::replace(status, next) != next
    });
}
