//! What this endpoint says: broadcasts, their tracks, groups and frames.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use moq_net::{Timescale, Timestamp, broadcast, cache, group, kio, origin, track};
use n0_future::time::SystemTime;
use tokio::sync::watch;

use crate::{
    error::{Error, from_moq},
    track::RemoteBroadcast,
};

/// Bytes that the groups of one broadcast may hold for late joiners before the oldest go.
pub(crate) const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// How long a group that nobody reads or writes is held at most.
pub(crate) const CACHE_EXPIRY: Duration = Duration::from_secs(6 * 60);
/// Tracks of one broadcast that may live at once.
pub const MAX_TRACKS: usize = 1024;
/// Aborted tracks whose codes are remembered; readers of older ones hear that there is no such
/// track.
const ABORTED_CAP: usize = 64;
/// The largest datagram that fits every path.
pub const MAX_DATAGRAM_BYTES: usize = 1100;

/// The same cache rules for what is published here and what comes from peers.
pub(crate) fn cache_pool() -> cache::Pool {
    cache::Pool::new(
        cache::Config::default()
            .with_capacity(CACHE_BYTES)
            .with_expiry(CACHE_EXPIRY),
    )
}

/// A broadcast of this endpoint: a set of tracks under one name, published into any number of
/// scopes, before or after its tracks exist. Clones are the same broadcast. It ends by
/// [`Broadcast::finish`] or [`Broadcast::abort`], or when its last clone is gone and it is
/// published nowhere.
#[derive(Clone)]
pub struct Broadcast {
    inner: Arc<Inner>,
}

struct Inner {
    producer: broadcast::Producer,
    /// The peer's broadcast that this one passes on, if its tracks are not its own.
    carried: Option<broadcast::Consumer>,
    pool: cache::Pool,
    /// Names this instance on the wire, so that a reader's subscription is carried on by the next
    /// session with the same broadcast, and never by another one of the same name.
    hop: moq_net::Hop,
    tracks: Mutex<Tracks>,
    closed: watch::Sender<bool>,
}

/// What is known of a broadcast's tracks besides what moq-net keeps.
#[derive(Default)]
struct Tracks {
    live: Vec<Weak<track::Producer>>,
    /// Tracks that were aborted, with their codes, newest last: at most [`ABORTED_CAP`]. A reader's
    /// side asks again when a track breaks off, and this is the answer.
    aborted: VecDeque<(String, u16)>,
}

impl Tracks {
    fn remember_abort(&mut self, name: &str, code: u16) {
        self.forget_abort(name);
        if self.aborted.len() >= ABORTED_CAP {
            self.aborted.pop_front();
        }
        self.aborted.push_back((name.to_owned(), code));
    }

    fn forget_abort(&mut self, name: &str) {
        self.aborted.retain(|(aborted, _)| aborted != name);
    }
}

