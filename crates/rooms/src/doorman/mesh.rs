//! Connections among the members of a room.
//!
//! 1. Whom consensus has to reach is dialled: by the side with the lower id at once, by the other a
//!    little later if nothing has come. The dialler proves that it was admitted once.
//! 2. Each side opens one stream for each lane, by urgency; a control stream carries the rest.
//! 3. A connection of which nothing is heard is given up and dialled again; a member that cannot be
//!    dialled is gone until it is back.
//! 4. Frames that find no place in a queue are dropped: consensus says everything again that matters.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use iroh::{
    EndpointAddr, EndpointId, RelayUrl,
    endpoint::{
        ApplicationClose, ConnectOptions, Connection, ConnectionError, RecvStream, SendStream,
    },
};
use iroh_rooms_consensus::{
    keys::{Hash, Key},
    limits::{FRAME_BYTES, SNAPSHOT_BYTES},
    wire::Lane,
};
use iroh_rooms_moq::close;
use iroh_rooms_sorted::{SortedMap, SortedSet};
use n0_future::{
    task::{self, AbortOnDropHandle, JoinSet},
    time::{self, Instant},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::hub::{
    Broken, CLOSE_MALFORMED, CLOSE_NOT_HERE, Hub, RAFT_ALPN, framed, read_control, read_frame,
    write_control,
};
use crate::{Live, door, transport};

/// Bytes of a control frame.
pub(super) const MAX_CONTROL: usize = 1024;
/// Frames that wait for one lane of one member; more are dropped and counted.
const LANE_CAP: usize = 256;
/// Bytes of them: the largest snapshot, all at once, and as much again. More are dropped and counted.
const LANE_BYTES: usize = 2 * SNAPSHOT_BYTES;
/// Frames that wait for a connection to come about; the oldest are dropped.
const WAITING_CAP: usize = 32;
/// Bytes of them; the oldest are dropped.
const WAITING_BYTES: usize = 4 * 1024 * 1024;
/// Control frames that wait; more are dropped.
const CONTROL_CAP: usize = 8;
/// What the tasks of all connections report and the actor has not read; they wait beyond, and with
/// them their peers.
pub(super) const REPORTS_CAP: usize = 256;
/// Bytes of frames that were read from one connection, and not by the actor; what comes next waits with
/// its peer, and holds up nobody else.
const UNREAD_BYTES: usize = 2 * FRAME_BYTES;
/// A dial takes at most so long.
const DIAL_TIMEOUT: Duration = Duration::from_secs(4);
/// How long the side with the higher id waits for the other's dial.
const DIAL_GRACE: Duration = Duration::from_millis(1500);
const REDIAL_MIN: Duration = Duration::from_millis(250);
const REDIAL_MAX: Duration = Duration::from_secs(4);
/// Dials that fail in a row before a member is told to be gone.
const GONE_AFTER: u32 = 2;
/// A connection that carried nothing for so long is dead; keep-alive comes every 2 s.
const SILENCE: Duration = Duration::from_secs(6);
/// Who carried nothing for so long is missing already, where it matters.
const LATELY: Duration = Duration::from_millis(3500);
/// Two connections that came about within this are a glare; later, the newer one replaces the older.
const GLARE: Duration = Duration::from_secs(3);
/// Who is no member here is listened to for so long: its admission may not have arrived yet.
const STRANGER: Duration = Duration::from_secs(30);
/// So many of them; further ones are closed and counted.
const MAX_STRANGERS: usize = 16;
/// A former member's connection is closed after this: time to be told that it is one no more.
const DISMISSAL: Duration = Duration::from_millis(500);
/// Relays that members may name, all together: each has us connect to it. Who names one more is looked
/// for at our own.
const MAX_RELAYS: usize = 8;
const LANES: [Lane; 3] = [Lane::Pulse, Lane::Entries, Lane::Bulk];

/// What is said on the control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Control {
    /// The dialler's first words.
    Hello(Hello),
    /// The listener takes it for a member, and is reached there.
    Ready(Option<String>),
    /// The secret of the room's key: for voters.
    Key([u8; 32]),
    /// An incarnation is over: the sender's own.
    Ended(door::Ended),
}

/// See [`Control::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The id that the room was founded under.
    pub(super) room: Hash,
    /// That the dialler was admitted once, see [`Proof`].
    pub(super) proof: [u8; 32],
    /// Where it is reached.
    pub(super) relay_url: Option<String>,
    /// The epoch and id that it takes the listener for.
    pub(super) taken_for: Option<(Hash, u64)>,
}

