//! [`Kv`]: a signed map on a gossip topic, as those who use it see it.

use std::collections::VecDeque;

use bytes::Bytes;
use iroh_base::{EndpointId, PublicKey, SecretKey};
use iroh_gossip::{Gossip, TopicId};
use iroh_rooms_sorted::SortedSet;
use n0_future::{task::spawn, time::Duration};
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{
    Refused,
    actor::{Actor, subscribe},
    store::StoreError,
};

/// Requests of handles that wait for the actor; at the limit the caller waits.
pub(crate) const INBOX_CAP: usize = 64;
/// Peers that are dialled to join a topic; surplus is left out.
pub(crate) const PEERS_MAX: usize = 64;

/// How a [`Kv`] behaves. The defaults are those of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Without a newer timestamp for this long a value expires. Default: 120 s.
    pub expiry: Duration,
    /// Without a newer timestamp for this long a value is no longer passed on to others, so that
    /// newcomers do not see those who are gone. Default: 45 s.
    pub repeat: Duration,
    /// How often own values are signed again and the others' repeated to neighbours, give or
    /// take a fifth. Default: 30 s.
    pub anti_entropy: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            expiry: Duration::from_secs(120),
            repeat: Duration::from_secs(45),
            anti_entropy: Duration::from_secs(30),
        }
    }
}

/// What a [`Kv`] call can fail with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The topic was left.
    #[error("the topic was left")]
    Closed,
    /// Gossip did not take a call in time; it may hang.
    #[error("gossip did not answer in time")]
    Stalled,
    /// Gossip refused to join the topic.
    #[error("gossip could not join the topic: {0}")]
    Gossip(String),
    /// A key, a value or the number of own keys is over the limit.
    #[error(transparent)]
    TooLarge(StoreError),
}

impl Error {
    /// The code of this error, as in the TypeScript API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Closed => "CLOSED",
            Self::Stalled => "TIMEOUT",
            Self::Gossip(_) => "CONNECT_FAILED",
            Self::TooLarge(_) => "TOO_LARGE",
        }
    }
}

/// What a [`Subscription`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Someone wrote a value. Comes for every strictly newer timestamp, also with the same
    /// bytes: it is a sign of life. Comes with the same timestamp and other bytes if someone
    /// signed two values at one time and the other one wins: that is none. Own values are not
    /// reported.
    Value {
        /// Who wrote it.
        scope: PublicKey,
        /// Its key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// When it was written, in nanoseconds since 1970 by the writer's clock.
        timestamp: u64,
        /// Whether someone passed it on in anti-entropy, and not its writer sent it: the writer
        /// may be gone.
        repeated: bool,
    },
    /// A value was not written again in time, and is gone.
    Expired {
        /// Who wrote it.
        scope: PublicKey,
        /// Its key.
        key: Bytes,
    },
    /// A peer is connected to this one in the topic.
    NeighborUp(EndpointId),
    /// It no longer is.
    NeighborDown(EndpointId),
    /// This subscription was too slow, and so many events are lost: subscribe again to see the
    /// current values.
    Lagged(u64),
    /// Gossip did not take a call, or gave no sign of life, within 5 s: it may hang. Or it is gone,
    /// and does not let the topic be joined again. Comes once until a call succeeds. The cure is a
    /// new [`Gossip`], and [`Kv::join`] on it.
    Stalled,
    /// A peer delivered a message of the size that gossip reads and does not send: its links to all
    /// whom it was to pass it on to are dead, which it does not say. No honest peer can have sent
    /// it. The cure is the same.
    Poisoned(EndpointId),
    /// Gossip ended the topic, which is now joined again until that succeeds. All neighbours
    /// were reported as down; with the first one that is up again, own values are sent anew.
    Detached,
}

/// What a [`Kv`] has seen and holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages received from gossip.
    pub received: u64,
    /// Messages that changed something.
    pub accepted: u64,
    /// Messages that repeated what was known.
    pub known: u64,
    /// Messages refused, by reason.
    pub refused: Refused,
    /// Messages given to gossip.
    pub sent: u64,
    /// Scopes of others.
    pub scopes: usize,
    /// Values of others.
    pub entries: usize,
    /// Bytes held for others.
    pub bytes: usize,
    /// Expired values remembered.
    pub tombstones: usize,
    /// Times that gossip dropped messages because this actor was too slow.
    pub lagged: u64,
    /// Calls that gossip did not take in time.
    pub stalled: u64,
    /// Times that the topic was lost.
    pub detached: u64,
}

