//! The actor of a [`Kv`]: a [`Store`] on a gossip topic.
//!
//! The life of a topic:
//! 1. [`Kv::join`] subscribes to the topic and spawns the actor, which owns everything.
//! 2. Own values go to the whole topic when they are put. With every new neighbour they are
//!    signed again at once, and [`NEWCOMER_DELAY`] later what is known of others follows,
//!    a few messages at a time, for neighbours only. The same happens when gossip says that it
//!    dropped messages, and every [`Config::anti_entropy`], at first more often ([`SETTLING`]).
//! 3. If gossip ends the topic, it is joined again, with a delay that doubles up to
//!    [`REJOIN_DELAY_MAX`], and subscribers hear [`Event::Detached`].
//! 4. The actor ends, and with it the membership of the topic, with [`Kv::close`] or the last
//!    handle.
//!
//! Gossip is called by one call at a time, which is waited for beside everything else and for at
//! most [`CALL_TIMEOUT`]: when gossip hangs, this actor does not.

use std::{collections::VecDeque, future::pending, pin::pin};

use bytes::Bytes;
use iroh_base::{EndpointId, PublicKey, SecretKey};
use iroh_gossip::{
    Gossip, TopicId,
    api::{ApiError, Event as GossipEvent, GossipReceiver, GossipSender, GossipTopic},
};
use iroh_rooms_sorted::SortedSet;
use n0_future::{
    StreamExt,
    boxed::BoxFuture,
    time::{Duration, Instant, SystemTime, sleep, sleep_until, timeout},
};
use rand::{Rng, seq::SliceRandom};
use tokio::sync::{broadcast, mpsc};
use tracing::{debug, warn};

#[cfg(doc)]
use crate::Kv;
use crate::{
    kv::{Config, Error, Event, PEERS_MAX, Reply, Request, Stats, Subscription},
    store::{Input, Lifetimes, Now, Output, Store, StoreStats},
};

/// Events that a subscription may be behind; at the limit the oldest are dropped and
/// [`Event::Lagged`] says how many.
const EVENTS_CAP: usize = 1024;
/// Calls that wait for gossip; at the limit the oldest fails with [`Error::Stalled`].
const CALLS_CAP: usize = 64;
/// A call to gossip that takes longer has failed, and [`Event::Stalled`] is sent.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// From a new neighbour to telling it about others: time for it to hear of them first hand.
const NEWCOMER_DELAY: Duration = Duration::from_millis(200);
/// The first interval of anti-entropy after a new neighbour, four times as long each time:
/// gossip tells only those neighbours that are next in its tree, and peers that join at once
/// can prune a newcomer on all sides. The next message to the whole topic mends the tree.
const SETTLING: Duration = Duration::from_secs(1);
/// From signing own values again to repeating others' in anti-entropy: for the former to mend the
/// tree, which the latter then follow. Gossip takes 80 ms and then 40 ms to ask for what it lacks.
const MEND_DELAY: Duration = Duration::from_millis(300);
/// Between two signings of own values for new neighbours, at least.
const REFRESH_GAP: Duration = Duration::from_millis(100);
/// The same for each peer that there is, at most [`REFRESH_GAP_MAX`]: what is signed goes to all, and
/// where many come at once all have new neighbours all the time.
const REFRESH_GAP_EACH: Duration = Duration::from_millis(10);
/// The longest gap.
const REFRESH_GAP_MAX: Duration = Duration::from_secs(1);
/// Between two starts of passes through the store for new neighbours.
const PASS_GAP: Duration = Duration::from_millis(500);
/// Repeats are handed out so many at a time, so that neither gossip's queues nor a slow
/// reader's overflow.
const REPEATS_AT_ONCE: usize = 8;
/// The pause between them.
const REPEATS_GAP: Duration = Duration::from_millis(10);
/// With neighbours and without a word from gossip for this long, gossip is asked for a sign of
/// life: it takes 64 calls before it blocks, which in a quiet topic is minutes.
const SILENCE: Duration = Duration::from_secs(10);
/// How often the store is told the time.
const TICK: Duration = Duration::from_secs(1);
/// Browsers count in whole milliseconds and ring that much too early.
const ALARM_SLACK: Duration = Duration::from_millis(1);
/// The first delay before a lost topic is joined again.
const REJOIN_DELAY_MIN: Duration = Duration::from_millis(250);
/// The last one.
const REJOIN_DELAY_MAX: Duration = Duration::from_secs(10);
/// What gossip's frame of a message has beside the content, at least: two tags, a hash, the length
/// and the number of hops.
const FRAME_OVERHEAD: usize = 38;
/// So many messages are read in one go: in a browser a flood must leave room for others.
const MESSAGES_AT_ONCE: u32 = 64;

