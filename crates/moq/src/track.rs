//! What a peer says: its broadcasts, and readers of their tracks.

use std::{
    collections::BTreeMap,
    pin::Pin,
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use iroh::EndpointId;
use moq_net::{broadcast, group, kio, track};
use n0_future::time::{Sleep, sleep};

use crate::error::{Error, from_moq};

/// How long a reader goes on without data after its broadcast was withdrawn. The withdrawal
/// overtakes data that is still on its way; a track that ended properly ends by itself.
const WITHDRAWN_GRACE: Duration = Duration::from_secs(2);
/// "Cancelled" in MoQ's stream codes.
const CANCELLED: u32 = 1;
/// How long an ordered reader waits for a group that later ones overtook, at most.
const ORDER_WAIT: Duration = Duration::from_millis(500);
/// Groups that an ordered reader holds back at once; beyond, it does not wait any longer.
const ORDER_HELD: usize = 256;

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
            order: Order::new(options.start),
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
    /// Deliver groups by number. A missing group is waited for up to half a second. Else, the
    /// default, they come as they arrive.
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
    order: Order,
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
    /// is lost or too old is skipped.
    pub async fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        kio::wait(|waiter| self.poll_frame(waiter)).await
    }

    /// The next datagram; None at the end of the track.
    pub async fn next_datagram(&mut self) -> Result<Option<Datagram>, Error> {
        kio::wait(|waiter| {
            let datagram = match self.subscriber.poll_recv_datagram(waiter) {
                Poll::Ready(result) => result.map_err(from_moq)?,
                Poll::Pending => return self.withdrawal.poll(waiter).map(|()| Ok(None)),
            };
            self.withdrawal.postpone();
            Poll::Ready(Ok(datagram.map(|datagram| Datagram {
                data: datagram.payload,
                timestamp: datagram.timestamp.into(),
                sequence: datagram.sequence,
            })))
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
                    // A group that fails is over; what it means for the track, the track says.
                    Poll::Ready(Ok(None) | Err(_)) => self.group = None,
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
        if !self.options.ordered {
            return self.poll_arrival(waiter);
        }
        // Take everything that has arrived, then see whether the lowest of it is due.
        while !self.order.is_full() {
            match self.poll_arrival(waiter) {
                Poll::Ready(Ok(Some(group))) => self.order.insert(group),
                Poll::Ready(end) => {
                    // Whatever is missing will not come any more.
                    return match self.order.pop_lowest() {
                        Some(group) => Poll::Ready(Ok(Some(group))),
                        None => Poll::Ready(end),
                    };
                }
                Poll::Pending => break,
            }
        }
        self.order
            .poll(self.options.max_age, waiter)
            .map(|group| Ok(Some(group)))
    }

    fn reader(&self, consumer: group::Consumer) -> GroupReader {
        GroupReader {
            consumer,
            withdrawal: Withdrawal::new(self.withdrawal.broadcast.clone()),
        }
    }

    fn poll_arrival(&mut self, waiter: &kio::Waiter) -> Poll<Result<Option<GroupReader>, Error>> {
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

/// Puts groups back in order: each travels in a stream of its own, so a lost packet lets later ones
/// overtake.
struct Order {
    held: BTreeMap<u64, GroupReader>,
    /// The lowest number that has not been delivered; None until the first, when any will do.
    next: Option<u64>,
    /// Until when the group `next` is waited for.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Order {
    fn new(start: Option<u64>) -> Self {
        Self {
            held: BTreeMap::new(),
            next: start,
            patience: None,
        }
    }

    fn is_full(&self) -> bool {
        self.held.len() >= ORDER_HELD
    }

    fn insert(&mut self, group: GroupReader) {
        // Later than its successor was delivered: too late.
        if self.next.is_none_or(|next| group.sequence() >= next) {
            self.held.insert(group.sequence(), group);
        }
    }

    fn pop_lowest(&mut self) -> Option<GroupReader> {
        let (number, group) = self.held.pop_first()?;
        self.next = Some(number.saturating_add(1));
        self.patience = None;
        Some(group)
    }

    fn poll(&mut self, max_age: Duration, waiter: &kio::Waiter) -> Poll<GroupReader> {
        let Some(lowest) = self.held.keys().next().copied() else {
            return Poll::Pending;
        };
        if self.next.is_some_and(|next| lowest > next) && !self.is_full() {
            let patience = self
                .patience
                .get_or_insert_with(|| Box::pin(sleep(ORDER_WAIT.min(max_age))));
            ready!(waiter.poll_future(patience.as_mut()));
        }
        match self.pop_lowest() {
            Some(group) => Poll::Ready(group),
            None => Poll::Pending,
        }
    }
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
