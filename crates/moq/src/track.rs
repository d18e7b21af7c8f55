//! What a peer says: its broadcasts, and readers of their tracks.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use iroh::EndpointId;
use iroh_rooms_sorted::SortedMap;
use moq_net::{broadcast, group, kio, track};
use n0_future::time::{Instant, Sleep, sleep, sleep_until};

use crate::{
    error::{Error, from_moq},
    gaps::Gaps,
};

/// How long a reader goes on without data after its broadcast was withdrawn. The withdrawal
/// overtakes data that is still on its way; a track that ended properly ends by itself.
const WITHDRAWN_GRACE: Duration = Duration::from_secs(2);
/// "Cancelled" in MoQ's stream codes.
const CANCELLED: u32 = 1;
/// How long an ordered reader waits for a group that later ones overtook, since the last of its
/// neighbours came; at most the maximum age it asked for. Then it asks for it by number.
const ORDER_WAIT: Duration = Duration::from_millis(500);
/// How long it waits for the answer.
const RECOVERY_WAIT: Duration = Duration::from_secs(5);
/// Missing groups asked for in a row; beyond, what is missing is given up.
const RECOVERED: usize = 64;
/// When a reader that takes groups as they come counts one as missed; at most the maximum age it
/// asked for.
const LATE: Duration = Duration::from_secs(5);
/// Groups that an ordered reader holds back at once; beyond, it does not wait any longer.
const ORDER_HELD: usize = 256;
/// Datagrams that wait while the reader reads groups; the oldest are dropped beyond.
const DATAGRAMS_HELD: usize = 32;

/// A broadcast of a peer, independent of which session carries it: while the peer has a session in
/// the scope and announces the broadcast, this handle and its readers go on. Clones are the same.
#[derive(Clone)]
pub struct RemoteBroadcast {
    remote: EndpointId,
    name: String,
    consumer: broadcast::Consumer,
}

impl RemoteBroadcast {
    pub(crate) fn new(remote: EndpointId, name: String, consumer: broadcast::Consumer) -> Self {
        Self {
            remote,
            name,
            consumer,
        }
    }

    pub(crate) fn consumer(&self) -> &broadcast::Consumer {
        &self.consumer
    }

    /// Whose it is.
    pub fn remote(&self) -> EndpointId {
        self.remote
    }

    /// Its name in the scope.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads a track. Waits for the peer's answer; fails with `NOT_ANNOUNCED` if it has no such
    /// track.
    pub async fn track(&self, name: &str, options: TrackOptions) -> Result<TrackReader, Error> {
        let missing = |error| match from_moq(error) {
            Error::NotAnnounced(_) => Error::NotAnnounced(format!("the track {name}")),
            other => other,
        };
        let consumer = self.consumer.track(name).map_err(missing)?;
        // Without a start, first whatever is newest: `TrackReader` asks for the full age from
        // there on.
        let max_age = if options.start.is_some() {
            options.max_age
        } else {
            Duration::ZERO
        };
        let subscription = track::Subscription::default()
            .with_priority(options.priority)
            .with_max_age(max_age)
            .with_start(options.start.map(track::Position::group));
        let subscriber = consumer.subscribe(subscription).await.map_err(missing)?;
        Ok(TrackReader {
            consumer,
            subscriber,
            withdrawal: Withdrawal::new(self.consumer.clone()),
            options,
            from_newest: options.start.is_none() && !options.max_age.is_zero(),
            gaps: Gaps::new(options.start),
            held: SortedMap::new(),
            patience: None,
            recovery: None,
            recovered: 0,
            datagrams: VecDeque::new(),
            group: None,
        })
    }

    /// Waits until the peer withdraws the broadcast, replaces it by another of the same name, or
    /// is gone.
    pub async fn closed(&self) {
        self.consumer.closed().await;
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.consumer.is_closed()
    }
}

impl std::fmt::Debug for RemoteBroadcast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteBroadcast")
            .field("remote", &format_args!("{}", self.remote.fmt_short()))
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// How to read a track.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrackOptions {
    /// Higher goes first when bandwidth is short. Default 0.
    pub priority: u8,
    /// How far behind the newest group an older one is still wanted, by timestamps; at most what
    /// the writer keeps. Zero, the default, takes the newest group and gives up what it overtakes.
    pub max_age: Duration,
    /// The first group wanted, as far as `max_age` reaches back: zero for everything that is still
    /// there. None, the default, starts at the newest.
    pub start: Option<u64>,
    /// Deliver groups by number. A missing group is waited for for half a second, or `max_age` if
    /// that is shorter, and then asked for by number. Else, the default, they come as they arrive.
    pub ordered: bool,
}