/// Who waits for a call to gossip, if anyone does.
type Waiter = Option<Reply<Result<(), Error>>>;

/// What gossip is asked to do.
#[derive(Debug)]
enum Call {
    Broadcast(Bytes),
    Repeat(Bytes),
    JoinPeers(Vec<EndpointId>),
    /// A sign of life is wanted.
    Probe,
}

/// How a call to gossip ended.
enum Done {
    Called(Result<(), Error>, Waiter),
    Joined(Result<GossipTopic, Error>),
    /// The sign of life wanted since then came, or not.
    Probed(Instant, Result<(), Error>),
}

pub(crate) struct Actor {
    gossip: Gossip,
    topic: TopicId,
    config: Config,
    started: Instant,
    store: Store,
    events: broadcast::Sender<Event>,
    /// `None` while the topic is lost.
    sender: Option<GossipSender>,
    neighbors: SortedSet<EndpointId>,
    /// Whom to dial when the topic was lost: at most [`PEERS_MAX`].
    peers: SortedSet<EndpointId>,
    /// What gossip is to do, and who waits for it: at most [`CALLS_CAP`].
    calls: VecDeque<(Call, Waiter)>,
    /// What is still to be told to neighbours in this pass: at most what the store holds.
    repeats: VecDeque<(PublicKey, Bytes)>,
    tick_at: Instant,
    anti_entropy_at: Instant,
    /// The next interval of anti-entropy, if shorter than [`Config::anti_entropy`].
    settling: Duration,
    refresh_at: Option<Instant>,
    pass_at: Option<Instant>,
    repeats_at: Instant,
    probe_at: Instant,
    rejoin_at: Option<Instant>,
    rejoin_delay: Duration,
    refreshed: Option<Instant>,
    passed: Option<Instant>,
    /// When gossip last said anything.
    heard: Instant,
    /// Whether [`Event::Stalled`] is out and no call has succeeded since.
    hangs: bool,
    sent: u64,
    lagged: u64,
    stalled: u64,
    detached: u64,
}

impl Actor {
    pub(crate) fn new(
        gossip: Gossip,
        topic: TopicId,
        secret: SecretKey,
        peers: SortedSet<EndpointId>,
        config: Config,
    ) -> Self {
        let started = Instant::now();
        let lifetimes = Lifetimes {
            expiry: config.expiry,
            repeat: config.repeat,
        };
        let (events, _) = broadcast::channel(EVENTS_CAP);
        let mut actor = Self {
            gossip,
            topic,
            config,
            started,
            store: Store::new(secret, lifetimes, now(started)),
            events,
            sender: None,
            neighbors: SortedSet::new(),
            peers,
            calls: VecDeque::new(),
            repeats: VecDeque::new(),
            tick_at: started + TICK,
            anti_entropy_at: started,
            settling: Duration::MAX,
            refresh_at: None,
            pass_at: None,
            repeats_at: started,
            probe_at: started + SILENCE,
            rejoin_at: None,
            rejoin_delay: REJOIN_DELAY_MIN,
            refreshed: None,
            passed: None,
            heard: started,
            hangs: false,
            sent: 0,
            lagged: 0,
            stalled: 0,
            detached: 0,
        };
        actor.anti_entropy_at = actor.next_anti_entropy(started);
        actor
    }

