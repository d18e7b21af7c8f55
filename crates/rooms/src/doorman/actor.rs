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
mod leaving;
mod members;
mod way;

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
use rand::seq::SliceRandom;
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
/// Members that gossip begins with. Each one that is asked has everybody near it look for a place for
/// the newcomer: with all of them the whole room would change its neighbours each time.
const INTRODUCTIONS: usize = 3;
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
        agreed: SortedMap::new(),
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
    /// Whom somebody wants in who is not in yet, and since when.
    agreed: SortedMap<(Key, String), Instant>,
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

    // --- What becomes of it -------------------------------------------------------------------

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
}