/// A signed map on one gossip topic. Clones are handles of the same map; the topic is left when
/// the last one is dropped.
#[derive(Debug, Clone)]
pub struct Kv {
    pub(crate) inbox: mpsc::Sender<Request>,
    pub(crate) scope: PublicKey,
}

/// What a handle asks of the actor.
#[derive(Debug)]
pub(crate) enum Request {
    Put(Bytes, Bytes, Reply<Result<(), Error>>),
    Withhold(PublicKey, Bytes, Reply<()>),
    JoinPeers(Vec<EndpointId>, Reply<Result<(), Error>>),
    Subscribe(Reply<Subscription>),
    Neighbors(Reply<Vec<EndpointId>>),
    Stats(Reply<Stats>),
    Close(Reply<()>),
}

/// Where the answer goes.
pub(crate) type Reply<T> = oneshot::Sender<T>;
impl Kv {
    /// Joins `topic` as the scope that `secret` belongs to. Does not wait for neighbours.
    pub async fn join(
        gossip: &Gossip,
        topic: TopicId,
        secret: SecretKey,
        bootstrap: Vec<EndpointId>,
        config: Config,
    ) -> Result<Self, Error> {
        let scope = secret.public();
        let bootstrap: SortedSet<_> = bootstrap.into_iter().take(PEERS_MAX).collect();
        let peers = bootstrap.iter().copied().collect();
        let link = subscribe(gossip.clone(), topic, peers).await?;
        let (inbox, requests) = mpsc::channel(INBOX_CAP);
        let actor = Actor::new(gossip.clone(), topic, secret, bootstrap, config);
        spawn(actor.run(link, requests));
        Ok(Self { inbox, scope })
    }

    /// The scope that this one writes to.
    pub fn scope(&self) -> PublicKey {
        self.scope
    }

    /// Writes a value and sends it to the whole topic. Returns when gossip has it; without
    /// neighbours it is sent when there is one.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<(), Error> {
        let (key, value) = (key.into(), value.into());
        self.ask(|reply| Request::Put(key, value, reply)).await?
    }

    /// Does not pass a value of another on to newcomers any more, until a strictly newer one comes:
    /// for whoever knows that its writer is gone.
    pub async fn withhold(&self, scope: PublicKey, key: impl Into<Bytes>) -> Result<(), Error> {
        let key = key.into();
        self.ask(|reply| Request::Withhold(scope, key, reply)).await
    }

    /// The neighbours and values that there are, and then what changes.
    pub async fn subscribe(&self) -> Result<Subscription, Error> {
        self.ask(Request::Subscribe).await
    }

    /// Connects to these peers in the topic. At most 64 at a time.
    pub async fn join_peers(&self, peers: Vec<EndpointId>) -> Result<(), Error> {
        self.ask(|reply| Request::JoinPeers(peers, reply)).await?
    }

    /// The peers connected to this one in the topic.
    pub async fn neighbors(&self) -> Result<Vec<EndpointId>, Error> {
        self.ask(Request::Neighbors).await
    }

    /// What was seen and is held.
    pub async fn stats(&self) -> Result<Stats, Error> {
        self.ask(Request::Stats).await
    }

    /// Leaves the topic. What was put before is sent first.
    pub async fn close(&self) {
        // Already closed is closed.
        self.ask(Request::Close).await.ok();
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let sent = self.inbox.send(request(reply)).await;
        sent.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)
    }
}

/// Events of a [`Kv`], from [`Kv::subscribe`].
#[derive(Debug)]
pub struct Subscription {
    /// What there was at the start: at most what the store may hold.
    pub(crate) current: VecDeque<Event>,
    pub(crate) changes: broadcast::Receiver<Event>,
}

impl Subscription {
    /// The next event, or `None` when the topic was left. Cancel safe.
    pub async fn recv(&mut self) -> Option<Event> {
        if let Some(event) = self.current.pop_front() {
            return Some(event);
        }
        match self.changes.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Event::Lagged(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The next event if there is one already.
    pub fn try_recv(&mut self) -> Option<Event> {
        if let Some(event) = self.current.pop_front() {
            return Some(event);
        }
        match self.changes.try_recv() {
            Ok(event) => Some(event),
            Err(broadcast::error::TryRecvError::Lagged(missed)) => Some(Event::Lagged(missed)),
            Err(_) => None,
        }
    }
}
