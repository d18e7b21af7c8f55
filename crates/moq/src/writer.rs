//! Writing: tracks, groups, frames and datagrams.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use moq_net::{Timestamp, group, kio, track};
use n0_future::time::SystemTime;

use crate::{broadcast::Inner, error::Error, flow::Flow};

/// The largest datagram that fits every path.
pub const MAX_DATAGRAM_BYTES: usize = 1100;

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

/// A track of this endpoint, without the right to write it.
pub(crate) struct TrackCore {
    pub(crate) producer: track::Producer,
    broadcast: Weak<Inner>,
    flow: Flow,
    /// Its writer has ended it; readers are told when they have what was written.
    ending: AtomicBool,
}

impl TrackCore {
    pub(crate) fn new(producer: track::Producer, broadcast: Weak<Inner>) -> Self {
        Self {
            producer,
            broadcast,
            flow: Flow::default(),
            ending: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ending.load(Ordering::Relaxed) || self.producer.is_closed()
    }

    fn open(&self) -> Result<&track::Producer, Error> {
        if self.is_ended() {
            return Err(Error::Closed("the track"));
        }
        Ok(&self.producer)
    }

    /// A whole group was written. Nobody has to wait for what nobody reads.
    fn wrote(&self, group: &group::Producer, bytes: u64) {
        if self.producer.is_used() {
            self.flow.wrote(group.clone(), bytes);
        }
    }

    /// Whether a writer may go on; true if nobody reads.
    fn is_ready(&self) -> bool {
        !self.producer.is_used() || !self.flow.is_full()
    }

    async fn ready(&self) -> bool {
        if self.is_ended() {
            return false;
        }
        if !self.is_ready() {
            tokio::select! {
                biased;
                () = self.flow.ready() => {}
                _ended = self.producer.unused() => {}
            }
        }
        !self.is_ended()
    }

    /// Ends the track. Peers are told the end when the last groups have been taken: a reader that
    /// knows the end before takes the newest group for the last one to come.
    pub(crate) fn finish(self: &Arc<Self>) {
        if self.producer.is_closed() || self.ending.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(broadcast) = self.broadcast.upgrade() {
            broadcast.keep(self.clone());
        }
        if !self.producer.is_used() || !can_spawn() {
            let _ended_before = self.producer.finish();
            return;
        }
        // Also when the broadcast is gone meanwhile: those who read get the rest.
        let track = self.clone();
        n0_future::task::spawn(async move {
            track.drained().await;
            let _ended_before = track.producer.finish();
        });
    }

    pub(crate) fn abort(&self, code: u16) {
        self.ending.store(true, Ordering::Relaxed);
        if !self.producer.is_closed() {
            if let Some(broadcast) = self.broadcast.upgrade() {
                broadcast.remember_abort(self.producer.name(), code);
            }
            self.close(moq_net::Error::App(code));
        }
    }

    /// Ends what is left of an ended track.
    pub(crate) fn cut(&self) {
        let _ended_before = self.producer.finish();
        self.close(moq_net::Error::Cancel);
    }

    fn close(&self, error: moq_net::Error) {
        let _ended_meanwhile = self.producer.clone().abort(error);
    }

    /// Counts the newest group as read now.
    pub(crate) fn keep_newest(&self) {
        let Some(newest) = self.producer.latest() else {
            return;
        };
        let held = self.producer.consume().fetch_group(newest, None);
        if let Poll::Ready(Ok(group)) =
            kio::Pollable::poll(&held.into_inner(), &kio::Waiter::noop())
        {
            group.keep_alive();
        }
    }

    /// Waits until the readers of an ended track have what was written, or take no more of it.
    pub(crate) async fn drained(&self) {
        self.flow.drained().await;
    }
}

/// Writes a track. Dropping it ends the track as [`TrackWriter::finish`] does.
pub struct TrackWriter {
    core: Arc<TrackCore>,
    /// The timestamp last given by [`TrackWriter::stamp`].
    last: Duration,
}

impl TrackWriter {
    pub(crate) fn new(core: Arc<TrackCore>) -> Self {
        Self {
            core,
            last: Duration::ZERO,
        }
    }

    /// The track's name.
    pub fn name(&self) -> &str {
        self.core.producer.name()
    }

    /// Writes one group of one frame and says the group's number. Without a timestamp the frame
    /// gets the time since 1970.
    pub fn write(&mut self, data: Bytes, timestamp: Option<Duration>) -> Result<u64, Error> {
        check_size(data.len())?;
        let timestamp = self.stamp(timestamp)?;
        let size = data.len() as u64;
        let mut group = self.core.open()?.append_group().map_err(write_error)?;
        let number = group.sequence;
        group.write_frame(timestamp, data).map_err(write_error)?;
        group.finish().map_err(write_error)?;
        self.core.wrote(&group, size);
        Ok(number)
    }