impl Control {
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        framed(&postcard::to_stdvec(self).ok()?)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((control, [])) => Some(control),
            _ => None,
        }
    }
}

/// What all who were admitted can prove to each other.
#[derive(Clone, Copy)]
pub(super) struct Proof([u8; 32]);

impl Proof {
    pub(super) fn new(topic_secret: &[u8; 32]) -> Self {
        Self(blake3::derive_key("iroh-rooms 2026-11 mesh", topic_secret))
    }

    fn of(&self, dialler: &EndpointId, listener: &EndpointId) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(dialler.as_bytes());
        hasher.update(listener.as_bytes());
        hasher.finalize()
    }
}

/// A connection whose first words were said.
pub(super) struct Standing {
    pub(super) connection: Connection,
    pub(super) send: SendStream,
    pub(super) recv: RecvStream,
    pub(super) relay_url: Option<String>,
}

/// Why a dial led nowhere.
pub(super) enum Fault {
    /// Nobody answered.
    Unreachable,
    /// The endpoint is there, and not in this room; it may prove that it is not what it was.
    NotHere(Option<door::Ended>),
}

/// What the tasks of connections tell.
pub(super) enum Report {
    Dialled(Key, Result<Standing, Fault>),
    /// A frame, and its bytes' share of [`UNREAD_BYTES`].
    Frame(Key, Vec<u8>, OwnedSemaphorePermit),
    Told(Key, u64, Control),
    /// A connection ended, by the peer with this code.
    Closed(Key, u64, Option<u64>),
}

/// What consensus is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    Link(Key, bool),
    Gone(Key),
    Ended(door::Ended),
    /// The secret of a key of the room.
    Key([u8; 32]),
}

struct Open {
    connection: Connection,
    number: u64,
    dialled: bool,
    since: Instant,
    lanes: [Queue; 3],
    control: mpsc::Sender<Control>,
    packets: u64,
    heard: Instant,
    relay_url: Option<String>,
    /// The door whose key was handed over on this connection.
    keyed: Option<Hash>,
    _task: AbortOnDropHandle<()>,
}

/// What waits for a lane: frames, each with its share of [`LANE_BYTES`].
struct Queue {
    frames: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Link {
    open: Option<Open>,
    dialling: Option<AbortOnDropHandle<()>>,
    due: Option<Instant>,
    failures: u32,
    waiting: VecDeque<(Lane, Bytes)>,
    gone: bool,
    /// Of who is no member: until when it is kept, and what it is closed with then.
    until: Option<(Instant, u32)>,
}

/// All connections of a room.
pub(super) struct Mesh {
    live: Live,
    me: EndpointId,
    room: Hash,
    proof: Proof,
    links: SortedMap<Key, Link>,
    wanted: SortedSet<Key>,
    /// That members have named.
    relays: SortedSet<RelayUrl>,
    reports: mpsc::Sender<Report>,
    count: u64,
    /// Frames that found no place.
    pub(super) dropped: u64,
}

impl Mesh {
    pub(super) fn new(
        live: &Live,
        room: Hash,
        topic_secret: &[u8; 32],
        reports: mpsc::Sender<Report>,
    ) -> Self {
        Self {
            live: live.clone(),
            me: live.endpoint_id(),
            room,
            proof: Proof::new(topic_secret),
            links: SortedMap::new(),
            wanted: SortedSet::new(),
            relays: SortedSet::new(),
            reports,
            count: 0,
            dropped: 0,
        }
    }

    /// Whether there is a connection to a member.
    pub(super) fn has(&self, id: &EndpointId) -> bool {
        let link = self.links.get(id.as_bytes());
        link.is_some_and(|it| it.open.is_some())
    }

    /// Whether a member was heard lately.
    pub(super) fn is_heard(&self, key: &Key) -> bool {
        let open = self.links.get(key).and_then(|it| it.open.as_ref());
        open.is_some_and(|it| it.heard.elapsed() < LATELY)
    }

