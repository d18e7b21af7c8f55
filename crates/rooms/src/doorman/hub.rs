//! Where strangers arrive: the door of every room of an endpoint, and its members' connections.
//!
//! What comes in is read here, within limits, and handed to the room's actor; who asks for a room
//! that is not here, or says what is no frame, gets no further.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use iroh::{
    EndpointId, SecretKey,
    endpoint::{Connection, RecvStream, SendStream},
    protocol::{AcceptError, ProtocolHandler},
};
use iroh_rooms_consensus::{
    ended_digest,
    keys::{Hash, Key},
};
use iroh_rooms_sorted::SortedMap;
use n0_future::{
    task,
    time::{self, Instant},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Command,
    mesh::{Control, MAX_CONTROL, Standing},
};
use crate::door::{self, Code, Frame, Refused};

/// At the door, see `docs/wire.md`.
pub(crate) const DOOR_ALPN: &[u8] = b"iroh-rooms/door/1";
/// Among members.
pub(crate) const RAFT_ALPN: &[u8] = b"iroh-rooms/raft/1";

/// What was said is no frame, or too much.
pub(super) const CLOSE_MALFORMED: u32 = 1;
/// There is no such room here, or not for the one who asks.
pub(super) const CLOSE_NOT_HERE: u32 = 66;
/// Too many at once.
const CLOSE_BUSY: u32 = 2;

/// Connections at the doors of all rooms, each until it has its answer. More are closed and counted.
const MAX_GUESTS: usize = 64;
/// And of one endpoint.
const GUESTS_EACH: usize = 8;
/// Connections of members whose first words are awaited. Apart from the others: who floods the door,
/// or says that it is a member, keeps no member from coming back. More are closed and counted.
const MAX_MEMBERS: usize = 256;
/// And of one endpoint, which may be in many rooms.
const MEMBERS_EACH: usize = 64;
/// The same of those whom no room here knows as a member: newcomers of whom it is not known yet, and
/// strangers. More are closed and counted.
const MAX_CALLERS: usize = 64;
/// And of one endpoint.
const CALLERS_EACH: usize = 8;
/// How long the first words may take.
const FIRST_WORDS: Duration = Duration::from_secs(5);
/// How long a caller may take to fetch its answer.
const FAREWELL: Duration = Duration::from_secs(5);
/// Frames in one visit to the door.
const MAX_FRAMES: usize = 4;
/// What one endpoint may ask at once; one more comes each second. More are refused with `rate-limited`.
const ASKS: u32 = 10;
/// Endpoints whose asking is counted. Beyond, who asked longest ago is forgotten.
const MAX_COUNTED: usize = 1024;
/// Arrivals that wait for one room's actor; beyond, they wait at the door.
pub(super) const ARRIVALS_CAP: usize = 32;

/// What arrives for a room.
pub(super) enum Arrival {
    /// Someone at the door, and where the answer goes.
    Guest(EndpointId, Ask, oneshot::Sender<Frame>),
    /// A member, or who says so: what it said first, and its connection.
    Member(Standing, super::mesh::Hello),
}

/// What is asked at the door.
pub(super) enum Ask {
    /// To be let in.
    Hello(door::Hello),
    /// Who stands here.
    Probe,
    /// Not asked, but told: an earlier incarnation is no more. There is no answer.
    Ended(door::Ended),
}

/// Places of a kind, so many at once, and for each endpoint.
struct Places {
    all: usize,
    each: usize,
    taken: Mutex<Vec<EndpointId>>,
}

/// One of them, until it is dropped.
struct Place<'a>(&'a Places, EndpointId);

impl Places {
    fn new(all: usize, each: usize) -> Self {
        let taken = Mutex::default();
        Self { all, each, taken }
    }

    fn take(&self, who: EndpointId) -> Option<Place<'_>> {
        let mut taken = self.taken();
        let own = taken.iter().filter(|it| **it == who).count();
        if own >= self.each || taken.len() >= self.all {
            return None;
        }
        taken.push(who);
        Some(Place(self, who))
    }

    fn taken(&self) -> MutexGuard<'_, Vec<EndpointId>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.0.taken();
        if let Some(at) = taken.iter().position(|it| *it == self.1) {
            taken.swap_remove(at);
        }
    }
}

