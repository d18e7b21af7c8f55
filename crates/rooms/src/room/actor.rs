//! The actor of a room.
//!
//! 1. [`spawn`] joins the gossip topic and says who this peer is; the loop begins.
//! 2. Presence of others feeds the roster. Whoever it holds is dialled: by the side with the
//!    lower id at once, by the other a little later if no session came about.
//! 3. Announcements on the sessions become subscriptions; chats and channels are read by one
//!    task each, which ends with its broadcast.
//! 4. Twice a second the signs of life are collected, the silent leave, what is due is dialled and
//!    written again.
//! 5. A goodbye, or the last handle dropped, ends the loop: leaving is signed and sent, the
//!    sessions are closed with the code that says so, the topic is left.

mod broadcasts;
mod commands;
mod foreign;
mod presence;
mod sessions;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use iroh::{EndpointId, RelayUrl};
use iroh_gossip::TopicId;
use iroh_rooms_kv::{self as kv, Kv};
use iroh_rooms_moq::{
    Error as MoqError, Frame, RemoteBroadcast, Scope, Session, SubscribeError, close,
};
use iroh_rooms_sorted::{SortedMap, SortedSet};
use n0_future::{
    task::{self, AbortOnDropHandle},
    time::{self, Instant, SystemTime},
};
use tokio::sync::{broadcast, mpsc, watch};

use self::foreign::Foreign;
use super::{Command, Compat, Guard, Options, events::View, lock};
use crate::{
    Error, Live, RoomTicket,
    channel::{self, Writer},
    chat::ChatPublisher,
    event::{Event, Status},
    presence::{ROOM_STATE_KEY, RoomKey, RoomState},
    roster::{Input, Roster},
};