    pub(crate) async fn run(mut self, topic: GossipTopic, mut inbox: mpsc::Receiver<Request>) {
        let (sender, receiver) = topic.split();
        self.sender = Some(sender);
        let mut receiver = Some(receiver);
        let mut calling = None;
        let mut alarm = pin!(sleep_until(self.alarm()));
        let mut messages = 0;
        let closed = loop {
            if calling.is_none() {
                calling = self.next_call();
            }
            let due = self.alarm();
            if alarm.deadline() != due {
                alarm.as_mut().reset(due);
            }
            tokio::select! {
                biased;
                request = inbox.recv() => match request {
                    Some(Request::Close(reply)) => break Some(reply),
                    Some(request) => self.on_request(request),
                    None => break None,
                },
                done = finish(&mut calling) => match done {
                    Done::Called(result, reply) => self.on_called(result, reply),
                    Done::Joined(Ok(topic)) => {
                        let (sender, events) = topic.split();
                        self.sender = Some(sender);
                        receiver = Some(events);
                    }
                    Done::Joined(Err(error)) => self.on_join_failed(&error),
                    Done::Probed(since, result) => self.on_probed(since, result),
                },
                () = &mut alarm => self.on_alarm(),
                event = next_event(&mut receiver) => match event {
                    Some(Ok(event)) => {
                        self.on_gossip(event);
                        messages += 1;
                        if messages >= MESSAGES_AT_ONCE {
                            messages = 0;
                            sleep(Duration::ZERO).await;
                        }
                    }
                    Some(Err(error)) => self.detach(&error.to_string()),
                    None => self.detach("gossip closed the topic"),
                },
            }
            if self.sender.is_none() {
                receiver = None;
            }
        };
        // Gossip leaves a topic when its sender and its receiver are gone, and does first what
        // it was told before.
        drop((calling, receiver, self));
        if let Some(reply) = closed {
            reply.send(()).ok();
        }
    }

    fn on_request(&mut self, request: Request) {
        // Whoever asked may have gone: that is no concern of this actor.
        match request {
            Request::Put(key, value, reply) => self.put(&key, &value, reply),
            Request::Withhold(scope, key, reply) => {
                let (scope, key) = (&scope, &key[..]);
                self.handle(Input::Withhold { scope, key });
                reply.send(()).ok();
            }
            Request::JoinPeers(peers, reply) => {
                let peers: Vec<_> = peers.into_iter().take(PEERS_MAX).collect();
                self.remember(peers.iter().copied());
                self.enqueue(Call::JoinPeers(peers), Some(reply));
            }
            Request::Subscribe(reply) => {
                reply.send(self.subscription()).ok();
            }
            Request::Neighbors(reply) => {
                reply.send(self.neighbors.iter().copied().collect()).ok();
            }
            Request::Stats(reply) => {
                reply.send(self.stats()).ok();
            }
            Request::Close(reply) => {
                reply.send(()).ok();
            }
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8], reply: Reply<Result<(), Error>>) {
        let mut reply = Some(reply);
        match self
            .store
            .handle(Input::Put { key, value }, now(self.started))
        {
            Ok(outputs) => {
                for output in outputs {
                    self.apply(output, reply.take());
                }
            }
            Err(error) => {
                if let Some(reply) = reply {
                    reply.send(Err(Error::TooLarge(error))).ok();
                }
            }
        }
    }

    fn subscription(&self) -> Subscription {
        let neighbors = self.neighbors.iter().copied().map(Event::NeighborUp);
        let values = self.store.values().map(|(scope, key, entry)| Event::Value {
            scope,
            key: key.clone(),
            value: entry.value.value.clone(),
            timestamp: entry.value.timestamp,
            repeated: entry.repeated,
        });
        Subscription {
            current: neighbors.chain(values).collect(),
            changes: self.events.subscribe(),
        }
    }

    fn stats(&self) -> Stats {
        let StoreStats {
            received,
            accepted,
            known,
            refused,
            scopes,
            entries,
            bytes,
            tombstones,
        } = self.store.stats();
        Stats {
            received,
            accepted,
            known,
            refused,
            sent: self.sent,
            scopes,
            entries,
            bytes,
            tombstones,
            lagged: self.lagged,
            stalled: self.stalled,
            detached: self.detached,
        }
    }