/// A room as the hub knows it.
pub(super) struct Entry {
    /// The id that the room was founded under.
    pub(super) room: Hash,
    /// The id of its door.
    pub(super) door: Hash,
    /// Where arrivals go.
    pub(super) arrivals: mpsc::Sender<Arrival>,
    /// To say goodbye with.
    pub(super) commands: mpsc::WeakSender<Command>,
    /// Who may come as a member.
    pub(super) members: Vec<Key>,
    /// There is a member here.
    pub(super) open: bool,
    /// This endpoint has asked to be let in: it may be a member that does not know it yet.
    pub(super) asked: bool,
}

/// All rooms with a doorman of an endpoint.
pub(crate) struct Hub {
    key: SecretKey,
    state: Mutex<State>,
    guests: Places,
    members: Places,
    callers: Places,
    refused: AtomicU64,
}

#[derive(Default)]
struct State {
    rooms: SortedMap<u64, Entry>,
    next: u64,
    asks: SortedMap<EndpointId, (u32, Instant)>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hub")
    }
}

impl Hub {
    pub(crate) fn new(key: SecretKey) -> Arc<Self> {
        Arc::new(Self {
            key,
            state: Mutex::default(),
            guests: Places::new(MAX_GUESTS, GUESTS_EACH),
            members: Places::new(MAX_MEMBERS, MEMBERS_EACH),
            callers: Places::new(MAX_CALLERS, CALLERS_EACH),
            refused: AtomicU64::new(0),
        })
    }

