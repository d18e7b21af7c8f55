//! The actor of a room with a doorman: what happens goes into consensus, what consensus wants is done.
//!
//! 1. A task finds the way in ([`Way`]): a welcome from the doorman, or the news that nobody is there.
//! 2. With the node come the mesh and the gossip room; when the state is there, and the door of who
//!    founds the room was found to answer, the room is ready.
//! 3. Ten times a second, and after each input, what follows is done: whom to connect to, who is shown
//!    in the gossip room, whether to stand at the door.
//! 4. A node that is over without having been asked to goes back to 1, with the state as it was.
//! 5. A goodbye hands over, has this member removed, and closes; what is not done after
//!    [`LEAVE_TIMEOUT`] the others find out by themselves.

mod events;
mod guests;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use iroh::{EndpointId, SecretKey};
use iroh_rooms_consensus::{
    self as consensus, Config, Input, Node, ended_digest,
    keys::{Ed25519, Hash, Key},
    session::Payload,
    state::State,
    storage::Saved,
};
use iroh_rooms_sorted::{SortedMap, SortedSet};
use n0_future::{
    task::{self, AbortOnDropHandle},
    time::{self, Instant},
};
use tokio::sync::{mpsc, watch};

use self::{
    events::Proposal,
    guests::{Asked, Guest},
};
use super::{
    Approval, COMMANDS_CAP, Command, How, Options, Recovery, Reply,
    address::{Address, topic},
    clock::Clock,
    door::{Door, Look},
    hub::{ARRIVALS_CAP, Arrival, Entry, Hub},
    mesh::{Control, Mesh, News, REPORTS_CAP, Report},
    newcomer::{self, Admitted, Request},
    questions::Question,
    view::{Shared, id_of, lock},
};
use crate::{
    Error, Live, Room, RoomTicket, door as frames,
    event::{Ending, Event, LeftReason, Status},
    live::Relays,
    room::Members,
};

/// How often consensus looks at what time has done.
const TICK: Duration = Duration::from_millis(100);
/// A pause between two ticks after which what was not heard meanwhile says nothing.
const NAP: Duration = Duration::from_secs(2);
/// A goodbye takes at most so long, before the gossip room's own.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(450);
/// Time for the last words to go out.
const LINGER: Duration = Duration::from_millis(50);
/// Who would make a room waits so long for someone to be there.
const JOIN_BEFORE_CREATE: Duration = Duration::from_secs(4);
/// Who makes a room waits at least so long for its own door to answer.
const FOUNDING: Duration = Duration::from_secs(10);
/// Gossip that does not let its topic be joined in so long is started anew,
const OPENING: Duration = Duration::from_secs(5);
/// at most so often.
const OPENINGS: usize = 3;
/// Between two attempts to come back, more or less.
const COME_BACK: Duration = Duration::from_secs(1);
/// Keys of doors that are remembered: of the present one, and of one to come.
const MAX_KEYS: usize = 4;
/// For how long after two courses of the room were seen it counts as forked.
const FORKED: Duration = Duration::from_secs(10);
/// The own connection counts after it has stood for so long.
const ONLINE_AFTER: Duration = Duration::from_secs(6);
/// Members whose end is remembered, to tell why they are gone.
const MAX_GONE: usize = 64;

/// Where the way in has led.
enum Way {
    /// Let in.
    In(Box<Admitted>),
    /// There is nobody: this is a new room.
    New,
}

type Settle = watch::Sender<Option<Result<(), Error>>>;