    fn on_gossip(&mut self, event: GossipEvent) {
        self.rejoin_delay = REJOIN_DELAY_MIN;
        self.heard = Instant::now();
        match event {
            GossipEvent::Received(message) => {
                if message.content.len() + FRAME_OVERHEAD >= self.gossip.max_message_size() {
                    self.emit(Event::Poisoned(message.delivered_from));
                }
                self.handle(Input::Received(&message.content));
            }
            GossipEvent::NeighborUp(peer) => {
                self.neighbors.insert(peer);
                self.remember([peer]);
                self.emit(Event::NeighborUp(peer));
                self.resync(PASS_GAP);
                self.settling = SETTLING;
                self.anti_entropy_at = self.anti_entropy_at.min(self.next_anti_entropy(self.heard));
            }
            GossipEvent::NeighborDown(peer) => {
                self.neighbors.remove(&peer);
                self.emit(Event::NeighborDown(peer));
            }
            // What was lost is unknown. Neighbours bring it again with their own passes; this
            // one is for them, because whoever floods one floods all. Not more often than that
            // helps.
            GossipEvent::Lagged => {
                self.lagged = self.lagged.saturating_add(1);
                warn!("gossip dropped messages");
                self.resync(CALL_TIMEOUT);
            }
        }
    }

    /// Has own values signed again at once and the others' repeated soon, unless that is due
    /// already. `gap` is the least time between two passes.
    fn resync(&mut self, gap: Duration) {
        let now = Instant::now();
        let scopes = u32::try_from(self.store.scopes()).unwrap_or(u32::MAX);
        let refresh_gap = REFRESH_GAP_EACH
            .saturating_mul(scopes)
            .clamp(REFRESH_GAP, REFRESH_GAP_MAX);
        self.refresh_at.get_or_insert(match self.refreshed {
            Some(refreshed) => now.max(refreshed + refresh_gap),
            None => now,
        });
        self.pass_at.get_or_insert(match self.passed {
            Some(passed) => (now + NEWCOMER_DELAY).max(passed + gap),
            None => now + NEWCOMER_DELAY,
        });
    }

    /// When there is something to do next.
    fn alarm(&self) -> Instant {
        let repeats = (!self.repeats.is_empty()).then_some(self.repeats_at);
        [self.refresh_at, self.pass_at, repeats, self.rejoin_due()]
            .into_iter()
            .flatten()
            .fold(self.tick_at.min(self.anti_entropy_at), Instant::min)
    }

    fn on_alarm(&mut self) {
        let now = Instant::now() + ALARM_SLACK;
        if now >= self.tick_at {
            self.tick_at = now + TICK;
            self.handle(Input::Tick);
            if !self.neighbors.is_empty() && now >= self.probe_at.max(self.heard + SILENCE) {
                self.probe_at = now + SILENCE;
                self.enqueue(Call::Probe, None);
            }
        }
        if now >= self.anti_entropy_at {
            self.anti_entropy_at = self.next_anti_entropy(now);
            self.refresh_at = Some(now);
            self.pass_at = Some(now + MEND_DELAY);
        }
        if self.refresh_at.is_some_and(|at| now >= at) {
            self.refresh_at = None;
            self.refreshed = Some(now);
            self.handle(Input::Refresh);
        }
        if self.pass_at.is_some_and(|at| now >= at) {
            self.pass_at = None;
            self.passed = Some(now);
            self.start_pass(now);
        }
        if !self.repeats.is_empty() && now >= self.repeats_at {
            self.repeats_at = now + REPEATS_GAP;
            self.repeat_some();
        }
    }

    fn next_anti_entropy(&mut self, now: Instant) -> Instant {
        let interval = self.config.anti_entropy.max(TICK).min(self.settling);
        self.settling = self.settling.saturating_mul(4);
        now + interval.mul_f64(rand::rng().random_range(0.8..1.2))
    }