    /// Whom to have connections to; the others' are let go. `banned` at once and with their code.
    pub(super) fn want(&mut self, peers: SortedSet<Key>, banned: impl Fn(&Key) -> bool) {
        let now = Instant::now();
        for key in peers.difference(&self.wanted) {
            let wait = match self.me.as_bytes() < key {
                true => Duration::ZERO,
                false => DIAL_GRACE,
            };
            let link = self.links.entry(*key).or_default();
            link.until = None;
            if link.open.is_none() && link.dialling.is_none() {
                link.due = Some(now + wait);
            }
        }
        for key in self.wanted.difference(&peers) {
            if let Some(link) = self.links.get_mut(key) {
                link.until = Some(match banned(key) {
                    true => (now + DISMISSAL, close::KICKED),
                    false => (now + STRANGER, CLOSE_NOT_HERE),
                });
                link.due = None;
            }
        }
        self.wanted = peers;
    }

    /// Where a member said that it is reached.
    pub(super) fn relay_of(&self, key: &Key) -> Option<String> {
        self.links.get(key)?.open.as_ref()?.relay_url.clone()
    }

    /// Sends a frame, when and if that is possible.
    pub(super) fn send(&mut self, to: Key, lane: Lane, bytes: Vec<u8>) {
        let Some(bytes) = framed(&bytes).map(Bytes::from) else {
            return;
        };
        let full = self.links.len() >= self.wanted.len() + MAX_STRANGERS;
        if !self.links.contains_key(&to) && full {
            self.dropped += 1;
            return;
        }
        let now = Instant::now();
        let link = self.links.entry(to).or_insert_with(|| Link {
            // Neither a member nor dialled: someone to be told something, once.
            due: Some(now),
            until: Some((now + STRANGER, CLOSE_NOT_HERE)),
            ..Link::default()
        });
        let Some(open) = &link.open else {
            link.waiting.push_back((lane, bytes));
            let size =
                |it: &VecDeque<(Lane, Bytes)>| it.iter().map(|(_, it)| it.len()).sum::<usize>();
            while link.waiting.len() > WAITING_CAP || size(&link.waiting) > WAITING_BYTES {
                link.waiting.pop_front();
                self.dropped += 1;
            }
            return;
        };
        if open.enqueue(lane, bytes).is_err() {
            self.dropped += 1;
        }
    }

    /// Says something on the control stream of everyone.
    pub(super) fn tell_all(&self, control: &Control) {
        for open in self.links.values().filter_map(|it| it.open.as_ref()) {
            let _ = open.control.try_send(control.clone());
        }
    }

    /// Hands the secret of the room's key to these, once on each connection.
    pub(super) fn hand_key(&mut self, door: &Hash, secret: &[u8; 32], to: &SortedSet<Key>) {
        for key in to {
            let link = self.links.get_mut(key);
            let Some(open) = link.and_then(|it| it.open.as_mut()) else {
                continue;
            };
            if open.keyed != Some(*door) && open.control.try_send(Control::Key(*secret)).is_ok() {
                open.keyed = Some(*door);
            }
        }
    }

    /// Takes in a connection that someone else has dialled. False if it proves nothing.
    pub(super) fn arrived(
        &mut self,
        standing: Standing,
        hello: &Hello,
        banned: bool,
        news: &mut Vec<News>,
    ) -> bool {
        let from = standing.connection.remote_id();
        let key = *from.as_bytes();
        let proven = self.proof.of(&from, &self.me) == blake3::Hash::from_bytes(hello.proof);
        let strangers = self.links.len().saturating_sub(self.wanted.len());
        let known = self.wanted.contains(&key) || self.links.contains_key(&key);
        if !proven || banned || (!known && strangers >= MAX_STRANGERS) {
            let code = if banned {
                close::KICKED
            } else {
                CLOSE_NOT_HERE
            };
            standing.connection.close(code.into(), b"not a member");
            return false;
        }
        let ready = Control::Ready(self.live.relay_url().map(|url| url.to_string()));
        self.stand(key, standing, false, Some(ready), news);
        true
    }

    /// What a task told.
    pub(super) fn report(&mut self, report: Report, news: &mut Vec<News>) {
        match report {
            Report::Dialled(key, result) => self.dialled(key, result, news),
            Report::Closed(key, number, code) => self.closed(key, number, code, news),
            Report::Told(key, number, control) => {
                let link = self.links.get(&key);
                let current = link
                    .and_then(|it| it.open.as_ref())
                    .is_some_and(|it| it.number == number);
                match control {
                    Control::Key(secret) if current => news.push(News::Key(secret)),
                    Control::Ended(ended) if current => news.push(News::Ended(ended)),
                    _ => {}
                }
            }
            // Read by the actor.
            Report::Frame(..) => {}
        }
    }