#[allow(clippy::too_many_arguments)]
pub(super) fn spawn(
    live: &Live,
    how: How,
    address: Address,
    options: Options,
    shared: Arc<Mutex<Shared>>,
    ready: Settle,
    questions: mpsc::Sender<Question>,
    (commands, inbox): (mpsc::WeakSender<Command>, mpsc::Receiver<Command>),
) {
    let door = *address.id.as_bytes();
    let (arrivals_tx, arrivals) = mpsc::channel(ARRIVALS_CAP);
    let number = live.hub().add(Entry {
        room: door,
        door,
        arrivals: arrivals_tx,
        commands,
        members: Vec::new(),
        open: false,
        asked: false,
    });
    let refusal = match number {
        None => Some("this Live is in that room already: use the room it has, or another Live"),
        Some(_) if *live.relays() == Relays::Disabled => {
            Some("a room with a doorman is found through a relay: set `relays`")
        }
        Some(_) => None,
    };
    let (Some(number), None) = (number, refusal) else {
        number.inspect(|it| live.hub().remove(*it));
        lock(&shared).close();
        let why = refusal.unwrap_or_default().to_owned();
        ready.send_replace(Some(Err(Error::InvalidArgument(why))));
        return;
    };
    let (reports_tx, reports) = mpsc::channel(REPORTS_CAP);
    let (looks_tx, looks) = mpsc::channel(1);
    let (ways_tx, ways) = mpsc::channel(1);
    let (rooms_tx, rooms) = mpsc::channel(1);
    let now = Instant::now();
    let mut actor = Actor {
        live: live.clone(),
        hub: live.hub().clone(),
        number,
        me: *live.endpoint_id().as_bytes(),
        how,
        began: now,
        keys: address.key.iter().cloned().collect(),
        topic_secret: address.topic_secret,
        address,
        options,
        shared,
        ready,
        questions,
        clock: Clock::new(),
        todo: VecDeque::new(),
        mesh: None,
        reports_tx,
        door: None,
        looks_tx,
        entering: None,
        ways_tx,
        opening: None,
        rooms_tx,
        members: watch::Sender::new(Members::default()),
        gone: SortedMap::new(),
        proposals: SortedMap::new(),
        asked: SortedMap::new(),
        deadlines: SortedMap::new(),
        guests: SortedMap::new(),
        count: 0,
        founding: None,
        ended: None,
        at_loss: (0, 0),
        doorman: None,
        online_since: Some(now),
        leaving: None,
        away: false,
        over: false,
        refusals: 0,
    };
    actor.find_the_way(Duration::ZERO);
    task::spawn(actor.run(inbox, arrivals, reports, looks, ways, rooms));
}

struct Actor {
    live: Live,
    hub: Arc<Hub>,
    /// Of this room, in the hub.
    number: u64,
    me: Key,
    how: How,
    began: Instant,
    address: Address,
    options: Options,
    shared: Arc<Mutex<Shared>>,
    ready: Settle,
    questions: mpsc::Sender<Question>,
    clock: Clock,
    /// Inputs that follow from others.
    todo: VecDeque<Input>,
    mesh: Option<Mesh>,
    reports_tx: mpsc::Sender<Report>,
    door: Option<Door>,
    looks_tx: mpsc::Sender<(EndpointId, Look)>,
    entering: Option<AbortOnDropHandle<()>>,
    ways_tx: mpsc::Sender<Result<Way, Error>>,
    opening: Option<AbortOnDropHandle<()>>,
    rooms_tx: mpsc::Sender<Result<Room, Error>>,
    /// Secrets of the room's keys, the latest last.
    keys: Vec<SecretKey>,
    topic_secret: Option<[u8; 32]>,
    members: watch::Sender<Members>,
    /// Why former members are.
    gone: SortedMap<EndpointId, LeftReason>,
    proposals: SortedMap<u64, Proposal>,
    asked: SortedMap<u64, Asked>,
    /// Of questions.
    deadlines: SortedMap<u64, Instant>,
    guests: SortedMap<(Key, Hash), Guest>,
    /// Names proposals and questions.
    count: u64,
    /// This member has made the room, then, and its door was not found to answer yet.
    founding: Option<Instant>,
    /// The own incarnation that is over, to be shown at the door.
    ended: Option<frames::Ended>,
    /// Voters and members when the quorum was last lost.
    at_loss: (usize, usize),
    /// Whom the doorman was last told to be.
    doorman: Option<EndpointId>,
    /// Since when the own connection stands.
    online_since: Option<Instant>,
    leaving: Option<(Instant, Vec<Reply<()>>)>,
    /// Has said goodbye, and may be back.
    away: bool,
    over: bool,
    /// Of the node, as far as they were counted.
    refusals: u64,
}