    /// In random order, so that passes of several neighbours do not tell the same first.
    fn start_pass(&mut self, now: Instant) {
        let mut repeats: Vec<_> = self
            .store
            .repeatable()
            .map(|(scope, key)| (scope, key.clone()))
            .collect();
        repeats.shuffle(&mut rand::rng());
        self.repeats = repeats.into();
        self.repeats_at = now;
    }

    fn repeat_some(&mut self) {
        if self.neighbors.is_empty() {
            self.repeats.clear();
            return;
        }
        // Gossip has not yet taken the last ones: they are not to push out anything else.
        if self.calls.len() >= REPEATS_AT_ONCE {
            return;
        }
        for _ in 0..REPEATS_AT_ONCE {
            let Some((scope, key)) = self.repeats.pop_front() else {
                return;
            };
            let tail = rand::rng().random();
            if let Some(bytes) = self.store.repeat(&scope, &key, tail) {
                self.enqueue(Call::Repeat(bytes), None);
            }
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        match self.store.handle(input, now(self.started)) {
            Ok(outputs) => {
                for output in outputs {
                    self.apply(output, None);
                }
            }
            Err(refusal) => debug!(%refusal, "refused a message"),
        }
    }

    fn apply(&mut self, output: Output, reply: Waiter) {
        match output {
            Output::Broadcast(bytes) => self.enqueue(Call::Broadcast(bytes), reply),
            Output::Value {
                scope,
                key,
                value,
                timestamp,
                repeated,
            } => self.emit(Event::Value {
                scope,
                key,
                value,
                timestamp,
                repeated,
            }),
            Output::Expired { scope, key } => self.emit(Event::Expired { scope, key }),
        }
    }

    fn emit(&self, event: Event) {
        // Nobody listens: nobody needs it.
        self.events.send(event).ok();
    }

    /// Queues a call. Without a topic there is nothing to wait for: the value is in the store,
    /// the peers are remembered, and both are used when the topic is joined again.
    fn enqueue(&mut self, call: Call, reply: Waiter) {
        if self.sender.is_none() {
            answer(reply, Ok(()));
            return;
        }
        if self.calls.len() >= CALLS_CAP
            && let Some((_, reply)) = self.calls.pop_front()
        {
            answer(reply, Err(Error::Stalled));
        }
        self.calls.push_back((call, reply));
    }

    fn rejoin_due(&self) -> Option<Instant> {
        self.rejoin_at.filter(|_| self.sender.is_none())
    }

    fn next_call(&mut self) -> Option<BoxFuture<Done>> {
        let Some(sender) = &self.sender else {
            let at = self
                .rejoin_at
                .take_if(|at| *at <= Instant::now() + ALARM_SLACK)?;
            debug!(?at, "joining the topic again");
            let peers = self.peers.iter().copied().collect();
            let joining = subscribe(self.gossip.clone(), self.topic, peers);
            return Some(Box::pin(async move { Done::Joined(joining.await) }));
        };
        let (call, reply) = self.calls.pop_front()?;
        let sender = sender.clone();
        let (gossip, topic) = (self.gossip.clone(), self.topic);
        Some(Box::pin(async move {
            let result = match call {
                Call::Broadcast(bytes) => within(sender.broadcast(bytes)).await,
                Call::Repeat(bytes) => within(sender.broadcast_neighbors(bytes)).await,
                Call::JoinPeers(peers) => within(sender.join_peers(peers)).await,
                Call::Probe => {
                    let since = Instant::now();
                    return Done::Probed(since, within(probe(gossip, topic)).await);
                }
            };
            Done::Called(result, reply)
        }))
    }

    fn on_called(&mut self, result: Result<(), Error>, reply: Waiter) {
        match result {
            Ok(()) => {
                self.hangs = false;
                self.sent = self.sent.saturating_add(1);
                answer(reply, Ok(()));
            }
            Err(Error::Stalled) => {
                answer(reply, Err(Error::Stalled));
                // All that waits is old by now, and will be signed again.
                self.repeats.clear();
                for (_, reply) in self.calls.drain(..) {
                    answer(reply, Err(Error::Stalled));
                }
                self.on_stalled();
            }
            Err(error) => {
                self.detach(&error.to_string());
                answer(reply, Ok(()));
            }
        }
    }

    fn on_stalled(&mut self) {
        self.stalled = self.stalled.saturating_add(1);
        if !self.hangs {
            self.hangs = true;
            warn!("gossip hangs or is gone");
            self.emit(Event::Stalled);
        }
    }

    /// Without an answer gossip hangs, unless it has said something else since: that the last
    /// neighbour is gone, for one, and then there is no answer to give.
    fn on_probed(&mut self, since: Instant, result: Result<(), Error>) {
        match result {
            Ok(()) => {}
            Err(Error::Stalled) if self.heard >= since => {}
            Err(Error::Stalled) => self.on_stalled(),
            Err(error) => self.detach(&error.to_string()),
        }
    }

    fn on_join_failed(&mut self, error: &Error) {
        debug!(%error, "could not join the topic again");
        self.on_stalled();
        self.rejoin_later();
    }

    fn detach(&mut self, reason: &str) {
        if self.sender.take().is_none() {
            return;
        }
        warn!(reason, "lost the topic");
        self.detached = self.detached.saturating_add(1);
        self.repeats.clear();
        for (_, reply) in self.calls.drain(..) {
            answer(reply, Ok(()));
        }
        for peer in std::mem::take(&mut self.neighbors) {
            self.emit(Event::NeighborDown(peer));
        }
        self.emit(Event::Detached);
        self.rejoin_later();
    }

    fn rejoin_later(&mut self) {
        self.rejoin_at = Some(Instant::now() + self.rejoin_delay);
        self.rejoin_delay = (self.rejoin_delay * 2).min(REJOIN_DELAY_MAX);
    }

    fn remember(&mut self, peers: impl IntoIterator<Item = EndpointId>) {
        for peer in peers {
            if !self.peers.contains(&peer) && self.peers.len() >= PEERS_MAX {
                self.peers.pop_first();
            }
            self.peers.insert(peer);
        }
    }
}

fn answer(reply: Waiter, result: Result<(), Error>) {
    if let Some(reply) = reply {
        reply.send(result).ok();
    }
}

/// Joins a topic, or fails in time.
pub(crate) async fn subscribe(
    gossip: Gossip,
    topic: TopicId,
    peers: Vec<EndpointId>,
) -> Result<GossipTopic, Error> {
    within(gossip.subscribe(topic, peers)).await
}

/// A second subscription to a topic with neighbours begins with their names.
async fn probe(gossip: Gossip, topic: TopicId) -> Result<(), ApiError> {
    let mut topic = gossip.subscribe(topic, Vec::new()).await?;
    topic.next().await.transpose().map(drop)
}

async fn within<T>(call: impl Future<Output = Result<T, ApiError>>) -> Result<T, Error> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result.map_err(|error| Error::Gossip(error.to_string())),
        Err(_) => Err(Error::Stalled),
    }
}