impl Inner {
    fn tracks(&self) -> MutexGuard<'_, Tracks> {
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broadcast {
    /// A broadcast without tracks.
    pub fn new() -> Self {
        Self::build(None)
    }

    /// A peer's broadcast, to pass it on to others: from one scope into another, or to those who
    /// cannot reach that peer. Its tracks are the peer's, and are read from there when somebody
    /// reads them here; it has none of its own. It ends with the peer's.
    pub fn carrying(remote: &RemoteBroadcast) -> Self {
        Self::build(Some(remote.consumer().clone()))
    }

    fn build(carried: Option<broadcast::Consumer>) -> Self {
        let pool = cache_pool();
        let mut info = broadcast::Info::new();
        info.pool = pool.clone();
        Self {
            inner: Arc::new(Inner {
                producer: info.produce(),
                carried,
                pool,
                hop: moq_net::Hop::random(),
                tracks: Mutex::default(),
                closed: watch::Sender::new(false),
            }),
        }
    }

    /// Adds a track. The name must be free; the name of a track that has ended is free again.
    pub fn track(&self, name: &str, config: TrackConfig) -> Result<TrackWriter, Error> {
        if name.is_empty() || name.len() > crate::scope::MAX_NAME_BYTES {
            return Err(Error::InvalidArgument(
                "a track name has 1 to 256 bytes".to_owned(),
            ));
        }
        if self.is_closed() {
            return Err(Error::Closed("the broadcast"));
        }
        if self.inner.carried.is_some() {
            return Err(Error::InvalidArgument(
                "the tracks of a broadcast that is passed on are the peer's".to_owned(),
            ));
        }
        let mut tracks = self.inner.tracks();
        tracks.live.retain(|track| track.strong_count() > 0);
        if tracks.live.len() >= MAX_TRACKS {
            return Err(Error::Limit("tracks of a broadcast"));
        }
        let info = track::Info::default()
            .with_timescale(Timescale::MICRO)
            .with_priority(config.priority)
            .with_max_age(config.max_age);
        let producer =
            self.inner
                .producer
                .create_track(name, info)
                .map_err(|error| match error {
                    moq_net::Error::Duplicate => {
                        Error::InvalidArgument(format!("the broadcast has a track {name} already"))
                    }
                    error => from_moq(error),
                })?;
        let producer = Arc::new(producer);
        tracks.live.push(Arc::downgrade(&producer));
        tracks.forget_abort(name);
        Ok(TrackWriter {
            producer,
            broadcast: Arc::downgrade(&self.inner),
            last: Duration::ZERO,
        })
    }

    /// Ends the broadcast and its tracks: readers get what was written, then the end.
    pub fn finish(&self) {
        for track in self.live_tracks() {
            let _ended_before = track.finish();
        }
        self.end();
    }

    /// Ends the broadcast and its tracks with an error; `code` reaches the readers.
    pub fn abort(&self, code: u16) {
        for track in self.live_tracks() {
            abort(&self.inner, &track, code);
        }
        self.end();
    }

    /// Waits for the end of the broadcast.
    pub async fn closed(&self) {
        let mut closed = self.inner.closed.subscribe();
        let ended = async { drop(closed.wait_for(|closed| *closed).await) };
        match &self.inner.carried {
            None => ended.await,
            Some(carried) => tokio::select! {
                () = ended => {}
                _ = carried.closed() => {}
            },
        }
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        let carried = self.inner.carried.as_ref();
        *self.inner.closed.borrow() || carried.is_some_and(broadcast::Consumer::is_closed)
    }

    fn live_tracks(&self) -> Vec<Arc<track::Producer>> {
        self.inner
            .tracks()
            .live
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// No more tracks from now on. Those that publish it withdraw it a moment later, so that a
    /// reader who has just come still gets the last words; the producer closes with the last clone.
    fn end(&self) {
        self.inner.closed.send_replace(true);
    }

    pub(crate) fn consume(&self) -> broadcast::Consumer {
        match &self.inner.carried {
            None => self.inner.producer.consume(),
            Some(carried) => carried.clone(),
        }
    }

    /// Answers requests for tracks that do not exist, as long as it is polled.
    pub(crate) async fn refuse_missing_tracks(&self) {
        let mut missing = self.inner.producer.dynamic();
        kio::wait(|waiter| {
            // Under the lock: a refused request holds the track's name until it is refused.
            let tracks = self.inner.tracks();
            while let Ok(request) = ready!(missing.poll_requested_track(waiter)) {
                let aborted = tracks
                    .aborted
                    .iter()
                    .find(|(name, _)| name == request.name());
                let code = aborted.map(|(_, code)| moq_net::Error::App(*code));
                request.reject(code.unwrap_or(moq_net::Error::NotFound));
            }
            Poll::Ready(())
        })
        .await;
    }

    pub(crate) fn pool(&self) -> &cache::Pool {
        &self.inner.pool
    }

    pub(crate) fn is_same(&self, other: &Broadcast) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// How it is announced.
    pub(crate) fn route(&self) -> origin::Route {
        let mut hops = moq_net::Hops::new();
        // One hop always fits an empty list.
        let _fits = hops.push(self.inner.hop);
        origin::Route::default().with_hops(hops)
    }
}

impl Default for Broadcast {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Broadcast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broadcast")
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

/// Properties of a track, fixed when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrackConfig {
    /// Higher goes first when readers give their tracks equal priority. Default 127.
    pub priority: u8,
    /// How far behind the newest group an older one is still held and sent, by the timestamps of
    /// the frames. Default 5 s.
    pub max_age: Duration,
}

impl Default for TrackConfig {
    fn default() -> Self {
        Self {
            priority: 127,
            max_age: Duration::from_secs(5),
        }
    }
}

/// Writes a track. Dropping it ends the track as [`TrackWriter::finish`] does.
pub struct TrackWriter {
    producer: Arc<track::Producer>,
    broadcast: Weak<Inner>,
    /// The timestamp last given by [`TrackWriter::stamp`].
    last: Duration,
}

impl TrackWriter {
    /// The track's name.
    pub fn name(&self) -> &str {
        self.producer.name()
    }

    /// Writes one group of one frame and says the group's number. Without a timestamp the frame
    /// gets the time since 1970.
    pub fn write(&mut self, data: Bytes, timestamp: Option<Duration>) -> Result<u64, Error> {
        check_size(data.len())?;
        let timestamp = self.stamp(timestamp)?;
        let mut group = self.producer.append_group().map_err(write_error)?;
        let number = group.sequence;
        group.write_frame(timestamp, data).map_err(write_error)?;
        group.finish().map_err(write_error)?;
        Ok(number)
    }

    /// Starts a group.
    pub fn group(&mut self) -> Result<GroupWriter, Error> {
        let producer = self.producer.append_group().map_err(write_error)?;
        Ok(GroupWriter {
            producer,
            last: self.last,
            ended: false,
        })
    }

    /// Sends one datagram to those who read now: small, unordered, perhaps lost. It goes only to
    /// peers that speak moq-lite-05 or later.
    pub fn datagram(&mut self, data: Bytes, timestamp: Option<Duration>) -> Result<(), Error> {
        if data.len() > MAX_DATAGRAM_BYTES {
            return Err(Error::TooLarge {
                limit: MAX_DATAGRAM_BYTES as u64,
            });
        }
        let timestamp = self.stamp(timestamp)?;
        let mut producer = track::Producer::clone(&self.producer);
        producer
            .append_datagram(timestamp, data)
            .map_err(write_error)?;
        Ok(())
    }

    /// The number of the newest group.
    pub fn latest(&self) -> Option<u64> {
        self.producer.latest()
    }

    /// Whether anybody reads the track now.
    pub fn is_used(&self) -> bool {
        self.producer.is_used()
    }

    /// Waits until somebody reads the track; false if it ended first.
    pub async fn used(&self) -> bool {
        self.producer.used().await.is_ok()
    }

    /// Waits until nobody reads the track, or it ends.
    pub async fn unused(&self) {
        let _ended = self.producer.unused().await;
    }

    /// Watches who reads, apart from the writing.
    pub fn demand(&self) -> TrackDemand {
        TrackDemand(self.producer.demand())
    }

    /// Ends the track: readers get what was written, then the end.
    pub fn finish(&mut self) {
        let _ended_before = self.producer.finish();
    }

    /// Ends the track with an error; `code` reaches the readers.
    pub fn abort(&mut self, code: u16) {
        match self.broadcast.upgrade() {
            Some(broadcast) => abort(&broadcast, &self.producer, code),
            None => self.finish(),
        }
    }

    fn stamp(&mut self, timestamp: Option<Duration>) -> Result<Timestamp, Error> {
        stamp(&mut self.last, timestamp)
    }
}

impl Drop for TrackWriter {
    fn drop(&mut self) {
        self.finish();
    }
}

impl std::fmt::Debug for TrackWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrackWriter")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// Watches whether a track has readers. Holding it keeps nothing alive.
#[derive(Clone)]
pub struct TrackDemand(track::Demand);

impl TrackDemand {
    /// Whether anybody reads the track now.
    pub fn is_used(&self) -> bool {
        self.0.is_used()
    }

    /// Waits until somebody reads the track; false if it ended first.
    pub async fn used(&self) -> bool {
        self.0.used().await.is_ok()
    }

    /// Waits until nobody reads the track; false if it ended first.
    pub async fn unused(&self) -> bool {
        self.0.unused().await.is_ok()
    }
}

impl std::fmt::Debug for TrackDemand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TrackDemand").field(&self.0.name()).finish()
    }
}