/// How often the room looks at what time has done.
const TICK: Duration = Duration::from_millis(500);
/// Results of tasks waiting for the actor; the tasks wait beyond.
const REPORTS_CAP: usize = 256;
/// The shortest time between two presence values: at most ten a second.
const PRESENCE_SPACING: Duration = Duration::from_millis(100);
const REDIAL_MIN: Duration = Duration::from_millis(250);
const REDIAL_MAX: Duration = Duration::from_secs(16);
/// How often lost neighbours are looked for.
const REJOIN: Duration = Duration::from_secs(3);
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
    guard: Option<Guard>,
    view: Arc<Mutex<View>>,
    inbox: mpsc::Receiver<Command>,
) -> Result<(), Error> {
    let me = live.endpoint_id();
    let key = RoomKey::new(&ticket.topic_id);
    let mut state = RoomState::new(&key, &me);
    state.display_name = options.display_name;
    state.participant_id = lock(&view).me.participant_id.clone();
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
    live.marks().set("topic");
    let (reports_tx, reports) = mpsc::channel(REPORTS_CAP);
    let started = Instant::now();
    let mut actor = Actor {
        live: live.clone(),
        me,
        key,
        topic: ticket.topic_id,
        bootstrap,
        guard,
        kv,
        scope,
        view,
        auto_subscribe: options.auto_subscribe,
        foreign: options.compat.map(|Compat::IrohLive| Foreign::default()),
        state,
        heartbeats: 0,
        written: started,
        dirty: false,
        roster: Roster::default(),
        started,
        sessions: SortedMap::new(),
        dials: SortedMap::new(),
        relays: SortedMap::new(),
        last_values: SortedMap::new(),
        live_broadcasts: SortedMap::new(),
        fading: SortedMap::new(),
        readers: SortedMap::new(),
        published: SortedMap::new(),
        published_count: 0,
        chat: None,
        channels: SortedMap::new(),
        neighbors: SortedSet::new(),
        rejoined: started,
        lonely_since: None,
        refused: 0,
        refused_of: SortedMap::new(),
        reports_tx,
    };
    let status = live.status_changes();
    let up = matches!(*status.borrow(), Status::Connected);
    actor.roster.handle(Input::Relay(up), Duration::ZERO);
    actor.open_chat()?;
    actor.write_presence().await;
    actor.dial_bootstrap();
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
    Subscribed(EndpointId, String, Result<RemoteBroadcast, SubscribeError>),
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
    guard: Option<Guard>,
    kv: Kv,
    scope: Scope,
    view: Arc<Mutex<View>>,
    auto_subscribe: bool,
    /// Peers of iroh-live, in a room that meets them.
    foreign: Option<Foreign>,
    /// What this peer says of itself; `dirty` until written.
    state: RoomState,
    heartbeats: u32,
    written: Instant,
    dirty: bool,
    roster: Roster,
    started: Instant,
    sessions: SortedMap<EndpointId, OpenSession>,
    /// Of peers in the roster, and at first of those that the ticket names.
    dials: SortedMap<EndpointId, Dial>,
    relays: SortedMap<EndpointId, RelayUrl>,
    /// When the last value of each peer was written, also of those who left.
    last_values: SortedMap<EndpointId, u64>,
    /// Announced on sessions, also of peers whose presence has not arrived. The scope limits
    /// how many names a session may announce.
    live_broadcasts: SortedMap<EndpointId, SortedSet<String>>,
    fading: SortedMap<(EndpointId, String), Instant>,
    /// Tasks that read or wait for broadcasts; dropping one ends it.
    readers: SortedMap<(EndpointId, String), Vec<AbortOnDropHandle<()>>>,
    /// Own broadcasts, with a number that tells instances of one name apart.
    published: SortedMap<String, (u64, AbortOnDropHandle<()>)>,
    published_count: u64,
    chat: Option<ChatPublisher>,
    channels: SortedMap<String, OpenChannel>,
    neighbors: SortedSet<EndpointId>,
    rejoined: Instant,
    lonely_since: Option<Instant>,
    refused: u64,
    /// Of `refused`, what came from peers in the roster.
    refused_of: SortedMap<EndpointId, u64>,
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
        let mut incoming = self.scope.incoming_sessions();
        let mut guard = self.guard.clone();
        let mut tick = time::interval(TICK);
        let farewell = loop {
            // Nothing where nothing is due: a sleep sets its timer when it is made.
            let presence_due = self.dirty.then(|| self.written + PRESENCE_SPACING);
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
                    Some(kv::Event::Poisoned(peer)) => self.live.gossip().poisoned_by(peer),
                    Some(event) => self.presence(event),
                    None => presence = None,
                },
                // The sender lives as long as the endpoint.
                Ok(()) = gossip.changed() => {
                    gossip.mark_unchanged();
                    // Who said goodbye joins again by `Resume`, not by a restart of gossip.
                    if !self.state.is_leaving() {
                        presence = self.enter_topic().await;
                    }
                }
                event = sessions.next() => match event {
                    Some(event) => self.session(event),
                    None => break None,
                },
                announce = announced.next() => match announce {
                    Some(announce) => self.announce(announce),
                    None => break None,
                },
                Some(session) = incoming.next(), if guard.is_some() => self.incoming(session),
                () = guarded(&mut guard) => {
                    self.members_changed();
                    // What is known of those who are members now was not looked at before.
                    presence = self.kv.subscribe().await.ok();
                    if !self.state.is_leaving() {
                        self.find_neighbors().await;
                    }
                }
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
                () = sleep_until(presence_due) => self.write_presence().await,
                () = sleep_until(dial_due) => self.dial_due(),
            }
        };
        self.leave().await;
        // Whoever asks from now on is told that the room is closed.
        drop(inbox);
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

    async fn report(&mut self, report: Report) {
        match report {
            Report::Dialled(peer, result) => self.dialled(peer, result),
            Report::Subscribed(peer, name, Err(error)) => self.emit(Event::Error {
                code: error.code().into(),
                message: format!(
                    "could not subscribe to {name:?} of {}: {error}; it is tried again",
                    peer.fmt_short()
                ),
            }),
            Report::Subscribed(peer, name, Ok(broadcast)) => {
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
                self.live.marks().set("message");
                let Some(peer) = self.roster.get(&peer) else {
                    return;
                };
                let session = self.sessions.get(&peer.id);
                let version = session.map(|open| open.session.version());
                let mut view = lock(&self.view);
                match view
                    .chat
                    .accept(peer, &frame, is_timed(version), wall_micros())
                {
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
        self.meet_foreigners();
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
            if self.foreign.is_some() {
                self.leave_own_scope();
            } else {
                self.scope.close(close::LEAVING, "leaving").await;
            }
            self.kv.close().await;
        };
        let _ = time::timeout(LEAVE_TIMEOUT, end).await;
        self.live.unregister(&self.topic);
        lock(&self.view).close();
    }
}

/// Whether a version of MoQ carries the writer's time. What was read just before its session ended
/// counts as timed, as all is in a room's own scope.
fn is_timed(version: Option<&str>) -> bool {
    !matches!(version, Some("moq-lite-03" | "moq-lite-04"))
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

/// Waits for the members of a guarded room to change.
async fn guarded(guard: &mut Option<Guard>) {
    match guard {
        Some(guard) => {
            if guard.changed().await.is_err() {
                // The doorman's actor is gone, and the room with it.
                std::future::pending().await
            }
        }
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Relays, Room};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_restart_of_gossip_does_not_take_back_a_goodbye() {
        let builder = Live::builder().relays(Relays::Disabled);
        let live = builder.spawn().await.unwrap();
        let room = Room::new(&live, RoomTicket::generate()).await.unwrap();
        assert!(room.handle().stats().await.is_ok());
        room.handle().leave_now();
        assert!(room.handle().stats().await.is_err(), "the topic is left");
        live.gossip().restart();
        // Enough turns of the loop for it to have seen the restart.
        for _ in 0..64 {
            assert!(room.handle().stats().await.is_err(), "and stays so");
        }
        live.resume().await;
        assert!(room.handle().stats().await.is_ok(), "until it is resumed");
        live.close().await;
    }
}
