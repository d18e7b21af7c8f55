//! The actor of a room.
//!
//! 1. [`spawn`] joins the gossip topic and says who this peer is; the loop begins.
//! 2. Presence of others feeds the roster. Whoever it holds is dialled: by the side with the
//!    lower id at once, by the other after [`DIAL_GRACE`] if no session came about.
//! 3. Announcements on the sessions become subscriptions; chats and channels are read by one
//!    task each, which ends with its broadcast.
//! 4. Every second the signs of life are collected, the silent leave, what is due is dialled and
//!    written again.
//! 5. A goodbye, or the last handle dropped, ends the loop: leaving is signed and sent, the
//!    sessions are closed with the code that says so, the topic is left.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use iroh::{EndpointAddr, EndpointId, RelayUrl};
use iroh_gossip::TopicId;
use iroh_rooms_kv::{self as kv, Kv};
use iroh_rooms_moq::{
    Announce, Broadcast, Cause, Error as MoqError, Frame, PathKind, RemoteBroadcast, Scope,
    Session, SessionError, SessionEvent, TrackOptions, close,
};
use n0_future::{
    task::{self, AbortOnDropHandle},
    time::{self, Instant, SystemTime},
};
use tokio::sync::{broadcast, mpsc, watch};

use super::{Command, Diagnosis, Options, Stats, events::View, lock};
use crate::{
    Error, Live, RoomTicket,
    channel::{self, Writer},
    chat::{self, ChatPublisher},
    event::{EndReason, Event, LeftReason, Status},
    presence::{PEER_STATE_KEY, ROOM_STATE_KEY, RoomKey, RoomState},
    roster::{Input, Output, Roster, is_internal},
};

/// Results of tasks waiting for the actor; the tasks wait beyond.
const REPORTS_CAP: usize = 256;
/// How often presence is signed anew.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Every so many heartbeats iroh-live's value is signed anew too.
const PEER_STATE_EVERY: u32 = 3;
/// The shortest time between two presence values: at most ten a second.
const PRESENCE_SPACING: Duration = Duration::from_millis(100);
/// How long the side with the higher id waits for the other's dial.
const DIAL_GRACE: Duration = Duration::from_millis(1500);
const REDIAL_MIN: Duration = Duration::from_millis(250);
const REDIAL_MAX: Duration = Duration::from_secs(16);
/// Dials under way at once.
const MAX_DIALS: usize = 16;
/// Peers whose last value's time is remembered; those who are gone are forgotten first.
const MAX_LAST_VALUES: usize = 4096;
/// How often lost neighbours are looked for.
const REJOIN: Duration = Duration::from_secs(3);
/// Peers asked at once when neighbours are lost.
const REJOIN_PEERS: usize = 8;
/// How long a peer with sessions may be without a neighbour before gossip is started anew.
const LONELY: Duration = Duration::from_secs(4);
/// A broadcast that vanished with its session may come back for this long.
const FADE: Duration = Duration::from_secs(12);
/// And for this long once there is a session again.
const FADE_WITH_SESSION: Duration = Duration::from_secs(2);
/// A goodbye waits for the network at most so long.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// Time for gossip to pass a goodbye on before the topic is left.
const LEAVE_LINGER: Duration = Duration::from_millis(60);