    /// What was refused of strangers and members.
    pub(crate) fn refusals(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn refuse(&self, count: u64) {
        self.refused.fetch_add(count, Ordering::Relaxed);
    }

    /// How to speak to the rooms that are open.
    pub(crate) fn rooms(&self) -> Vec<mpsc::Sender<Command>> {
        let state = self.state();
        let open = state.rooms.values();
        open.filter_map(|it| it.commands.upgrade()).collect()
    }

    /// Takes in a room; nothing if it is here already.
    pub(super) fn add(&self, entry: Entry) -> Option<u64> {
        let mut state = self.state();
        if state.rooms.values().any(|it| it.door == entry.door) {
            return None;
        }
        state.next += 1;
        let number = state.next;
        state.rooms.insert(number, entry);
        Some(number)
    }

    pub(super) fn change(&self, number: u64, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.state().rooms.get_mut(&number) {
            change(entry);
        }
    }

    pub(super) fn remove(&self, number: u64) {
        self.state().rooms.remove(&number);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an endpoint may ask now; counts it.
    fn may_ask(&self, who: EndpointId) -> bool {
        // Who looks after its own doors, however many.
        if who == self.key.public() {
            return true;
        }
        let mut state = self.state();
        if state.asks.len() >= MAX_COUNTED && !state.asks.contains_key(&who) {
            let oldest = state.asks.iter().min_by_key(|(_, (_, since))| *since);
            if let Some(oldest) = oldest.map(|(who, _)| *who) {
                state.asks.remove(&oldest);
            }
        }
        let now = Instant::now();
        let (left, since) = state.asks.entry(who).or_insert((ASKS, now));
        let more = now.saturating_duration_since(*since).as_secs();
        if more > 0 {
            *left = left
                .saturating_add(u32::try_from(more).unwrap_or(ASKS))
                .min(ASKS);
            *since = now;
        }
        let may = *left > 0;
        *left = left.saturating_sub(1);
        may
    }

    /// Whether a room here knows an endpoint as a member.
    fn is_member(&self, who: &EndpointId) -> bool {
        let state = self.state();
        let mut rooms = state.rooms.values();
        rooms.any(|it| it.members.contains(who.as_bytes()))
    }

    fn at_door(&self, door: &Hash) -> Option<mpsc::Sender<Arrival>> {
        let state = self.state();
        let entry = state.rooms.values().find(|it| it.open && it.door == *door);
        entry.map(|it| it.arrivals.clone())
    }

    /// Answers who came to the door.
    pub(super) async fn serve_door(&self, connection: Connection) {
        let guest = connection.remote_id();
        let place = self.guests.take(guest);
        // Who looks after its own door needs none: with a full one it would take it for another's.
        if place.is_none() && guest != self.key.public() {
            self.refuse(1);
            return connection.close(CLOSE_BUSY.into(), b"too many at once");
        }
        match self.answer_at_door(&connection).await {
            Ok(()) => {
                // The guest closes when it has its answer.
                let _ = time::timeout(FAREWELL, connection.closed()).await;
                connection.close(0u32.into(), b"");
            }
            Err(Broken::Lost) => connection.close(0u32.into(), b""),
            Err(Broken::Malformed) => {
                self.refuse(1);
                connection.close(CLOSE_MALFORMED.into(), b"not what is said at a door");
            }
        }
    }

    async fn answer_at_door(&self, connection: &Connection) -> Result<(), Broken> {
        let from = connection.remote_id();
        let accepted = time::timeout(FIRST_WORDS, connection.accept_bi()).await;
        let (mut send, mut recv) = accepted
            .map_err(|_| Broken::Lost)?
            .map_err(|_| Broken::Lost)?;
        let mut door = None;
        for _ in 0..MAX_FRAMES {
            let frame = time::timeout(FIRST_WORDS, read_door(&mut recv)).await;
            let frame = frame.map_err(|_| Broken::Lost)??;
            let ask = match frame {
                Frame::At(room) => {
                    door = self.at_door(&room);
                    continue;
                }
                Frame::Hello(hello) => Ask::Hello(hello),
                Frame::Probe => Ask::Probe,
                Frame::Ended(ended) => Ask::Ended(ended),
                _ => return Err(Broken::Malformed),
            };
            // A room that is not here is not told from one that does not answer.
            let Some(door) = &door else {
                return Err(Broken::Lost);
            };
            let last = !matches!(ask, Ask::Ended(_));
            let answer = match self.may_ask(from) {
                true => {
                    let (reply, answer) = oneshot::channel();
                    let arrival = Arrival::Guest(from, ask, reply);
                    door.send(arrival).await.map_err(|_| Broken::Lost)?;
                    if !last {
                        continue;
                    }
                    tokio::select! {
                        answer = answer => answer.map_err(|_| Broken::Lost)?,
                        // Who has gone is not asked about any longer.
                        _ = connection.closed() => return Err(Broken::Lost),
                    }
                }
                false => {
                    self.refuse(1);
                    refused(Code::RateLimited, "too many attempts: wait a little")
                }
            };
            let bytes = answer.encode().map_err(|_| Broken::Lost)?;
            send.write_all(&bytes).await.map_err(|_| Broken::Lost)?;
            let _ = send.finish();
            return Ok(());
        }
        Err(Broken::Malformed)
    }

    /// Takes in who says that it is a member.
    async fn serve_member(&self, connection: Connection) {
        let caller = connection.remote_id();
        let places = match self.is_member(&caller) {
            true => &self.members,
            false => &self.callers,
        };
        let Some(place) = places.take(caller) else {
            self.refuse(1);
            return connection.close(CLOSE_BUSY.into(), b"too many at once");
        };
        let first = async {
            let (send, mut recv) = connection.accept_bi().await.map_err(|_| Broken::Lost)?;
            match read_control(&mut recv).await? {
                Control::Hello(hello) => Ok((send, recv, hello)),
                _ => Err(Broken::Malformed),
            }
        };
        let (mut send, recv, hello) = match time::timeout(FIRST_WORDS, first).await {
            Ok(Ok(first)) => first,
            Ok(Err(Broken::Malformed)) => {
                self.refuse(1);
                return connection.close(CLOSE_MALFORMED.into(), b"not what members say");
            }
            _ => return connection.close(0u32.into(), b""),
        };
        drop(place);
        let (arrivals, asked) = {
            let state = self.state();
            let entry = state.rooms.values().find(|it| it.room == hello.room);
            let open = entry.filter(|it| it.open).map(|it| it.arrivals.clone());
            (open, entry.map(|it| it.asked))
        };
        if let Some(arrivals) = arrivals {
            let standing = Standing {
                connection,
                send,
                recv,
                relay_url: hello.relay_url.clone(),
            };
            // A room that is over closes what waits for it.
            let _ = arrivals.send(Arrival::Member(standing, hello)).await;
            return;
        }
        // The caller takes this endpoint for what it was before it was started anew. It is on its way
        // back to that room, and has not been let in: whatever it was there is over.
        if let (Some(false), Some((epoch, raft_id))) = (asked, hello.taken_for) {
            let signature = self.key.sign(&ended_digest(&epoch, raft_id));
            let ended = door::Ended {
                epoch,
                raft_id,
                signature,
            };
            if write_control(&mut send, &Control::Ended(ended))
                .await
                .is_ok()
            {
                let _ = send.finish();
                let _ = time::timeout(FAREWELL, connection.closed()).await;
            }
        }
        connection.close(CLOSE_NOT_HERE.into(), b"not here");
    }
}

/// Takes connections to the doors from iroh's Router.
#[derive(Debug)]
pub(crate) struct DoorHandler(pub(crate) Arc<Hub>);

impl ProtocolHandler for DoorHandler {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let (hub, guest) = (self.0.clone(), connection.clone());
        task::spawn(async move { hub.serve_door(guest).await });
        connection.closed().await;
        Ok(())
    }
}

/// Takes connections of members from iroh's Router.
#[derive(Debug)]
pub(crate) struct MemberHandler(pub(crate) Arc<Hub>);

impl ProtocolHandler for MemberHandler {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let (hub, caller) = (self.0.clone(), connection.clone());
        task::spawn(async move { hub.serve_member(caller).await });
        connection.closed().await;
        Ok(())
    }
}