/// Reads a track. Every method may be cancelled (dropped while it waits) without losing anything.
pub struct TrackReader {
    consumer: track::Consumer,
    subscriber: track::Subscriber,
    withdrawal: Withdrawal,
    options: TrackOptions,
    /// Still to widen the subscription once the newest group is known.
    from_newest: bool,
    gaps: Gaps,
    /// Groups that wait for lower ones, if in order.
    held: SortedMap<u64, GroupReader>,
    /// Until when the lowest missing group is waited for.
    patience: Option<(Instant, Pin<Box<Sleep>>)>,
    /// A missing group that is asked for by number.
    recovery: Option<Recovery>,
    /// How many were.
    recovered: usize,
    datagrams: VecDeque<Datagram>,
    /// The group that `next_frame` is in.
    group: Option<GroupReader>,
}

impl TrackReader {
    /// The track's name.
    pub fn name(&self) -> &str {
        self.subscriber.name()
    }

    /// The next group; None at the end of the track. What [`TrackReader::next_frame`] has left of a
    /// group is skipped.
    pub async fn next_group(&mut self) -> Result<Option<GroupReader>, Error> {
        self.group = None;
        kio::wait(|waiter| self.poll_group(waiter)).await
    }

    /// The next frame, group after group; None at the end of the track. The rest of a group that
    /// is lost or too old is skipped, and counted by [`TrackReader::lagged`].
    pub async fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        kio::wait(|waiter| self.poll_frame(waiter)).await
    }

    /// How many groups this reader wanted and did not get whole so far: overtaken, too old, ended
    /// by their writer with an error. Counted when it is certain, so only after the groups around
    /// them have come; on tracks that carry datagrams too, only what broke off is counted.
    pub fn lagged(&self) -> u64 {
        self.gaps.lagged()
    }

    /// The next datagram; None at the end of the track.
    pub async fn next_datagram(&mut self) -> Result<Option<Datagram>, Error> {
        kio::wait(|waiter| {
            if let Some(datagram) = self.datagrams.pop_front() {
                return Poll::Ready(Ok(Some(datagram)));
            }
            match self.poll_datagram(waiter) {
                Poll::Pending => self.withdrawal.poll(waiter).map(|()| Ok(None)),
                ready => ready,
            }
        })
        .await
    }

    /// Fetches one group by number, also one that is older than this reader wants.
    pub async fn fetch(&self, group: u64) -> Result<GroupReader, Error> {
        let consumer = self
            .consumer
            .fetch_group(group, None)
            .await
            .map_err(from_moq)?;
        Ok(self.reader(consumer))
    }

    /// The number of the newest group known here.
    pub fn latest(&self) -> Option<u64> {
        self.subscriber.latest()
    }

    fn poll_frame(&mut self, waiter: &kio::Waiter) -> Poll<Result<Option<Frame>, Error>> {
        loop {
            if let Some(group) = &mut self.group {
                match group.poll_frame(waiter) {
                    Poll::Ready(Ok(Some(frame))) => {
                        self.withdrawal.postpone();
                        return Poll::Ready(Ok(Some(frame)));
                    }
                    Poll::Ready(Ok(None)) => self.group = None,
                    // A group that fails is over; what it means for the track, the track says.
                    Poll::Ready(Err(_)) => {
                        self.gaps.lost_one();
                        self.group = None;
                    }
                    Poll::Pending => {
                        return self.withdrawal.poll(waiter).map(|()| Ok(None));
                    }
                }
            }
            match ready!(self.poll_group(waiter))? {
                Some(group) => self.group = Some(group),
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    fn poll_group(&mut self, waiter: &kio::Waiter) -> Poll<Result<Option<GroupReader>, Error>> {
        loop {
            // Take everything that has come.
            let mut end = None;
            while end.is_none() && self.held.len() < ORDER_HELD {
                match self.poll_arrival(waiter) {
                    Poll::Ready(Ok(Some(group))) => {
                        let now = Instant::now();
                        let wanted = self.gaps.arrived(group.sequence(), now);
                        self.recovered = 0;
                        if !self.options.ordered {
                            self.gaps.expire(now, LATE.min(self.options.max_age));
                            return Poll::Ready(Ok(Some(group)));
                        }
                        if wanted {
                            self.held.insert(group.sequence(), group);
                        }
                    }
                    Poll::Ready(other) => end = Some(other),
                    Poll::Pending => break,
                }
            }
            if let Some(Ok(None)) = &end
                && let Poll::Ready(Ok(last)) = self.subscriber.poll_finished(&kio::Waiter::noop())
            {
                self.gaps.ends(last, Instant::now());
            }
            // Hand out the lowest when nothing is missing below it.
            let lowest = self.held.keys().next().copied();
            let missing = self
                .gaps
                .first()
                .filter(|run| lowest.is_none_or(|lowest| run.first < lowest));
            let Some(missing) = missing else {
                return match (self.held.pop_first(), end) {
                    (Some((_, group)), _) => Poll::Ready(Ok(Some(group))),
                    (None, Some(end)) => Poll::Ready(end),
                    (None, None) => Poll::Pending,
                };
            };
            // The newest group ends the track, and others may still be under way.
            match (&end, lowest) {
                (Some(Ok(_)), _) => {}
                (Some(Err(_)), _) => {
                    self.gaps.give_up_first();
                    continue;
                }
                (None, Some(lowest)) => {
                    if self.held.len() >= ORDER_HELD {
                        self.gaps.give_up_below(lowest);
                        continue;
                    }
                    let due = missing.due(ORDER_WAIT.min(self.options.max_age));
                    ready!(self.poll_patience(due, waiter));
                }
                (None, None) => return Poll::Pending,
            }
            let to_be_had = missing.promised
                && !self.gaps.has_datagrams()
                && !self.options.max_age.is_zero()
                && self.recovered < RECOVERED
                && !self.withdrawal.broadcast.is_closed();
            if !to_be_had {
                self.gaps.give_up_first();
            } else if let Some(group) = ready!(self.poll_recovery(missing.first, waiter)) {
                return Poll::Ready(Ok(Some(group)));
            }
        }
    }

    fn poll_patience(&mut self, due: Instant, waiter: &kio::Waiter) -> Poll<()> {
        let patience = match &mut self.patience {
            Some((at, patience)) if *at == due => patience,
            patience => &mut patience.insert((due, Box::pin(sleep_until(due)))).1,
        };
        waiter.poll_future(patience.as_mut())
    }

    /// Asks for a missing group by number. None if it is not to be had: then it is given up.
    fn poll_recovery(&mut self, number: u64, waiter: &kio::Waiter) -> Poll<Option<GroupReader>> {
        let recovery = match &mut self.recovery {
            Some(recovery) if recovery.number == number => recovery,
            recovery => recovery.insert(Recovery {
                number,
                group: self.consumer.fetch_group(number, None).into_inner(),
                patience: Box::pin(sleep(RECOVERY_WAIT)),
            }),
        };
        let group = match kio::Pollable::poll(&recovery.group, waiter) {
            Poll::Ready(group) => group.ok(),
            Poll::Pending => {
                ready!(waiter.poll_future(recovery.patience.as_mut()));
                None
            }
        };
        self.recovery = None;
        self.recovered += 1;
        self.gaps.arrived(number, Instant::now());
        if group.is_none() {
            self.gaps.lost_one();
        }
        Poll::Ready(group.map(|group| self.reader(group)))
    }

    fn poll_datagram(&mut self, waiter: &kio::Waiter) -> Poll<Result<Option<Datagram>, Error>> {
        let datagram = ready!(self.subscriber.poll_recv_datagram(waiter)).map_err(from_moq)?;
        self.withdrawal.postpone();
        Poll::Ready(Ok(datagram.map(|datagram| {
            self.gaps.datagram(datagram.sequence, Instant::now());
            Datagram {
                data: datagram.payload,
                timestamp: datagram.timestamp.into(),
                sequence: datagram.sequence,
            }
        })))
    }

    fn reader(&self, consumer: group::Consumer) -> GroupReader {
        GroupReader {
            consumer,
            withdrawal: Withdrawal::new(self.withdrawal.broadcast.clone()),
        }
    }

    fn poll_arrival(&mut self, waiter: &kio::Waiter) -> Poll<Result<Option<GroupReader>, Error>> {
        // Datagrams share the numbers of groups, so they are no gaps.
        while let Poll::Ready(Ok(Some(datagram))) = self.poll_datagram(waiter) {
            if self.datagrams.len() >= DATAGRAMS_HELD {
                self.datagrams.pop_front();
            }
            self.datagrams.push_back(datagram);
        }
        let group = match self.subscriber.poll_recv_group(waiter) {
            Poll::Ready(result) => result.map_err(from_moq)?,
            Poll::Pending => return self.withdrawal.poll(waiter).map(|()| Ok(None)),
        };
        let Some(consumer) = group else {
            return Poll::Ready(Ok(None));
        };
        self.withdrawal.postpone();
        if std::mem::take(&mut self.from_newest) {
            let subscription = track::Subscription::default()
                .with_priority(self.options.priority)
                .with_max_age(self.options.max_age)
                .with_start(track::Position::group(consumer.sequence));
            let _track_is_over = self.subscriber.update(subscription);
        }
        Poll::Ready(Ok(Some(self.reader(consumer))))
    }
}

impl std::fmt::Debug for TrackReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrackReader")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// Tells when a broadcast that was withdrawn has nothing more to say.
struct Withdrawal {
    broadcast: broadcast::Consumer,
    /// Runs since the withdrawal or the last data after it.
    grace: Option<Pin<Box<Sleep>>>,
}

impl Withdrawal {
    fn new(broadcast: broadcast::Consumer) -> Self {
        Self {
            broadcast,
            grace: None,
        }
    }

    /// Data came.
    fn postpone(&mut self) {
        self.grace = None;
    }

    fn poll(&mut self, waiter: &kio::Waiter) -> Poll<()> {
        ready!(self.broadcast.poll_closed(waiter));
        let grace = self
            .grace
            .get_or_insert_with(|| Box::pin(sleep(WITHDRAWN_GRACE)));
        waiter.poll_future(grace.as_mut())
    }
}

/// A missing group that was asked for.
struct Recovery {
    number: u64,
    group: track::Fetching,
    patience: Pin<Box<Sleep>>,
}

/// Reads the frames of one group.
pub struct GroupReader {
    consumer: group::Consumer,
    withdrawal: Withdrawal,
}

impl GroupReader {
    /// The group's number.
    pub fn sequence(&self) -> u64 {
        self.consumer.sequence
    }

    /// The next frame; None at the end of the group. May be cancelled without losing anything.
    pub async fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        kio::wait(|waiter| match self.poll_frame(waiter) {
            Poll::Ready(result) => {
                self.withdrawal.postpone();
                Poll::Ready(result)
            }
            Poll::Pending => self.withdrawal.poll(waiter).map(|()| {
                Err(Error::TrackClosed {
                    code: CANCELLED,
                    reason: "the broadcast was withdrawn".to_owned(),
                })
            }),
        })
        .await
    }

    /// The same without looking at the broadcast.
    fn poll_frame(&mut self, waiter: &kio::Waiter) -> Poll<Result<Option<Frame>, Error>> {
        let index = self.consumer.index();
        let frame = ready!(self.consumer.poll_read_frame(waiter)).map_err(from_moq)?;
        Poll::Ready(Ok(frame.map(|frame| Frame {
            data: frame.payload,
            timestamp: frame.timestamp.into(),
            group: self.consumer.sequence,
            index,
        })))
    }
}

impl std::fmt::Debug for GroupReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupReader")
            .field("sequence", &self.sequence())
            .finish_non_exhaustive()
    }
}

/// A frame with its place in the track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The payload, not copied since QUIC.
    pub data: Bytes,
    /// When it is meant, by the writer's clock. moq-lite-03 and -04 do not carry it: there it is
    /// the time of arrival by a clock of this process.
    pub timestamp: Duration,
    /// The number of its group.
    pub group: u64,
    /// Its place in the group.
    pub index: u64,
}

/// A datagram of a track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// The payload.
    pub data: Bytes,
    /// When it is meant, by the writer's clock.
    pub timestamp: Duration,
    /// Its number, counted together with the groups.
    pub sequence: u64,
}