    fn dialled(&mut self, key: Key, result: Result<Standing, Fault>, news: &mut Vec<News>) {
        let Some(link) = self.links.get_mut(&key) else {
            return;
        };
        link.dialling = None;
        match result {
            Ok(standing) => self.stand(key, standing, true, None, news),
            Err(_) if link.open.is_some() => {}
            Err(fault) => {
                link.failures = link.failures.saturating_add(1);
                let delay = REDIAL_MIN.saturating_mul(1 << link.failures.min(8));
                link.due = Some(
                    Instant::now()
                        + delay
                            .min(REDIAL_MAX)
                            .mul_f64(rand::random_range(0.75..1.25)),
                );
                let not_here = matches!(fault, Fault::NotHere(_));
                if !link.gone && (not_here || link.failures >= GONE_AFTER) {
                    link.gone = true;
                    news.push(News::Gone(key));
                }
                if let Fault::NotHere(Some(ended)) = fault {
                    news.push(News::Ended(ended));
                }
            }
        }
    }

    fn stand(
        &mut self,
        key: Key,
        standing: Standing,
        dialled: bool,
        first: Option<Control>,
        news: &mut Vec<News>,
    ) {
        let wanted = self.wanted.contains(&key);
        let now = Instant::now();
        let link = self.links.entry(key).or_default();
        if let Some(open) = &link.open {
            let mine_stands = self.me.as_bytes() < &key;
            let glare = open.dialled != dialled && now < open.since + GLARE;
            if glare && open.dialled == mine_stands {
                standing
                    .connection
                    .close(close::GLARE.into(), b"both dialled");
                return;
            }
            let code = if glare { close::GLARE } else { close::REPLACED };
            open.connection.close(code.into(), b"another connection");
        }
        let relay = standing.relay_url.as_ref();
        let relay = relay.and_then(|url| url.parse::<RelayUrl>().ok());
        let relay = relay.filter(|it| self.relays.contains(it) || self.relays.len() < MAX_RELAYS);
        self.relays.extend(relay.clone());
        if let Ok(id) = EndpointId::from_bytes(&key) {
            self.live.learn(id, relay);
        }
        self.count += 1;
        let tasks = (self.live.hub().clone(), self.reports.clone());
        let open = open(key, self.count, standing, dialled, first, tasks);
        for (lane, bytes) in link.waiting.drain(..) {
            if open.enqueue(lane, bytes).is_err() {
                self.dropped += 1;
            }
        }
        link.open = Some(open);
        // The own dial is the one that will stand.
        if dialled || self.me.as_bytes() >= &key {
            link.dialling = None;
        }
        link.due = None;
        link.failures = 0;
        link.gone = false;
        if !wanted && link.until.is_none() {
            link.until = Some((now + STRANGER, CLOSE_NOT_HERE));
        }
        news.push(News::Link(key, true));
    }

    fn closed(&mut self, key: Key, number: u64, code: Option<u64>, news: &mut Vec<News>) {
        let wanted = self.wanted.contains(&key);
        let Some(link) = self.links.get_mut(&key) else {
            return;
        };
        if link.open.as_ref().is_none_or(|it| it.number != number) {
            return;
        }
        link.open = None;
        news.push(News::Link(key, false));
        if code == Some(close::LEAVING.into()) {
            link.gone = true;
            news.push(News::Gone(key));
        }
        match wanted {
            true => {
                link.due = Some(Instant::now() + REDIAL_MIN.mul_f64(rand::random_range(0.75..1.25)))
            }
            false => drop(self.links.remove(&key)),
        }
    }