/// A refusal.
pub(super) fn refused(code: Code, message: &str) -> Frame {
    let message = message.chars().take(door::MAX_MESSAGE / 4).collect();
    Frame::Refused(Refused { code, message })
}

/// Why nothing more is read.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection is, or took too long.
    Lost,
    /// What was said is no frame.
    Malformed,
}

/// A frame with its length in front, at most `max` bytes of it.
pub(super) async fn read_frame(recv: &mut RecvStream, max: usize) -> Result<Vec<u8>, Broken> {
    let mut length = [0; 4];
    recv.read_exact(&mut length)
        .await
        .map_err(|_| Broken::Lost)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > max {
        return Err(Broken::Malformed);
    }
    // A length that is claimed takes no memory, only what comes does.
    let mut frame = Vec::new();
    while frame.len() < length {
        let chunk = recv.read_chunk(length - frame.len()).await;
        let chunk = chunk.map_err(|_| Broken::Lost)?.ok_or(Broken::Lost)?;
        frame.extend_from_slice(&chunk);
    }
    Ok(frame)
}

/// A frame with its length in front.
pub(super) fn framed(frame: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(frame.len()).ok()?.to_be_bytes();
    Some([&length[..], frame].concat())
}

pub(super) async fn read_door(recv: &mut RecvStream) -> Result<Frame, Broken> {
    let frame = read_frame(recv, door::MAX_FRAME).await?;
    Frame::decode(&frame).map_err(|_| Broken::Malformed)
}

pub(super) async fn read_control(recv: &mut RecvStream) -> Result<Control, Broken> {
    let frame = read_frame(recv, MAX_CONTROL).await?;
    Control::decode(&frame).ok_or(Broken::Malformed)
}

pub(super) async fn write_control(send: &mut SendStream, control: &Control) -> Result<(), Broken> {
    let bytes = control.encode().ok_or(Broken::Lost)?;
    send.write_all(&bytes).await.map_err(|_| Broken::Lost)
}