    /// Starts a group.
    pub fn group(&mut self) -> Result<GroupWriter, Error> {
        let producer = self.core.open()?.append_group().map_err(write_error)?;
        Ok(GroupWriter {
            producer,
            core: self.core.clone(),
            bytes: 0,
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
        let mut producer = self.core.open()?.clone();
        producer
            .append_datagram(timestamp, data)
            .map_err(write_error)?;
        Ok(())
    }

    /// Waits while too much is under way to readers: [`MAX_UNDER_WAY_GROUPS`] whole groups or
    /// [`MAX_UNDER_WAY_BYTES`], until about an eighth of it has been taken. Returns at once when nobody
    /// reads. The slowest reader counts, but one that takes nothing for [`READY_PATIENCE`] holds
    /// up no longer. False when the track has ended. May be cancelled at any time.
    ///
    /// Writing without it is fine for what is worthless when late: readers skip what has become
    /// older than they want.
    ///
    /// [`MAX_UNDER_WAY_GROUPS`]: crate::limits::MAX_UNDER_WAY_GROUPS
    /// [`MAX_UNDER_WAY_BYTES`]: crate::limits::MAX_UNDER_WAY_BYTES
    /// [`READY_PATIENCE`]: crate::limits::READY_PATIENCE
    pub async fn ready(&self) -> bool {
        self.core.ready().await
    }

    /// The number of the newest group.
    pub fn latest(&self) -> Option<u64> {
        self.core.producer.latest()
    }

    /// Whether anybody reads the track now.
    pub fn is_used(&self) -> bool {
        self.core.producer.is_used()
    }

    /// Waits until somebody reads the track; false if it ended first.
    pub async fn used(&self) -> bool {
        self.core.producer.used().await.is_ok()
    }

    /// Waits until nobody reads the track, or it ends.
    pub async fn unused(&self) {
        let _ended = self.core.producer.unused().await;
    }

    /// Watches who reads, apart from the writing.
    pub fn demand(&self) -> TrackDemand {
        TrackDemand {
            demand: self.core.producer.demand(),
            core: Arc::downgrade(&self.core),
        }
    }

    /// Ends the track: readers get what was written, then the end. It goes on by itself until
    /// they have it.
    pub fn finish(&mut self) {
        self.core.finish();
    }

    /// Ends the track with an error; `code` reaches the readers.
    pub fn abort(&mut self, code: u16) {
        self.core.abort(code);
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

/// Watches whether a track has readers and what they take. Holding it keeps nothing alive.
#[derive(Clone)]
pub struct TrackDemand {
    demand: track::Demand,
    core: Weak<TrackCore>,
}

impl TrackDemand {
    /// Whether anybody reads the track now.
    pub fn is_used(&self) -> bool {
        self.demand.is_used()
    }

    /// Waits until somebody reads the track; false if it ended first.
    pub async fn used(&self) -> bool {
        self.demand.used().await.is_ok()
    }

    /// Waits until nobody reads the track; false if it ended first.
    pub async fn unused(&self) -> bool {
        self.demand.unused().await.is_ok()
    }

    /// Whether [`TrackWriter::ready`] would return at once.
    pub fn is_ready(&self) -> bool {
        self.core.upgrade().is_none_or(|core| core.is_ready())
    }

    /// The same as [`TrackWriter::ready`].
    pub async fn ready(&self) -> bool {
        match self.core.upgrade() {
            Some(core) => core.ready().await,
            None => false,
        }
    }
}

impl std::fmt::Debug for TrackDemand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TrackDemand")
            .field(&self.demand.name())
            .finish()
    }
}

/// Writes a group, frame by frame. Dropping it ends the group as [`GroupWriter::finish`] does.
pub struct GroupWriter {
    producer: group::Producer,
    core: Arc<TrackCore>,
    bytes: u64,
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
        let size = data.len() as u64;
        let timestamp = stamp(&mut self.last, timestamp)?;
        self.producer
            .write_frame(timestamp, data)
            .map_err(write_error)?;
        self.bytes += size;
        Ok(())
    }

    /// Ends the group.
    pub fn finish(&mut self) {
        if !std::mem::replace(&mut self.ended, true) && self.producer.finish().is_ok() {
            self.core.wrote(&self.producer, self.bytes);
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

/// Whether there is anything to run a task on: a writer may be dropped anywhere.
fn can_spawn() -> bool {
    #[cfg(not(target_family = "wasm"))]
    return tokio::runtime::Handle::try_current().is_ok();
    #[cfg(target_family = "wasm")]
    return true;
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