impl Actor {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Command>,
        mut arrivals: mpsc::Receiver<Arrival>,
        mut reports: mpsc::Receiver<Report>,
        mut looks: mpsc::Receiver<(EndpointId, Look)>,
        mut ways: mpsc::Receiver<Result<Way, Error>>,
        mut rooms: mpsc::Receiver<Result<Room, Error>>,
    ) {
        let mut status = self.live.status_changes();
        let mut ticked = Instant::now();
        let mut abandoned = false;
        while !self.over {
            let tick = ticked + TICK;
            tokio::select! {
                command = inbox.recv(), if !abandoned => match command {
                    Some(command) => self.commands(command, &mut inbox),
                    // The last handle is gone.
                    None => {
                        abandoned = true;
                        self.leave(None);
                    }
                },
                Some(arrival) = arrivals.recv() => self.arrival(arrival),
                Some(report) = reports.recv() => self.report(report),
                Some((door, look)) = looks.recv() => self.looked(door, look),
                Some(way) = ways.recv() => self.way(way),
                Some(room) = rooms.recv() => self.opened(room),
                changed = status.changed() => {
                    let status = *status.borrow_and_update();
                    if changed.is_err() || status == Status::Disconnected {
                        break;
                    }
                    let online = status == Status::Connected;
                    self.online_since = online.then(Instant::now);
                    self.step(Input::Online(online));
                }
                () = time::sleep_until(tick) => {
                    let now = Instant::now();
                    if now > ticked + NAP && let Some(mesh) = &mut self.mesh {
                        mesh.resumed();
                    }
                    ticked = now;
                    self.tick();
                }
            }
        }
        self.finish().await;
    }

    /// Takes a command and those behind it, so that proposals that come at once travel together.
    fn commands(&mut self, command: Command, inbox: &mut mpsc::Receiver<Command>) {
        self.command(command);
        for _ in 1..COMMANDS_CAP {
            match inbox.try_recv() {
                Ok(command) if !self.over => self.command(command),
                _ => break,
            }
        }
        self.work();
    }

    /// Has the node take an input, and does what follows.
    fn step(&mut self, input: Input) {
        self.todo.push_back(input);
        self.work();
    }

    /// Has the node take what is to be done, and does what follows.
    fn work(&mut self) {
        while !self.todo.is_empty() {
            let now = self.clock.now();
            let inputs = std::mem::take(&mut self.todo);
            let outputs = lock(&self.shared).handle(inputs, now);
            if let Some(mesh) = &mut self.mesh {
                for send in outputs.send {
                    mesh.send(send.to, send.lane, send.bytes);
                }
            }
            for event in outputs.events {
                self.event(event);
            }
        }
        self.stand_at_the_door();
    }

    fn tick(&mut self) {
        self.step(Input::Tick);
        self.watch_questions();
        self.watch_members();
        if let Some(door) = &mut self.door {
            door.tick();
        }
        let mut news = Vec::new();
        let online = self
            .online_since
            .is_some_and(|it| it.elapsed() >= ONLINE_AFTER);
        if let Some(mesh) = &mut self.mesh {
            let shared = lock(&self.shared);
            let node = shared.node.as_ref();
            let taken_for = |key: &Key| {
                let node = node?;
                Some((node.status().epoch, node.machine().find(key)?))
            };
            mesh.tick(online, taken_for, &mut news);
        }
        self.news(news);
        self.count_refusals();
        let patience = self.options.join_timeout.max(FOUNDING);
        if self.founding.is_some_and(|it| it.elapsed() >= patience) {
            self.fail(Error::Timeout("opening the room's door"));
        }
        if self
            .leaving
            .as_ref()
            .is_some_and(|(until, _)| Instant::now() >= *until)
        {
            self.over = true;
        }
    }

    fn count_refusals(&mut self) {
        let refused = lock(&self.shared).node.as_ref().map_or(0, |node| {
            // A stranger to whom nothing is to be said, and who came too late, are no offenders.
            node.refused().get("malformed").copied().unwrap_or(0)
                + node.refused().get("forged").copied().unwrap_or(0)
        });
        self.hub.refuse(refused.saturating_sub(self.refusals));
        self.refusals = refused;
    }

    // --- The way in ---------------------------------------------------------------------------

    /// Looks for the way in, after a pause.
    fn find_the_way(&mut self, pause: Duration) {
        let (live, how, address) = (self.live.clone(), self.how, self.address.clone());
        let patience = self.options.join_timeout;
        // A room that nobody else can know is new.
        let unheard_of = how == How::Create && self.address.is_fresh;
        let request = Request {
            door: address.id,
            relays: newcomer::relays_of(&live, &address.id, &address.relays),
            participant_id: self.options.participant_id.clone(),
            proof: self.options.proof.clone(),
            app: self.options.app,
            priority: self.options.priority,
            ended: self.ended.clone(),
        };
        let (hub, number) = (self.hub.clone(), self.number);
        let ways = self.ways_tx.clone();
        self.entering = Some(AbortOnDropHandle::new(task::spawn(async move {
            time::sleep(pause).await;
            let asked = || hub.change(number, |it| it.asked = true);
            let way = match how {
                How::Create if unheard_of => Ok(Way::New),
                How::Create => match newcomer::probe(&live, &request.door, &request.relays).await {
                    Some(_) => Err(Error::RoomExists),
                    None => Ok(Way::New),
                },
                How::Join => newcomer::enter(&live, &request, patience, asked)
                    .await
                    .map(|it| Way::In(it.into())),
                How::JoinOrCreate => {
                    let before = patience.min(JOIN_BEFORE_CREATE);
                    match newcomer::enter(&live, &request, before, &asked).await {
                        Err(Error::RoomNotFound) => Ok(Way::New),
                        // Someone is there.
                        Err(Error::Timeout(_)) => newcomer::enter(&live, &request, patience, asked)
                            .await
                            .map(|it| Way::In(it.into())),
                        way => way.map(|it| Way::In(it.into())),
                    }
                }
            };
            // A room that is over has no use for it.
            let _ = ways.send(way).await;
        })));
    }

    fn way(&mut self, way: Result<Way, Error>) {
        self.entering = None;
        if self.leaving.is_some() || self.away {
            return;
        }
        let was_ready = self.ready.borrow().is_some();
        let entered = match way {
            Ok(Way::In(admitted)) => self.enter(*admitted),
            Ok(Way::New) => self.found(),
            Err(error) => Err(error),
        };
        let Err(error) = entered else {
            return;
        };
        let early = self.began.elapsed() < self.options.join_timeout;
        match error {
            // What was no welcome was not the room's.
            Error::Timeout(_) if early => {
                self.find_the_way(COME_BACK.mul_f64(rand::random_range(0.5..1.5)))
            }
            error if !was_ready => self.fail(error),
            Error::RoomNotFound | Error::Timeout(_) => {
                self.find_the_way(COME_BACK.mul_f64(rand::random_range(0.5..1.5)));
            }
            error => {
                let kicked = matches!(&error, Error::Refused(why) if why == guests::KICKED);
                self.end(if kicked {
                    Ending::Kicked
                } else {
                    Ending::Refused
                });
            }
        }
    }

    fn config(&self, room: Hash) -> Config {
        let keys = Arc::new(Ed25519::new(self.live.secret_key().clone()));
        let mut config = Config::new(keys, room, rand::random());
        config.voters = self.options.voters;
        config.recovery = match self.options.recovery {
            Recovery::Auto => consensus::Recovery::Auto,
            Recovery::Manual | Recovery::Never => consensus::Recovery::Manual,
        };
        config.approval = match self.options.approval {
            Approval::Guard => consensus::Approval::Guard,
            Approval::Majority => consensus::Approval::Majority,
        };
        config.host = self.options.reducer || self.options.validate;
        config
    }

    /// Becomes the first member of a new room.
    fn found(&mut self) -> Result<(), Error> {
        let wrong = |what: String| Error::InvalidArgument(what);
        let room = *self.address.id.as_bytes();
        let (name, priority) = (self.options.participant_id.clone(), self.options.priority);
        let (config, now, nonce) = (self.config(room), self.clock.now(), rand::random());
        let saved = self.options.restore.as_deref().map(load).transpose()?;
        let node = match saved {
            Some(saved) if saved.room == room => {
                Node::restore(config, saved, &name, priority, nonce, now)
            }
            saved => {
                let state = match saved {
                    Some(saved) => saved.state,
                    None => {
                        let text = self.options.initial_state.as_deref().unwrap_or("{}");
                        let json = State::json(text.as_bytes())
                            .map_err(|why| wrong(format!("the first state: {why}")))?;
                        match self.options.reducer {
                            true => State::Opaque(json.bytes()),
                            false => json,
                        }
                    }
                };
                Node::create(config, state, &name, priority, nonce, now)
            }
        };
        let node = node.ok_or_else(|| wrong("the first state is too large".into()))?;
        let secret = *self.topic_secret.get_or_insert_with(rand::random);
        self.founding = Some(Instant::now());
        self.install(node, secret);
        if !self.options.moderators.is_empty() {
            let more = self.options.moderators.iter().map(|it| *it.as_bytes());
            let keys = [self.me].into_iter().chain(more).collect();
            self.propose(Payload::Moderators(keys), None, None);
            self.work();
        }
        Ok(())
    }

    /// Becomes a member of a room that is there.
    fn enter(&mut self, admitted: Admitted) -> Result<(), Error> {
        let config = self.config(*self.address.id.as_bytes());
        let now = self.clock.now();
        let node = Node::join(config, admitted.welcome, now);
        // A welcome that voters do not speak for is worth as much as none.
        let node = node.ok_or(Error::Timeout("joining the room"))?;
        self.founding = None;
        let secret = *self.topic_secret.get_or_insert(admitted.topic_secret);
        self.install(node, secret);
        Ok(())
    }

    fn install(&mut self, node: Node, secret: [u8; 32]) {
        let room = node.room();
        self.refusals = 0;
        self.ended = None;
        self.mesh = Some(Mesh::new(
            &self.live,
            room,
            &secret,
            self.reports_tx.clone(),
        ));
        self.hub.change(self.number, |it| {
            it.room = room;
            it.open = true;
        });
        lock(&self.shared).node = Some(node);
        let online = self.live.status() == Status::Connected;
        self.step(Input::Online(online));
        self.watch_members();
    }

    // --- The gossip room ----------------------------------------------------------------------

    /// Opens it, when the members are known.
    fn open_room(&mut self) {
        let open = lock(&self.shared).room.is_some() || self.opening.is_some();
        let Some(secret) = self.topic_secret.filter(|_| !open) else {
            return;
        };
        let topic = topic(&secret);
        let members = self.members.borrow().participants.clone();
        let me = self.live.endpoint_id();
        let others = members.into_keys().filter(|it| *it != me);
        let ticket = RoomTicket::new(topic, others);
        let (live, options, guard) = (
            self.live.clone(),
            self.options.room.clone(),
            self.members.subscribe(),
        );
        let rooms = self.rooms_tx.clone();
        self.opening = Some(AbortOnDropHandle::new(task::spawn(async move {
            let mut room = Err(Error::Timeout("opening the gossip room"));
            for _ in 0..OPENINGS {
                let (ticket, options) = (ticket.clone(), options.clone());
                let open = Room::open_with(&live, ticket, options, Some(guard.clone()));
                match time::timeout(OPENING, open).await {
                    Ok(Err(Error::Presence(_))) => {}
                    Ok(opened) => {
                        room = opened;
                        break;
                    }
                    // It takes no calls.
                    Err(_) => live.gossip().restart(),
                }
            }
            let _ = rooms.send(room).await;
        })));
    }

    fn opened(&mut self, room: Result<Room, Error>) {
        self.opening = None;
        match room {
            Ok(room) => {
                lock(&self.shared).room = Some(room.split().1);
                self.check_ready();
            }
            Err(error) => self.fail(error),
        }
    }

    fn emit(&self, event: Event) {
        let room = lock(&self.shared).room.clone();
        if let Some(room) = room {
            room.emit(event);
        }
    }

    fn check_ready(&mut self) {
        if self.ready.borrow().is_some() {
            return;
        }
        let there = {
            let shared = lock(&self.shared);
            let ready = shared.node.as_ref().is_some_and(|it| it.status().ready);
            ready && shared.room.is_some()
        };
        let answers = self.founding.is_none() || self.door.as_ref().is_some_and(|it| it.found >= 2);
        if there && answers {
            self.founding = None;
            self.ready.send_replace(Some(Ok(())));
            self.tell_doorman();
        }
    }

    /// Nothing comes of it.
    fn fail(&mut self, error: Error) {
        if lock(&self.shared).room.is_none() {
            // Who hears of it may try again at once.
            self.hub.remove(self.number);
        }
        self.ready.send_if_modified(|ready| {
            let first = ready.is_none();
            if first {
                *ready = Some(Err(error));
            }
            first
        });
        self.over = true;
    }

    /// The room is over for this member.
    fn end(&mut self, reason: Ending) {
        self.emit(Event::Ended { reason });
        self.fail(Error::Refused(
            match reason {
                Ending::Kicked => "a moderator has removed you",
                Ending::Replaced => "another program with the same key took your place",
                Ending::Refused => "not let in again",
            }
            .into(),
        ));
    }

    // --- Members ------------------------------------------------------------------------------

    /// Has everyone else follow who is a member.
    fn watch_members(&mut self) {
        let (peers, banned, members, voters, door) = {
            let shared = lock(&self.shared);
            let Some(node) = &shared.node else { return };
            let status = node.status();
            let machine = node.machine();
            let banned = machine.banned.clone();
            // Who is to go still has to help with its going.
            let peers = node.peers();
            let voters = status.conf.ids().into_iter();
            let voters = voters.filter(|id| status.conf.is_voter(*id));
            let voters: SortedSet<Key> = voters.filter_map(|id| node.key(id)).collect();
            let members = status.ready.then(|| {
                let members = machine.members.values();
                let members = members.filter(|it| !banned.contains(&it.key));
                members
                    .filter_map(|it| Some((id_of(&it.key)?, it.participant.clone())))
                    .collect::<SortedMap<EndpointId, String>>()
            });
            (peers, banned, members, voters, machine.door())
        };
        let known = peers.iter().copied().collect();
        self.hub.change(self.number, |it| it.members = known);
        if let Some(mesh) = &mut self.mesh {
            mesh.want(peers, |key| banned.contains(key));
            let key = self.keys.iter().find(|it| *it.public().as_bytes() == door);
            if let Some(key) = key {
                mesh.hand_key(&door, &key.to_bytes(), &voters);
            }
        }
        let Some(participants) = members else { return };
        let banned = banned.iter().filter_map(id_of);
        let banned = banned.map(|id| (id, LeftReason::Kicked));
        let members = Members {
            room_id: door,
            gone: self.gone.clone().into_iter().chain(banned).collect(),
            participants,
        };
        self.members.send_if_modified(|now| {
            let changed = *now != members;
            *now = members;
            changed
        });
        self.hub.change(self.number, |it| it.door = door);
        if let Ok(id) = EndpointId::from_bytes(&door) {
            lock(&self.shared).id = id;
        }
        self.open_room();
        self.check_ready();
    }

    fn news(&mut self, news: Vec<News>) {
        for news in news {
            match news {
                News::Link(key, up) => {
                    self.step(Input::Link(key, up));
                    if up {
                        self.watch_members();
                    }
                }
                News::Gone(key) => self.step(Input::Gone(key)),
                News::Ended(ended) => self.heard_of_end(&ended),
                News::Key(secret) => self.learn_key(SecretKey::from_bytes(&secret)),
            }
        }
    }

    fn heard_of_end(&mut self, ended: &frames::Ended) {
        let current = lock(&self.shared)
            .node
            .as_ref()
            .is_some_and(|it| it.status().epoch == ended.epoch && it.status().id != ended.raft_id);
        if current {
            self.step(Input::Ended(ended.raft_id, signature(&ended.signature)));
        }
    }

    fn learn_key(&mut self, key: SecretKey) {
        let door = lock(&self.shared)
            .node
            .as_ref()
            .map(|it| it.machine().door());
        self.keys.retain(|it| it.public() != key.public());
        self.keys.push(key);
        if self.keys.len() > MAX_KEYS {
            // Not the one that opens the door now.
            let other = self
                .keys
                .iter()
                .position(|it| Some(*it.public().as_bytes()) != door);
            self.keys.remove(other.unwrap_or_default());
        }
        self.stand_at_the_door();
    }

    /// Whether someone was removed by a moderator, and is a member no more.
    fn is_banned(&self, key: &Key) -> bool {
        let shared = lock(&self.shared);
        let node = shared.node.as_ref();
        node.is_some_and(|it| it.machine().banned.contains(key) && !it.peers().contains(key))
    }

    fn report(&mut self, report: Report) {
        if let Report::Frame(from, frame, _share) = report {
            if !self.is_banned(&from) {
                self.step(Input::Receive(from, frame));
            }
            return;
        }
        let mut news = Vec::new();
        if let Some(mesh) = &mut self.mesh {
            mesh.report(report, &mut news);
        }
        self.news(news);
    }

    // --- The door -----------------------------------------------------------------------------

    /// Stands at the door while this member leads and holds its key, and not a moment longer.
    fn stand_at_the_door(&mut self) {
        let door = {
            let shared = lock(&self.shared);
            let node = shared.node.as_ref().filter(|it| it.status().doorman);
            node.map(|it| it.machine().door())
        };
        let door = door.filter(|_| self.leaving.is_none() && !self.away);
        if door.is_none() {
            self.turn_away();
        }
        let key = door.and_then(|door| {
            let mut keys = self.keys.iter();
            keys.find(|it| *it.public().as_bytes() == door)
        });
        let stands = self.door.as_ref().map(Door::id);
        if stands == key.map(SecretKey::public) {
            return;
        }
        self.door =
            key.map(|key| Door::open(&self.live, key.clone(), &self.hub, self.looks_tx.clone()));
    }

    fn looked(&mut self, id: EndpointId, look: Look) {
        let Some(door) = self.door.as_mut().filter(|it| it.id() == id) else {
            return;
        };
        door.looked(&look);
        match look {
            Look::Own => self.check_ready(),
            Look::Nobody => {}
            Look::Foreign(here) => self.meet(&here),
        }
    }

    /// Someone else stands at the door of this room.
    fn meet(&mut self, here: &frames::Here) {
        if self.founding.is_some() {
            if self.how == How::Create {
                return self.fail(Error::RoomExists);
            }
            // It was there first, or as good as.
            self.dismantle();
            return self.find_the_way(Duration::ZERO);
        }
        let (known, alone) = {
            let shared = lock(&self.shared);
            let Some(node) = &shared.node else { return };
            let machine = node.machine();
            let known = machine.find(here.doorman.as_bytes()).is_some();
            // Nobody else has ever been here.
            (known, machine.sessions.len() == 1)
        };
        let relay = here.relay_url.as_ref();
        self.live
            .learn(here.doorman, relay.and_then(|url| url.parse().ok()));
        match (alone, here.members) {
            (true, 2..) if !known => {
                let orphaned = self.own_changes();
                self.supersede(orphaned);
            }
            // It gives way when it finds this one at the door.
            (false, 1) if !known => {}
            _ => self.step(Input::Meet(*here.doorman.as_bytes())),
        }
    }

    /// Takes down what belongs to the node, and keeps what can be read.
    fn dismantle(&mut self) {
        self.door = None;
        self.mesh = None;
        self.turn_away();
        let mut shared = lock(&self.shared);
        if let Some(node) = shared.node.take().filter(|it| it.session().is_some()) {
            shared.kept = Some(node.saved());
            let status = node.status();
            self.ended = Some(self.end_of(status.epoch, status.id));
        }
        drop(shared);
        self.asked.clear();
        self.deadlines.clear();
        self.how = How::Join;
        self.founding = None;
        self.address.id = lock(&self.shared).id;
        self.hub.change(self.number, |it| {
            it.members.clear();
            it.open = false;
            it.asked = false;
        });
    }

    fn end_of(&self, epoch: Hash, raft_id: u64) -> frames::Ended {
        let key = self.live.secret_key();
        frames::Ended {
            epoch,
            raft_id,
            signature: key.sign(&ended_digest(&epoch, raft_id)),
        }
    }

    // --- Leaving ------------------------------------------------------------------------------

    fn leave(&mut self, reply: Option<Reply<()>>) {
        let until = Instant::now() + LEAVE_TIMEOUT;
        let (_, replies) = self.leaving.get_or_insert((until, Vec::new()));
        replies.extend(reply);
        self.entering = None;
        self.fail_unready();
        if lock(&self.shared).node.is_none() {
            self.over = true;
            return;
        }
        self.step(Input::Leave);
    }

    fn fail_unready(&mut self) {
        self.ready.send_if_modified(|ready| {
            let first = ready.is_none();
            if first {
                *ready = Some(Err(Error::Closed("room")));
            }
            first
        });
    }

    /// Says goodbye without waiting: the page vanishes, and may be back.
    fn leave_now(&mut self) {
        self.away = true;
        self.entering = None;
        self.step(Input::Leave);
        self.say_the_end();
    }

    fn resume(&mut self) {
        if !std::mem::take(&mut self.away) || self.leaving.is_some() {
            return;
        }
        self.dismantle();
        self.find_the_way(Duration::ZERO);
    }

    /// Tells everyone that this incarnation is over, whatever became of its removal.
    fn say_the_end(&mut self) {
        let status = lock(&self.shared).node.as_ref().map(Node::status);
        if let (Some(status), Some(mesh)) = (status, &self.mesh) {
            let ended = self.end_of(status.epoch, status.id);
            mesh.tell_all(&Control::Ended(ended));
        }
    }

    async fn finish(mut self) {
        self.hub.change(self.number, |it| it.open = false);
        self.door = None;
        self.turn_away();
        self.say_the_end();
        for (_, proposal) in self.proposals.drain() {
            proposal.tell(Err(Error::UpdateUnknown));
        }
        let room = {
            let mut shared = lock(&self.shared);
            shared.close();
            shared.room.clone()
        };
        let farewell = async {
            time::sleep(LINGER).await;
            if let Some(mesh) = &mut self.mesh {
                mesh.close();
            }
        };
        let leave = async {
            if let Some(room) = room {
                room.leave().await;
            }
        };
        tokio::join!(farewell, leave);
        self.hub.remove(self.number);
        for reply in self.leaving.into_iter().flat_map(|(_, replies)| replies) {
            // The leaver may have stopped waiting.
            let _ = reply.send(Ok(()));
        }
    }
}

/// Reads what [`super::StateRoom::saved`] gave.
fn load(bytes: &[u8]) -> Result<Saved, Error> {
    let wrong = |why: &str| Error::InvalidArgument(format!("restore: {why}"));
    let (room, rest) = bytes
        .split_first_chunk::<32>()
        .ok_or_else(|| wrong("too short"))?;
    Saved::load(rest, room).map_err(|error| wrong(&error.to_string()))
}

/// A signature as consensus has it: in halves.
fn signature(signature: &iroh_base::Signature) -> consensus::keys::Signature {
    let bytes = signature.to_bytes();
    let (first, second) = bytes.split_at(32);
    let mut halves = consensus::keys::Signature::default();
    halves.0.copy_from_slice(first);
    halves.1.copy_from_slice(second);
    halves
}