    /// What time has done. `online` says that the own way to the others stands, and has for a while.
    pub(super) fn tick(
        &mut self,
        online: bool,
        taken_for: impl Fn(&Key) -> Option<(Hash, u64)>,
        news: &mut Vec<News>,
    ) {
        let now = Instant::now();
        let mut over = Vec::new();
        for (key, link) in &mut self.links {
            if let Some((_, code)) = link.until.filter(|(until, _)| now >= *until) {
                over.push((*key, code));
                continue;
            }
            if let Some(open) = &mut link.open {
                let packets = open.connection.stats().udp_rx.datagrams;
                if packets != open.packets || !online {
                    open.packets = packets;
                    open.heard = now;
                }
                if now >= open.heard + SILENCE {
                    open.connection.close(close::NORMAL.into(), b"silent");
                    link.open = None;
                    link.due = Some(now);
                    news.push(News::Link(*key, false));
                }
            }
            let due = link.due.is_some_and(|due| now >= due);
            if due && link.open.is_none() && link.dialling.is_none() {
                link.due = None;
                let Ok(id) = EndpointId::from_bytes(key) else {
                    over.push((*key, close::NORMAL));
                    continue;
                };
                let hello = Hello {
                    room: self.room,
                    proof: *self.proof.of(&self.me, &id).as_bytes(),
                    relay_url: self.live.relay_url().map(|url| url.to_string()),
                    taken_for: taken_for(key),
                };
                let (live, reports, key) = (self.live.clone(), self.reports.clone(), *key);
                link.dialling = Some(AbortOnDropHandle::new(task::spawn(async move {
                    let dialled = time::timeout(DIAL_TIMEOUT, dial(&live, id, hello)).await;
                    let result = dialled.unwrap_or(Err(Fault::Unreachable));
                    // A room that is over needs no report.
                    let _ = reports.send(Report::Dialled(key, result)).await;
                })));
            }
        }
        for (key, code) in over {
            self.let_go(&key, code, news);
        }
    }

    /// Nothing was done for a while, here: what was not heard meanwhile says nothing.
    pub(super) fn resumed(&mut self) {
        let now = Instant::now();
        for open in self.links.values_mut().filter_map(|it| it.open.as_mut()) {
            open.heard = now;
        }
    }

    fn let_go(&mut self, key: &Key, code: u32, news: &mut Vec<News>) {
        let Some(link) = self.links.remove(key) else {
            return;
        };
        if let Some(open) = link.open {
            open.connection.close(code.into(), b"not a member");
            news.push(News::Link(*key, false));
        }
    }