/// Writes a group, frame by frame. Dropping it ends the group as [`GroupWriter::finish`] does.
pub struct GroupWriter {
    producer: group::Producer,
    last: Duration,
    ended: bool,
}

impl GroupWriter {
    /// The group's number.
    pub fn sequence(&self) -> u64 {
        self.producer.sequence
    }

    /// Writes a frame. Without a timestamp it gets the time since 1970.
    pub fn write(&mut self, data: Bytes, timestamp: Option<Duration>) -> Result<(), Error> {
        check_size(data.len())?;
        let timestamp = stamp(&mut self.last, timestamp)?;
        self.producer
            .write_frame(timestamp, data)
            .map_err(write_error)
    }

    /// Ends the group.
    pub fn finish(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            let _ended_before = self.producer.finish();
        }
    }

    /// Ends the group with an error: readers do not get the rest of it.
    pub fn abort(&mut self, code: u16) {
        if !std::mem::replace(&mut self.ended, true) {
            let _ended_before = self.producer.clone().abort(moq_net::Error::App(code));
        }
    }
}

impl Drop for GroupWriter {
    fn drop(&mut self) {
        self.finish();
    }
}

impl std::fmt::Debug for GroupWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupWriter")
            .field("sequence", &self.sequence())
            .finish_non_exhaustive()
    }
}

fn abort(broadcast: &Inner, track: &track::Producer, code: u16) {
    if !track.is_closed() {
        broadcast.tracks().remember_abort(track.name(), code);
        let _ended_meanwhile = track.clone().abort(moq_net::Error::App(code));
    }
}

fn check_size(size: usize) -> Result<(), Error> {
    let limit = group::MAX_CACHE_BYTES;
    if size as u64 > limit {
        Err(Error::TooLarge { limit })
    } else {
        Ok(())
    }
}

/// The timestamp given, or the time of day: never twice the same and never backwards, since the age
/// of a group is told by its timestamps.
fn stamp(last: &mut Duration, given: Option<Duration>) -> Result<Timestamp, Error> {
    let time = match given {
        Some(time) => time,
        None => {
            let now = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or(Duration::ZERO);
            *last = now.max(*last + Duration::from_micros(1));
            *last
        }
    };
    u64::try_from(time.as_micros())
        .ok()
        .and_then(|micros| Timestamp::from_micros(micros).ok())
        .ok_or_else(|| Error::InvalidArgument("the timestamp is out of range".to_owned()))
}

/// Writing fails because something ended; the reader's words would mislead here.
fn write_error(error: moq_net::Error) -> Error {
    use moq_net::Error as E;
    match error {
        E::Closed | E::Dropped | E::Cancel | E::App(_) => Error::Closed("the track"),
        E::FrameTooLarge | E::GroupTooLarge => Error::TooLarge {
            limit: group::MAX_CACHE_BYTES,
        },
        other => Error::Write(other.to_string()),
    }
}