/// The outcome of the call in flight, which then is none.
async fn finish(calling: &mut Option<BoxFuture<Done>>) -> Done {
    let Some(call) = calling else {
        return pending().await;
    };
    let done = call.await;
    *calling = None;
    done
}

async fn next_event(
    receiver: &mut Option<GossipReceiver>,
) -> Option<Result<GossipEvent, ApiError>> {
    match receiver {
        Some(receiver) => receiver.next().await,
        None => pending().await,
    }
}

fn now(started: Instant) -> Now {
    let wall = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        wall: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX),
        elapsed: started.elapsed(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use iroh::{
        Endpoint, RelayMode, address_lookup::memory::MemoryLookup, endpoint::presets,
        protocol::Router,
    };

    use n0_future::task::spawn;

    use super::*;
    use crate::{Kv, kv::INBOX_CAP};

    const TOPIC: TopicId = TopicId::from_bytes([7; 32]);

    async fn peer(lookup: &MemoryLookup) -> (Gossip, Router) {
        let endpoint = Endpoint::builder(presets::Minimal)
            .relay_mode(RelayMode::Disabled)
            .clear_ip_transports()
            .bind_addr((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .address_lookup(lookup.clone())
            .bind()
            .await
            .unwrap();
        lookup.add_endpoint_info(endpoint.addr());
        let gossip = Gossip::builder().spawn(endpoint.clone());
        let router = Router::builder(endpoint)
            .accept(iroh_gossip::ALPN, gossip.clone())
            .spawn();
        (gossip, router)
    }

    fn actor(gossip: Gossip, peers: SortedSet<EndpointId>) -> Actor {
        Actor::new(
            gossip,
            TOPIC,
            SecretKey::generate(),
            peers,
            Config::default(),
        )
    }

    /// The topic comes from one gossip, which ends, and is joined again by another.
    #[tokio::test]
    async fn a_lost_topic_is_joined_again() {
        let lookup = MemoryLookup::new();
        let (ending, _first) = peer(&lookup).await;
        let (lasting, _second) = peer(&lookup).await;
        let (other, router) = peer(&lookup).await;
        let other_id = router.endpoint().id();
        let mut heard = other.subscribe(TOPIC, Vec::new()).await.unwrap();

        let (inbox, requests) = mpsc::channel(INBOX_CAP);
        let actor = actor(lasting, SortedSet::from([other_id]));
        let scope = actor.store.scope();
        let kv = Kv { inbox, scope };
        let topic = ending.subscribe(TOPIC, Vec::new()).await.unwrap();
        spawn(actor.run(topic, requests));
        let mut events = kv.subscribe().await.unwrap();

        ending.shutdown().await.unwrap();
        assert_eq!(events.recv().await, Some(Event::Detached));
        // Put while there is no topic, and sent when there is.
        kv.put("key", "value").await.unwrap();
        assert_eq!(events.recv().await, Some(Event::NeighborUp(other_id)));
        loop {
            if let GossipEvent::Received(message) = heard.next().await.unwrap().unwrap() {
                let message = crate::wire::GossipMessage::decode(&message.content).unwrap();
                assert_eq!((message.scope, &message.key[..]), (scope, &b"key"[..]));
                break;
            }
        }
        assert_eq!(kv.stats().await.unwrap().detached, 1);
    }

    #[tokio::test]
    async fn what_gossip_dropped_is_made_good_by_anti_entropy() {
        let (gossip, _router) = peer(&MemoryLookup::new()).await;
        let mut actor = actor(gossip, SortedSet::new());
        assert_eq!((actor.refresh_at, actor.pass_at), (None, None));
        actor.on_gossip(GossipEvent::Lagged);
        assert!(actor.refresh_at.is_some_and(|at| at <= Instant::now()));
        let soon = Instant::now() + NEWCOMER_DELAY;
        assert!(actor.pass_at.is_some_and(|at| at <= soon));
        assert_eq!(actor.stats().lagged, 1);

        // A flood makes gossip drop messages all the time, and must not be answered by another.
        actor.pass_at = None;
        actor.passed = Some(Instant::now());
        actor.on_gossip(GossipEvent::Lagged);
        let soon = Instant::now() + NEWCOMER_DELAY * 2;
        assert!(actor.pass_at.is_some_and(|at| at > soon));
    }

    #[tokio::test]
    async fn a_burst_of_neighbours_is_answered_once() {
        let (gossip, _router) = peer(&MemoryLookup::new()).await;
        let mut actor = actor(gossip, SortedSet::new());
        for _ in 0..100 {
            let id = SecretKey::generate().public();
            actor.on_gossip(GossipEvent::NeighborUp(id));
        }
        actor.on_alarm();
        assert!(actor.refreshed.is_some());
        assert_eq!(actor.refresh_at, None);
        assert!(actor.peers.len() <= PEERS_MAX);
        let id = SecretKey::generate().public();
        actor.on_gossip(GossipEvent::NeighborUp(id));
        assert!(actor.refresh_at.is_some_and(|at| at > Instant::now()));
    }
}
