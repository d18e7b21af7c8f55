//! What this endpoint says: broadcasts, their tracks, groups and frames.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Poll, ready},
    time::Duration,
};

use moq_net::{Timescale, broadcast, cache, kio, origin, track};
use tokio::sync::watch;

use crate::{
    error::{Error, from_moq},
    track::RemoteBroadcast,
    writer::{TrackConfig, TrackCore, TrackWriter},
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
/// Tracks that have ended and can still be read; of more, those that nobody reads are forgotten
/// first, and then the oldest.
const ENDED_CAP: usize = 64;

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

pub(crate) struct Inner {
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
    live: Vec<Weak<TrackCore>>,
    /// Tracks that ended in good order. What they hold can be read until the broadcast is gone, its
    /// name is used again or there are more than [`ENDED_CAP`]; a reader whose connection was
    /// exchanged asks for it anew.
    ended: VecDeque<Arc<TrackCore>>,
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

    /// A new track takes the name.
    fn forget(&mut self, name: &str) {
        self.forget_abort(name);
        self.ended.retain(|track| {
            let other = track.producer.name() != name;
            if !other {
                track.cut();
            }
            other
        });
    }
}

impl Inner {
    fn tracks(&self) -> MutexGuard<'_, Tracks> {
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remember_abort(&self, name: &str, code: u16) {
        self.tracks().remember_abort(name, code);
    }

    /// Keeps a track that ends readable.
    pub(crate) fn keep(&self, track: Arc<TrackCore>) {
        let mut tracks = self.tracks();
        tracks.ended.push_back(track);
        if tracks.ended.len() > ENDED_CAP {
            let unread = tracks
                .ended
                .iter()
                .position(|track| !track.producer.is_used());
            let _oldest = tracks.ended.remove(unread.unwrap_or(0));
        }
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

    /// Adds a track. The name must be free; the name of a track that has ended is free again, but
    /// peers that have read the old one may take the groups of both for those of one track.
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
        tracks
            .live
            .retain(|track| track.upgrade().is_some_and(|track| !track.is_ended()));
        if tracks.live.len() >= MAX_TRACKS {
            return Err(Error::Limit("tracks of a broadcast"));
        }
        tracks.forget(name);
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
        let core = Arc::new(TrackCore::new(producer, Arc::downgrade(&self.inner)));
        tracks.live.push(Arc::downgrade(&core));
        Ok(TrackWriter::new(core))
    }

    /// Ends the broadcast and its tracks: readers get what was written, then the end.
    pub fn finish(&self) {
        for track in self.live_tracks() {
            track.finish();
        }
        self.end();
    }

    /// Ends the broadcast and its tracks with an error; `code` reaches the readers.
    pub fn abort(&self, code: u16) {
        for track in self.live_tracks() {
            track.abort(code);
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

    fn live_tracks(&self) -> Vec<Arc<TrackCore>> {
        self.inner
            .tracks()
            .live
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// Waits until the readers of an ended broadcast have what was written, or take no more of it.
    pub(crate) async fn drained(&self) {
        let ended: Vec<_> = self.inner.tracks().ended.iter().cloned().collect();
        for track in ended {
            track.drained().await;
        }
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

    /// Drops groups that nobody has read or written for [`CACHE_EXPIRY`], except those that whoever
    /// comes late is to get: moq-net spares the newest group of a track until it ends, and this the
    /// newest of one that has ended. Says when to look again.
    pub(crate) fn sweep(&self, now: moq_net::time::Instant) -> Option<moq_net::time::Instant> {
        for track in &self.inner.tracks().ended {
            track.keep_newest();
        }
        self.inner.pool.gc(now)
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use iroh::SecretKey;

    use super::*;
    use crate::TrackOptions;

    #[tokio::test]
    async fn the_newest_group_of_an_ended_track_outlives_the_cache() {
        let broadcast = Broadcast::new();
        let config = TrackConfig {
            max_age: Duration::from_secs(3600),
            ..TrackConfig::default()
        };
        let mut writer = broadcast.track("t", config).unwrap();
        for text in ["old", "new"] {
            writer.write(Bytes::from(text), None).unwrap();
        }
        writer.finish();
        let mut now = moq_net::time::Instant::now();
        for _ in 0..3 {
            broadcast.sweep(now);
            now += CACHE_EXPIRY + Duration::from_secs(60);
        }
        let id = SecretKey::from_bytes(&[1; 32]).public();
        let read = RemoteBroadcast::new(id, "b".to_owned(), broadcast.consume());
        let mut reader = read.track("t", TrackOptions::default()).await.unwrap();
        let newest = reader.next_frame().await.unwrap().unwrap();
        assert_eq!(newest.data, "new");
        assert!(reader.next_frame().await.unwrap().is_none());
        let old = reader.fetch(0).await;
        assert!(old.is_err(), "held for nobody");
    }
}