/// The wall clock in microseconds since 1970.
pub(super) fn wall_micros() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 counts as 1970.
    u64::try_from(now.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// The key of the MoQ scope that belongs to a topic.
pub(super) fn scope_key(topic: &TopicId) -> [u8; 32] {
    RoomKey::new(topic).to_bytes()
}

/// Joins the topic and starts the actor.
pub(super) async fn spawn(
    scope: Scope,
    live: &Live,
    ticket: RoomTicket,
    options: Options,
    view: Arc<Mutex<View>>,
    inbox: mpsc::Receiver<Command>,
) -> Result<(), Error> {
    let me = live.endpoint_id();
    let key = RoomKey::new(&ticket.topic_id);
    let mut state = RoomState::new(&key, &me);
    state.display_name = options.display_name;
    state.set_presence(options.presence.as_ref())?;
    state.relay_url = live.relay_url().map(|url| url.to_string());
    state.encode()?;
    let bootstrap: Vec<EndpointId> = ticket
        .bootstrap
        .iter()
        .copied()
        .filter(|peer| *peer != me)
        .collect();
    for peer in &bootstrap {
        live.learn(*peer, ticket.relay_of(peer).cloned());
    }
    let generation = live.gossip().generation();
    let kv = join_topic(live, ticket.topic_id, bootstrap.clone()).await?;
    let presence = kv.subscribe().await?;
    let (reports_tx, reports) = mpsc::channel(REPORTS_CAP);
    let started = Instant::now();
    let mut actor = Actor {
        live: live.clone(),
        me,
        key,
        topic: ticket.topic_id,
        bootstrap,
        kv,
        scope,
        view,
        auto_subscribe: options.auto_subscribe,
        state,
        heartbeats: 0,
        written: started,
        dirty: false,
        roster: Roster::default(),
        started,
        sessions: BTreeMap::new(),
        dials: HashMap::new(),
        relays: HashMap::new(),
        last_values: HashMap::new(),
        live_broadcasts: BTreeMap::new(),
        fading: HashMap::new(),
        readers: HashMap::new(),
        published: HashMap::new(),
        published_count: 0,
        chat: None,
        channels: HashMap::new(),
        neighbors: BTreeSet::new(),
        rejoined: started,
        lonely_since: None,
        refused: 0,
        refused_of: HashMap::new(),
        reports_tx,
    };
    let status = live.status_changes();
    let up = matches!(*status.borrow(), Status::Connected);
    actor.roster.handle(Input::Relay(up), Duration::ZERO);
    actor.write_presence().await;
    task::spawn(actor.run(inbox, presence, reports, status, generation));
    Ok(())
}

async fn join_topic(
    live: &Live,
    topic: TopicId,
    bootstrap: Vec<EndpointId>,
) -> Result<Kv, kv::Error> {
    let gossip = live.gossip().current();
    Kv::join(
        &gossip,
        topic,
        live.secret_key().clone(),
        bootstrap,
        kv::Config::default(),
    )
    .await
}

/// What the actor's tasks report.
#[derive(Debug)]
enum Report {
    Dialled(EndpointId, Result<(), MoqError>),
    Subscribed(EndpointId, String, RemoteBroadcast),
    Chat(EndpointId, Frame),
    Channel(EndpointId, String, bytes::Bytes),
    /// An own broadcast ended: its name, and which of that name.
    Ended(String, u64),
}

#[derive(Debug, Default)]
struct Dial {
    failures: u32,
    due: Option<Instant>,
    running: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct OpenSession {
    session: Session,
    /// Packets received when last looked.
    packets: u64,
}

#[derive(Debug)]
struct OpenChannel {
    writer: Writer,
    messages: broadcast::Sender<channel::Message>,
}

struct Actor {
    live: Live,
    me: EndpointId,
    key: RoomKey,
    topic: TopicId,
    bootstrap: Vec<EndpointId>,
    kv: Kv,
    scope: Scope,
    view: Arc<Mutex<View>>,
    auto_subscribe: bool,
    /// What this peer says of itself; `dirty` until written.
    state: RoomState,
    heartbeats: u32,
    written: Instant,
    dirty: bool,
    roster: Roster,
    started: Instant,
    sessions: BTreeMap<EndpointId, OpenSession>,
    /// Of peers in the roster.
    dials: HashMap<EndpointId, Dial>,
    relays: HashMap<EndpointId, RelayUrl>,
    /// When the last value of each peer was written, also of those who left.
    last_values: HashMap<EndpointId, u64>,
    /// Announced on sessions, also of peers whose presence has not arrived. The scope limits
    /// how many names a session may announce.
    live_broadcasts: BTreeMap<EndpointId, BTreeSet<String>>,
    fading: HashMap<(EndpointId, String), Instant>,
    /// Tasks that read or wait for broadcasts; dropping one ends it.
    readers: HashMap<(EndpointId, String), Vec<AbortOnDropHandle<()>>>,
    /// Own broadcasts, with a number that tells instances of one name apart.
    published: HashMap<String, (u64, AbortOnDropHandle<()>)>,
    published_count: u64,
    chat: Option<ChatPublisher>,
    channels: HashMap<String, OpenChannel>,
    neighbors: BTreeSet<EndpointId>,
    rejoined: Instant,
    lonely_since: Option<Instant>,
    refused: u64,
    /// Of `refused`, what came from peers in the roster.
    refused_of: HashMap<EndpointId, u64>,
    reports_tx: mpsc::Sender<Report>,
}

impl Actor {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Command>,
        presence: kv::Subscription,
        mut reports: mpsc::Receiver<Report>,
        mut status: watch::Receiver<Status>,
        mut gossip: watch::Receiver<u64>,
    ) {
        // None while the topic is left: after a goodbye that may be taken back, or until it can
        // be joined again.
        let mut presence = Some(presence);
        let mut sessions = self.scope.sessions();
        let mut announced = self.scope.announced();
        let mut tick = time::interval(Duration::from_secs(1));
        let farewell = loop {
            let presence_due = self.written + PRESENCE_SPACING;
            let dial_due = self.next_dial();
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(Command::Leave { reply }) => break Some(reply),
                    Some(Command::LeaveNow) => {
                        self.say_goodbye().await;
                        // Gossip forgets who quits; who only vanishes could not come back.
                        self.kv.close().await;
                        presence = None;
                    }
                    Some(Command::Resume) => {
                        self.state.set_leaving(false);
                        presence = self.enter_topic().await;
                    }
                    Some(command) => self.command(command).await,
                    // The last handle is gone.
                    None => break None,
                },
                event = next_event(&mut presence) => match event {
                    Some(kv::Event::Lagged(_)) => presence = self.kv.subscribe().await.ok(),
                    Some(kv::Event::Stalled) => self.live.gossip().restart(),
                    Some(event) => self.presence(event),
                    None => presence = None,
                },
                // The sender lives as long as the endpoint.
                Ok(()) = gossip.changed() => {
                    gossip.mark_unchanged();
                    presence = self.enter_topic().await;
                }
                event = sessions.next() => match event {
                    Some(event) => self.session(event),
                    None => break None,
                },
                announce = announced.next() => match announce {
                    Some(announce) => self.announce(announce),
                    None => break None,
                },
                report = reports.recv() => if let Some(report) = report {
                    self.report(report).await;
                },
                changed = status.changed() => {
                    let status = *status.borrow_and_update();
                    self.status(status).await;
                    if changed.is_err() || status == Status::Disconnected {
                        break None;
                    }
                }
                _ = tick.tick() => {
                    if presence.is_none() && !self.state.is_leaving() {
                        presence = self.enter_topic().await;
                    }
                    self.tick().await;
                }
                () = time::sleep_until(presence_due), if self.dirty => self.write_presence().await,
                () = sleep_until(dial_due) => self.dial_due(),
            }
        };
        self.leave().await;
        if let Some(reply) = farewell {
            // The leaver may have stopped waiting.
            let _ = reply.send(Ok(()));
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn emit(&self, event: Event) {
        lock(&self.view).emit(event);
    }

    /// Counts something of a peer that was no use.
    fn refuse(&mut self, peer: EndpointId) {
        self.refused += 1;
        *self.refused_of.entry(peer).or_default() += 1;
    }

    fn fail(&self, error: &Error) {
        self.emit(Event::Error {
            code: error.code().into(),
            message: error.to_string(),
        });
    }

    // ---- commands

    async fn command(&mut self, command: Command) {
        // A caller that stopped waiting does not want the answer.
        match command {
            Command::Publish {
                name,
                broadcast,
                reply,
            } => {
                let _ = reply.send(self.publish(name, &broadcast));
            }
            Command::Unpublish { name, reply } => {
                let _ = reply.send(Ok(self.unpublish(&name)));
            }
            Command::SetDisplayName { name, reply } => {
                let mut state = self.state.clone();
                state.display_name = name;
                let _ = reply.send(self.change_state(state));
            }
            Command::SetPresence { presence, reply } => {
                let mut state = self.state.clone();
                let set = state.set_presence(presence.as_ref());
                let _ = reply.send(set.and_then(|()| self.change_state(state)));
            }
            Command::SetChatPublisher { publisher, reply } => {
                self.unpublish(chat::BROADCAST);
                self.chat = Some(publisher);
                let _ = reply.send(Ok(()));
            }
            Command::SendChat { text, reply } => {
                let _ = reply.send(self.send_chat(&text));
            }
            Command::OpenChannel { name, reply } => {
                let _ = reply.send(self.open_channel(&name));
            }
            Command::ChannelSend {
                name,
                json,
                to,
                datagram,
                reply,
            } => {
                let _ = reply.send(self.channel_send(&name, json, to, datagram));
            }
            Command::Ticket { reply } => {
                let _ = reply.send(Ok(self.ticket()));
            }
            Command::Stats { reply } => {
                let _ = reply.send(self.stats().await);
            }
            Command::Diagnose { reply } => {
                let _ = reply.send(Ok(self.diagnose()));
            }
            // Handled by the loop.
            Command::Leave { .. } | Command::LeaveNow | Command::Resume => {}
        }
    }

    /// Takes a state if it fits, shows it to the application and writes it soon.
    fn change_state(&mut self, state: RoomState) -> Result<(), Error> {
        state.encode()?;
        self.state = state;
        self.dirty = true;
        let mut view = lock(&self.view);
        view.me.display_name = self.state.display_name.clone();
        view.me.presence = self.state.presence();
        view.me.broadcasts = self
            .state
            .broadcasts
            .iter()
            .filter(|name| !is_internal(name))
            .cloned()
            .collect();
        Ok(())
    }

    fn publish(&mut self, name: String, broadcast: &Broadcast) -> Result<(), Error> {
        let mut state = self.state.clone();
        if !state.broadcasts.contains(&name) {
            if state.broadcasts.len() >= crate::presence::MAX_BROADCASTS {
                return Err(Error::InvalidArgument(format!(
                    "a peer publishes at most {} broadcasts: unpublish one first",
                    crate::presence::MAX_BROADCASTS
                )));
            }
            state.broadcasts.push(name.clone());
            state.broadcasts.sort();
        }
        // Channels are found by the sessions alone and take no room in presence.
        let listed = !name.starts_with(channel::PREFIX);
        if listed {
            state.encode()?;
        }
        self.scope.publish(&name, broadcast)?;
        self.published_count += 1;
        let instance = self.published_count;
        let (broadcast, reports, ended) =
            (broadcast.clone(), self.reports_tx.clone(), name.clone());
        let watch = task::spawn(async move {
            broadcast.closed().await;
            // A closed room needs no report.
            let _ = reports.send(Report::Ended(ended, instance)).await;
        });
        self.published
            .insert(name, (instance, AbortOnDropHandle::new(watch)));
        if listed {
            self.change_state(state)
        } else {
            Ok(())
        }
    }

    fn unpublish(&mut self, name: &str) -> bool {
        let known = self.published.remove(name).is_some();
        if known {
            self.scope.unpublish(name);
            let mut state = self.state.clone();
            state.broadcasts.retain(|listed| listed != name);
            // Less never is too much.
            let _ = self.change_state(state);
        }
        known
    }

    fn send_chat(&mut self, text: &str) -> Result<crate::event::ChatMessage, Error> {
        if self.chat.is_none() {
            let (broadcast, publisher) = ChatPublisher::standalone()?;
            self.publish(chat::BROADCAST.to_owned(), &broadcast)?;
            self.chat = Some(publisher);
        }
        let me = lock(&self.view).me.clone();
        let publisher = self.chat.as_mut().ok_or(Error::Closed("chat"))?;
        let message = publisher.send(&me, text, wall_micros())?;
        lock(&self.view).chat.insert(message.clone());
        Ok(message)
    }

    fn open_channel(&mut self, name: &str) -> Result<broadcast::Receiver<channel::Message>, Error> {
        if let Some(open) = self.channels.get(name) {
            return Ok(open.messages.subscribe());
        }
        if self.channels.len() >= channel::MAX_CHANNELS {
            return Err(Error::InvalidArgument(format!(
                "a room has at most {} channels open",
                channel::MAX_CHANNELS
            )));
        }
        let broadcast_name = channel::broadcast_name(name)?;
        let mut writer = Writer::new()?;
        for peer in self.roster.iter() {
            writer.add_peer(peer.id)?;
        }
        self.publish(broadcast_name.clone(), &writer.broadcast)?;
        let messages = broadcast::Sender::new(channel::MESSAGES_CAP);
        let receiver = messages.subscribe();
        self.channels
            .insert(name.to_owned(), OpenChannel { writer, messages });
        let openers: Vec<EndpointId> = self
            .live_broadcasts
            .iter()
            .filter(|(_, names)| names.contains(&broadcast_name))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in openers {
            self.begin_reading(peer, &broadcast_name);
        }
        Ok(receiver)
    }

    fn channel_send(
        &mut self,
        name: &str,
        json: String,
        to: Option<EndpointId>,
        datagram: bool,
    ) -> Result<(), Error> {
        if !self.channels.contains_key(name) {
            self.open_channel(name)?;
        }
        let open = self
            .channels
            .get_mut(name)
            .ok_or(Error::Closed("channel"))?;
        open.writer
            .send(json, to, datagram, Duration::from_micros(wall_micros()))
    }

    fn ticket(&self) -> RoomTicket {
        let mut ticket = RoomTicket::new(self.topic, []);
        ticket.add_peer(self.me, self.live.relay_url().as_ref());
        // Those with a session are known to be reachable.
        let (near, far): (Vec<_>, Vec<_>) = self
            .roster
            .iter()
            .partition(|peer| self.sessions.contains_key(&peer.id));
        for peer in near.into_iter().chain(far) {
            ticket.add_peer(peer.id, self.relays.get(&peer.id));
        }
        ticket
    }

    async fn stats(&self) -> Result<Stats, Error> {
        let kv = self.kv.stats().await?;
        Ok(Stats {
            peers: self.roster.len(),
            sessions: self.sessions.len(),
            neighbors: self.neighbors.len(),
            refused: self.refused + self.roster.refused() + kv.refused.total(),
        })
    }

    fn diagnose(&self) -> Vec<Diagnosis> {
        let now = self.now();
        let diagnose = |peer: &crate::event::Peer| {
            let session = self.sessions.get(&peer.id).map(|open| &open.session);
            let stats = session.map(Session::stats);
            let silent = self.roster.silent_for(&peer.id, now).unwrap_or_default();
            let failed_dials = self.dials.get(&peer.id).map_or(0, |dial| dial.failures);
            let advice = if session.is_some() {
                ""
            } else if self.live.status() != Status::Connected {
                "this side has lost its relay: it reconnects by itself"
            } else if failed_dials > 0 {
                "the peer cannot be dialled: check that its relay can be reached from here"
            } else {
                "the session is being set up"
            };
            Diagnosis {
                peer: peer.id,
                path: stats
                    .as_ref()
                    .and_then(|stats| stats.path)
                    .map_or("none", PathKind::as_str)
                    .to_owned(),
                relay_url: self.relays.get(&peer.id).map(ToString::to_string),
                rtt_ms: stats
                    .as_ref()
                    .and_then(|stats| stats.rtt)
                    .map(|rtt| rtt.as_secs_f64() * 1000.0),
                sessions: session.is_some().into(),
                version: session.map(|session| session.version().to_owned()),
                bytes_sent: stats.as_ref().map_or(0, |stats| stats.bytes_sent),
                bytes_received: stats.as_ref().map_or(0, |stats| stats.bytes_received),
                last_heard_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
                refused: self.refused_of.get(&peer.id).copied().unwrap_or_default(),
                failed_dials,
                advice: advice.to_owned(),
            }
        };
        self.roster.iter().map(diagnose).collect()
    }

    // ---- presence

    async fn write_presence(&mut self) {
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

    async fn write_peer_state(&mut self) {
        // Postcard fails only on types of unknown length.
        let Ok(value) = postcard::to_stdvec(&self.state.peer_state()) else {
            return;
        };
        if let Err(error) = self.kv.put(PEER_STATE_KEY, value).await {
            self.fail(&error.into());
        }
    }

    async fn heartbeat(&mut self) {
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

    fn presence(&mut self, event: kv::Event) {
        match event {
            kv::Event::Value {
                scope,
                key,
                value,
                timestamp,
            } if key == ROOM_STATE_KEY => {
                // Reading the values anew also brings those of peers that are gone.
                if !self.is_news(scope, timestamp) {
                    return;
                }
                let Some(state) = RoomState::decode(&value, &self.key, &scope) else {
                    self.refused += 1;
                    return;
                };
                if scope == self.me {
                    return;
                }
                let relay = state.relay();
                self.live.learn(scope, relay.clone());
                match relay {
                    Some(relay) => self.relays.insert(scope, relay),
                    None => self.relays.remove(&scope),
                };
                let wall_ms = wall_micros() / 1000;
                self.feed(Input::Presence {
                    peer: scope,
                    state: &state,
                    wall_ms,
                });
            }
            kv::Event::NeighborUp(peer) => {
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

    /// Joins the topic once more, with everyone known to begin with.
    async fn enter_topic(&mut self) -> Option<kv::Subscription> {
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
    fn is_news(&mut self, peer: EndpointId, timestamp: u64) -> bool {
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
    fn feed(&mut self, input: Input<'_>) {
        for output in self.roster.handle(input, self.now()) {
            match output {
                Output::Joined(peer) => {
                    let id = peer.id;
                    self.emit(Event::PeerJoined { peer });
                    self.joined(id);
                }
                Output::Updated(peer, changed) => self.emit(Event::PeerUpdated { peer, changed }),
                Output::Announced(peer, names) => {
                    self.emit(Event::BroadcastAnnounced { peer, names });
                }
                Output::Left(peer, reason) => {
                    self.left(peer.id, reason);
                    self.emit(Event::PeerLeft { peer, reason });
                }
            }
        }
    }

    fn joined(&mut self, peer: EndpointId) {
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
        self.dials.insert(
            peer,
            Dial {
                due,
                ..Dial::default()
            },
        );
        if self.sessions.contains_key(&peer) {
            self.feed(Input::Heard(peer));
        }
        for name in self.live_broadcasts.get(&peer).cloned().unwrap_or_default() {
            self.appeared(peer, &name);
        }
    }

    fn left(&mut self, peer: EndpointId, reason: LeftReason) {
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

    // ---- sessions and dials

    fn session(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Opened(session) => {
                let peer = session.remote_id();
                self.sessions.insert(
                    peer,
                    OpenSession {
                        session,
                        packets: 0,
                    },
                );
                if let Some(dial) = self.dials.get_mut(&peer) {
                    *dial = Dial::default();
                }
                self.feed(Input::Heard(peer));
                let soon = Instant::now() + FADE_WITH_SESSION;
                for ((owner, _), deadline) in &mut self.fading {
                    if *owner == peer {
                        *deadline = soon;
                    }
                }
            }
            SessionEvent::Closed { remote, error } => {
                self.sessions.remove(&remote);
                self.session_closed(remote, &error);
            }
            // Nothing is lost but the order: what stands is asked of the scope.
            SessionEvent::Lagged(_) => {
                let (scope, known) = (self.scope.clone(), self.roster.iter().map(|peer| peer.id));
                let standing = known.filter_map(|peer| scope.session(peer));
                self.sessions = standing
                    .map(|session| {
                        (
                            session.remote_id(),
                            OpenSession {
                                session,
                                packets: 0,
                            },
                        )
                    })
                    .collect();
            }
        }
    }

    fn session_closed(&mut self, peer: EndpointId, error: &SessionError) {
        match (error.cause, error.code) {
            (Cause::Peer, close::LEAVING) => self.feed(Input::Gone(peer, LeftReason::Left)),
            _ => {
                if let Some(dial) = self.dials.get_mut(&peer) {
                    dial.due = Some(Instant::now() + jitter(REDIAL_MIN));
                }
            }
        }
    }

    fn next_dial(&self) -> Option<Instant> {
        let running = self
            .dials
            .values()
            .filter(|dial| dial.running.is_some())
            .count();
        if running >= MAX_DIALS || self.state.is_leaving() {
            return None;
        }
        self.dials
            .values()
            .filter(|dial| dial.running.is_none())
            .filter_map(|dial| dial.due)
            .min()
    }

    fn dial_due(&mut self) {
        let now = Instant::now();
        let peer = self
            .dials
            .iter()
            .filter(|(_, dial)| dial.running.is_none() && dial.due.is_some_and(|due| due <= now))
            .min_by_key(|(_, dial)| dial.due)
            .map(|(peer, _)| *peer);
        let Some(peer) = peer else { return };
        let Some(dial) = self.dials.get_mut(&peer) else {
            return;
        };
        dial.due = None;
        let mut addr = EndpointAddr::new(peer);
        if let Some(relay) = self.relays.get(&peer) {
            addr = addr.with_relay_url(relay.clone());
        }
        let (scope, reports) = (self.scope.clone(), self.reports_tx.clone());
        dial.running = Some(AbortOnDropHandle::new(task::spawn(async move {
            let result = scope.connect(addr).await.map(drop);
            // A closed room needs no report.
            let _ = reports.send(Report::Dialled(peer, result)).await;
        })));
    }

    fn dialled(&mut self, peer: EndpointId, result: Result<(), MoqError>) {
        let Some(dial) = self.dials.get_mut(&peer) else {
            return;
        };
        dial.running = None;
        match result {
            Ok(()) => dial.failures = 0,
            Err(error) => {
                tracing::debug!(%peer, %error, "dial failed");
                dial.failures = dial.failures.saturating_add(1);
                let delay = REDIAL_MIN.saturating_mul(1 << dial.failures.min(8));
                dial.due = Some(Instant::now() + jitter(delay.min(REDIAL_MAX)));
            }
        }
    }

    // ---- broadcasts of others

    fn announce(&mut self, announce: Announce) {
        let Announce {
            remote,
            name,
            active,
            ..
        } = announce;
        if active {
            self.fading.remove(&(remote, name.clone()));
            self.live_broadcasts
                .entry(remote)
                .or_default()
                .insert(name.clone());
            if self.roster.get(&remote).is_some() {
                self.appeared(remote, &name);
            }
            return;
        }
        if self.sessions.contains_key(&remote) {
            self.vanished(remote, &name);
        } else {
            // Lost with its session, which may come back.
            self.fading.insert((remote, name), Instant::now() + FADE);
        }
    }

    fn appeared(&mut self, peer: EndpointId, name: &str) {
        if !is_internal(name) {
            self.feed(Input::Live(peer, name));
        }
        self.begin_reading(peer, name);
    }

    fn vanished(&mut self, peer: EndpointId, name: &str) {
        if let Some(names) = self.live_broadcasts.get_mut(&peer) {
            names.remove(name);
            if names.is_empty() {
                self.live_broadcasts.remove(&peer);
            }
        }
        self.readers.remove(&(peer, name.to_owned()));
        self.end_broadcast(peer, name, EndReason::Unpublished);
        self.feed(Input::Unlive(peer, name));
    }

    fn end_broadcast(&self, peer: EndpointId, name: &str, reason: EndReason) {
        let mut view = lock(&self.view);
        // The roster may have let go of the peer already; the view has not.
        let Some(owner) = view.peer(&peer).cloned() else {
            return;
        };
        if view.is_subscribed(peer, name) {
            view.emit(Event::BroadcastEnded {
                peer: owner,
                name: name.to_owned(),
                reason,
            });
        }
    }

    /// Starts what a broadcast of a peer asks for: reading its chat or channel, or waiting until
    /// it can be read.
    fn begin_reading(&mut self, peer: EndpointId, name: &str) {
        let key = (peer, name.to_owned());
        if self.readers.contains_key(&key) || self.roster.get(&peer).is_none() {
            return;
        }
        let reading = |track: &str, options: TrackOptions, report: MakeReport| {
            let (scope, reports) = (self.scope.clone(), self.reports_tx.clone());
            let (name, track) = (name.to_owned(), track.to_owned());
            AbortOnDropHandle::new(task::spawn(read_track(
                scope, peer, name, track, options, reports, report,
            )))
        };
        let tasks = if name == chat::BROADCAST {
            vec![reading(
                chat::TRACK,
                chat::track_options(),
                Box::new(Report::Chat),
            )]
        } else if let Some(channel) = name.strip_prefix(channel::PREFIX) {
            if !self.channels.contains_key(channel) {
                return;
            }
            let report = |channel: String| -> MakeReport {
                Box::new(move |peer, frame| Report::Channel(peer, channel.clone(), frame.data))
            };
            channel::tracks_for(&self.me)
                .iter()
                .map(|track| reading(track, channel::track_options(), report(channel.to_owned())))
                .collect()
        } else if self.auto_subscribe {
            let (scope, reports, name) =
                (self.scope.clone(), self.reports_tx.clone(), name.to_owned());
            vec![AbortOnDropHandle::new(task::spawn(async move {
                if let Ok(broadcast) = scope.subscribe(peer, &name).await {
                    // A closed room needs no report.
                    let _ = reports
                        .send(Report::Subscribed(peer, name, broadcast))
                        .await;
                }
            }))]
        } else {
            return;
        };
        self.readers.insert(key, tasks);
    }

    // ---- reports

    async fn report(&mut self, report: Report) {
        match report {
            Report::Dialled(peer, result) => self.dialled(peer, result),
            Report::Subscribed(peer, name, broadcast) => {
                let Some(peer) = self.roster.get(&peer).cloned() else {
                    return;
                };
                let session = self.sessions.get(&peer.id).map(|open| open.session.clone());
                self.emit(Event::BroadcastSubscribed {
                    peer,
                    name,
                    broadcast,
                    session,
                });
            }
            Report::Chat(peer, frame) => {
                let Some(peer) = self.roster.get(&peer) else {
                    return;
                };
                let mut view = lock(&self.view);
                match view.chat.accept(peer, &frame) {
                    Ok(Some(message)) => view.emit(Event::ChatMessage(message)),
                    Ok(None) => {}
                    Err(()) => {
                        let peer = peer.id;
                        drop(view);
                        self.refuse(peer);
                    }
                }
            }
            Report::Channel(peer, name, data) => {
                let Some(open) = self.channels.get(&name) else {
                    return;
                };
                match channel::parse(peer, &data) {
                    // No reader listens: nobody misses it.
                    Some(message) => drop(open.messages.send(message)),
                    None => self.refuse(peer),
                }
            }
            Report::Ended(name, instance) => {
                if self
                    .published
                    .get(&name)
                    .is_some_and(|(current, _)| *current == instance)
                {
                    self.unpublish(&name);
                }
            }
        }
    }

    // ---- time

    async fn status(&mut self, status: Status) {
        self.feed(Input::Relay(status == Status::Connected));
        self.emit(Event::Status { status });
        if status == Status::Connected {
            // Whoever was lost meanwhile is looked for at once.
            for dial in self.dials.values_mut() {
                if dial.due.is_some() {
                    dial.due = Some(Instant::now());
                }
            }
            self.find_neighbors().await;
        }
    }

    async fn tick(&mut self) {
        let mut heard = Vec::new();
        for (peer, open) in &mut self.sessions {
            let packets = open.session.stats().packets_received;
            if packets != open.packets {
                open.packets = packets;
                heard.push(*peer);
            }
        }
        for peer in heard {
            self.feed(Input::Heard(peer));
        }
        self.feed(Input::Tick);
        let now = Instant::now();
        let faded: Vec<_> = self
            .fading
            .iter()
            .filter(|(_, end)| **end <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for (peer, name) in faded {
            self.fading.remove(&(peer, name.clone()));
            self.vanished(peer, &name);
        }
        if self.state.is_leaving() {
            return;
        }
        if self.neighbors.is_empty() && self.rejoined.elapsed() >= REJOIN {
            self.find_neighbors().await;
        }
        self.check_loneliness();
        self.heartbeat().await;
    }

    /// Gossip does not look for new neighbours by itself once all are gone.
    async fn find_neighbors(&mut self) {
        self.rejoined = Instant::now();
        if !self.neighbors.is_empty() {
            return;
        }
        let peers = self.known_peers();
        if peers.is_empty() {
            return;
        }
        if let Err(error) = self.kv.join_peers(peers).await {
            tracing::debug!(%error, "no neighbours");
        }
    }

    /// A few of those present, and those that the ticket named.
    fn known_peers(&self) -> Vec<EndpointId> {
        let known: Vec<EndpointId> = self.roster.iter().map(|peer| peer.id).collect();
        let start = if known.is_empty() {
            0
        } else {
            rand::random_range(0..known.len())
        };
        let some = known
            .iter()
            .cycle()
            .skip(start)
            .take(known.len().min(REJOIN_PEERS));
        some.chain(&self.bootstrap).copied().collect()
    }

    /// Peers have sessions with this one, and yet none becomes its neighbour: they may take it
    /// for the one that it was before it came back, and do not answer.
    fn check_loneliness(&mut self) {
        if !self.neighbors.is_empty() || self.sessions.is_empty() {
            self.lonely_since = None;
            return;
        }
        let since = *self.lonely_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= LONELY {
            self.lonely_since = None;
            self.live.gossip().restart();
        }
    }

    // ---- the end

    async fn say_goodbye(&mut self) {
        self.state.set_leaving(true);
        if let Ok(value) = self.state.encode() {
            // Without neighbours there is nobody to tell.
            let _ = self.kv.put(ROOM_STATE_KEY, value).await;
        }
    }

    async fn leave(mut self) {
        let goodbye = async {
            self.say_goodbye().await;
            if !self.neighbors.is_empty() {
                time::sleep(LEAVE_LINGER).await;
            }
        };
        // The close frames below say it again to all who have a session.
        let _ = time::timeout(LEAVE_TIMEOUT, goodbye).await;
        let end = async {
            self.scope.close(close::LEAVING, "leaving").await;
            self.kv.close().await;
        };
        let _ = time::timeout(LEAVE_TIMEOUT, end).await;
        self.live.unregister(&self.topic);
        lock(&self.view).close();
    }
}

type MakeReport = Box<dyn Fn(EndpointId, Frame) -> Report + Send + Sync>;

/// Reads a track for as long as its broadcast is there, and reports each frame. A failure is
/// tried again with growing delay: the track may appear later than its broadcast.
async fn read_track(
    scope: Scope,
    peer: EndpointId,
    name: String,
    track: String,
    options: TrackOptions,
    reports: mpsc::Sender<Report>,
    report: MakeReport,
) {
    let mut delay = REDIAL_MIN;
    loop {
        if let Ok(broadcast) = scope.subscribe(peer, &name).await
            && let Ok(mut reader) = broadcast.track(&track, options).await
        {
            loop {
                tokio::select! {
                    frame = reader.next_frame() => match frame {
                        Ok(Some(frame)) => {
                            delay = REDIAL_MIN;
                            if reports.send(report(peer, frame)).await.is_err() {
                                return;
                            }
                        }
                        Ok(None) | Err(_) => break,
                    },
                }
            }
        }
        time::sleep(jitter(delay)).await;
        delay = (delay * 2).min(REDIAL_MAX);
    }
}

/// Between three and five quarters of a delay, so that peers do not move in step.
fn jitter(delay: Duration) -> Duration {
    delay.mul_f64(rand::random_range(0.75..1.25))
}

/// The next event of the topic, while it is joined.
async fn next_event(presence: &mut Option<kv::Subscription>) -> Option<kv::Event> {
    match presence {
        Some(presence) => presence.recv().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