    /// Closes everything, and says that this member leaves.
    pub(super) fn close(&mut self) {
        for link in std::mem::take(&mut self.links).into_values() {
            if let Some(open) = link.open {
                open.connection.close(close::LEAVING.into(), b"leaving");
            }
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.close();
    }
}

impl Open {
    fn enqueue(&self, lane: Lane, bytes: Bytes) -> Result<(), ()> {
        let lane = LANES.iter().position(|it| *it == lane);
        let lane = lane.and_then(|at| self.lanes.get(at));
        lane.map_or(Err(()), |it| it.push(bytes))
    }
}

impl Queue {
    fn push(&self, frame: Bytes) -> Result<(), ()> {
        let share = u32::try_from(frame.len()).map_err(drop)?;
        let share = self.room.clone().try_acquire_many_owned(share);
        let share = share.map_err(drop)?;
        self.frames.try_send((frame, share)).map_err(drop)
    }
}

/// Dials a member.
async fn dial(live: &Live, id: EndpointId, hello: Hello) -> Result<Standing, Fault> {
    let options = ConnectOptions::new().with_transport_config(transport::dialling(live.tuning()));
    let connecting = live
        .endpoint()
        .connect_with_opts(EndpointAddr::new(id), RAFT_ALPN, options)
        .await
        .map_err(|_| Fault::Unreachable)?;
    let connection = connecting.await.map_err(|_| Fault::Unreachable)?;
    let said = async {
        let (mut send, mut recv) = connection.open_bi().await.map_err(|_| Broken::Lost)?;
        write_control(&mut send, &Control::Hello(hello)).await?;
        let answer = read_control(&mut recv).await?;
        Ok::<_, Broken>((send, recv, answer))
    };
    match said.await {
        Ok((send, recv, Control::Ready(relay_url))) => Ok(Standing {
            connection,
            send,
            recv,
            relay_url,
        }),
        Ok((.., Control::Ended(ended))) => Err(Fault::NotHere(Some(ended))),
        _ => Err(match code_of(&connection) {
            Some(code) if code == u64::from(CLOSE_NOT_HERE) => Fault::NotHere(None),
            _ => Fault::Unreachable,
        }),
    }
}

fn code_of(connection: &Connection) -> Option<u64> {
    match connection.close_reason() {
        Some(ConnectionError::ApplicationClosed(ApplicationClose { error_code, .. })) => {
            Some(error_code.into_inner())
        }
        _ => None,
    }
}

/// Starts to read and write a connection.
fn open(
    key: Key,
    number: u64,
    standing: Standing,
    dialled: bool,
    first: Option<Control>,
    (hub, reports): (Arc<Hub>, mpsc::Sender<Report>),
) -> Open {
    let now = Instant::now();
    let (control, controls) = mpsc::channel(CONTROL_CAP);
    let mut writers = JoinSet::new();
    let lanes = LANES.map(|lane| {
        let (sender, frames) = mpsc::channel(LANE_CAP);
        writers.spawn(write_lane(standing.connection.clone(), lane, frames));
        Queue {
            frames: sender,
            room: Arc::new(Semaphore::new(LANE_BYTES)),
        }
    });
    let Standing {
        connection,
        mut send,
        recv,
        relay_url,
    } = standing;
    let conn = connection.clone();
    let task = task::spawn(async move {
        let write = async move {
            let mut controls = controls;
            if let Some(first) = first {
                write_control(&mut send, &first).await?;
            }
            while let Some(control) = controls.recv().await {
                write_control(&mut send, &control).await?;
            }
            Ok::<(), Broken>(())
        };
        let broken = tokio::select! {
            Some(result) = writers.join_next() => result.unwrap_or(Err(Broken::Lost)),
            result = write => result,
            result = read_controls(key, number, recv, &reports) => result,
            result = read_lanes(key, conn.clone(), &reports) => result,
            _ = conn.closed() => Ok(()),
        };
        if let Err(Broken::Malformed) = broken {
            hub.refuse(1);
            conn.close(CLOSE_MALFORMED.into(), b"not what members say");
        }
        conn.closed().await;
        let code = code_of(&conn);
        let _ = reports.send(Report::Closed(key, number, code)).await;
    });
    Open {
        packets: connection.stats().udp_rx.datagrams,
        connection,
        number,
        dialled,
        since: now,
        lanes,
        control,
        heard: now,
        relay_url,
        keyed: None,
        _task: AbortOnDropHandle::new(task),
    }
}

async fn write_lane(
    connection: Connection,
    lane: Lane,
    mut frames: mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>,
) -> Result<(), Broken> {
    let number = LANES.iter().position(|it| *it == lane).unwrap_or_default() as u8;
    let mut stream = None;
    while let Some((frame, _share)) = frames.recv().await {
        let send = match &mut stream {
            Some(send) => send,
            None => {
                let send = connection.open_uni().await.map_err(|_| Broken::Lost)?;
                // Votes before entries before snapshots.
                let _ = send.set_priority(-i32::from(number));
                let send = stream.insert(send);
                send.write_all(&[number]).await.map_err(|_| Broken::Lost)?;
                send
            }
        };
        send.write_chunk(frame).await.map_err(|_| Broken::Lost)?;
    }
    // The link is let go: what closes it says why.
    std::future::pending().await
}

async fn read_controls(
    key: Key,
    number: u64,
    mut recv: RecvStream,
    reports: &mpsc::Sender<Report>,
) -> Result<(), Broken> {
    loop {
        let control = read_control(&mut recv).await?;
        if matches!(control, Control::Hello(_) | Control::Ready(_)) {
            return Err(Broken::Malformed);
        }
        let report = Report::Told(key, number, control);
        reports.send(report).await.map_err(|_| Broken::Lost)?;
    }
}

/// Reads one stream for each lane. A second one is not what members do.
async fn read_lanes(
    key: Key,
    connection: Connection,
    reports: &mpsc::Sender<Report>,
) -> Result<(), Broken> {
    let mut readers = JoinSet::new();
    let mut seen = SortedSet::new();
    let unread = Arc::new(Semaphore::new(UNREAD_BYTES));
    loop {
        let mut stream = tokio::select! {
            stream = connection.accept_uni() => stream.map_err(|_| Broken::Lost)?,
            Some(ended) = readers.join_next() => return ended.unwrap_or(Err(Broken::Lost)),
        };
        let mut lane = [0];
        stream
            .read_exact(&mut lane)
            .await
            .map_err(|_| Broken::Lost)?;
        let [lane] = lane;
        if usize::from(lane) >= LANES.len() || !seen.insert(lane) {
            return Err(Broken::Malformed);
        }
        let (reports, unread) = (reports.clone(), unread.clone());
        readers.spawn(async move {
            loop {
                let frame = read_frame(&mut stream, FRAME_BYTES).await?;
                let size = u32::try_from(frame.len()).map_err(|_| Broken::Malformed)?;
                let share = unread.clone().acquire_many_owned(size).await;
                let share = share.map_err(|_| Broken::Lost)?;
                let report = Report::Frame(key, frame, share);
                reports.send(report).await.map_err(|_| Broken::Lost)?;
            }
        });
    }
}
