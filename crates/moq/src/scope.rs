//! A scope: what is published to the peers in it, and what they announce.
//!
//! Each scope has two routing tables of moq-net ("origins"): `local` holds what is published here
//! and is what every session in the scope serves from; `remote` holds what peers announce, each
//! below its own endpoint id, so that no peer can announce under another's. Both live as long as
//! the scope: sessions come and go underneath.

use std::{
    collections::VecDeque,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use iroh::{EndpointAddr, EndpointId};
use iroh_rooms_sorted::{SortedMap, SortedSet};
use moq_net::{Pattern, Patterns, announce, kio, origin};
use n0_future::time;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::{
    actor::Message,
    announced::{Announced, guard_announcements},
    broadcast::{Broadcast, cache_pool},
    error::{Error, SessionError, SubscribeError},
    events::{CoreEvent, SESSION_EVENTS_CAP, SessionEvents},
    incoming::{INCOMING_CAP, IncomingSession, IncomingSessions},
    moq::Accept,
    session::{Link, Session, SessionCore},
    sessions::{ConnId, Key, ScopeId, WaiterId},
    stats::{Counters, spawn},
    track::RemoteBroadcast,
};

/// Parts (between slashes) that a broadcast's name may have; deeper announcements are ignored.
pub const MAX_NAME_PARTS: usize = 8;
/// Bytes that a broadcast's or track's name may have.
pub const MAX_NAME_BYTES: usize = 256;
/// Broadcasts of one peer that are reported; what it announces beyond is ignored and counted.
pub const MAX_ANNOUNCED: usize = 1024;
/// Broadcasts of one peer at which its session is closed: even ignored ones take memory.
pub const MAX_ANNOUNCED_HARD: usize = 4 * MAX_ANNOUNCED;
/// How long an ended broadcast is still served: the subscription of a reader who has just come is
/// on its way perhaps.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Broadcasts that may be published in a scope at once.
pub const MAX_PUBLISHED: usize = 1024;
/// Peers of which [`Scope::ended`] remembers how the last session ended; of more, the oldest are
/// forgotten.
const ENDED_CAP: usize = 256;
/// How far back a late joiner may reach for tracks whose version of MoQ does not carry an age.
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(300);

/// The place where a set of peers meets: the endpoint's own scope, or a room's.
///
/// Clones are the same scope. A room's scope is closed by [`Scope::close`] or when its last handle
/// is gone.
#[derive(Clone)]
pub struct Scope {
    inner: Arc<ScopeInner>,
}

/// What makes a scope reachable.
pub(crate) enum Kind {
    /// The endpoint's own: the empty path, for everybody.
    Own,
    /// A room's: its path proves that the dialler knows the key.
    Room {
        /// `k` of the wire format.
        key: [u8; 32],
    },
}

pub(crate) struct ScopeInner {
    pub(crate) id: ScopeId,
    me: EndpointId,
    kind: Kind,
    pub(crate) accept: Accept,
    incoming: broadcast::Sender<IncomingSession>,
    local: origin::Producer,
    remote: origin::Producer,
    published: Mutex<SortedMap<String, Publication>>,
    sessions: Mutex<SortedMap<EndpointId, Arc<SessionCore>>>,
    ended: Mutex<VecDeque<(EndpointId, SessionError)>>,
    links: Mutex<SortedMap<ConnId, Arc<Link>>>,
    events: broadcast::Sender<CoreEvent>,
    inbox: mpsc::Sender<Message>,
    closed: watch::Sender<bool>,
    pub(crate) counters: Arc<Counters>,
}

struct Publication {
    broadcast: Broadcast,
    /// Announced as long as this lives.
    _announced: Arc<origin::Dynamic>,
}

impl Scope {
    /// Makes the scope and starts what runs it.
    pub(crate) fn open(
        id: ScopeId,
        me: EndpointId,
        kind: Kind,
        accept: Accept,
        inbox: mpsc::Sender<Message>,
        counters: Arc<Counters>,
    ) -> Self {
        let mut config = origin::Config::default();
        config.pool = cache_pool();
        config.default_max_age = DEFAULT_MAX_AGE;
        // Holding route changes back serves meshes of relays; between peers it only costs time.
        config.update_hold = Duration::ZERO;
        // Both tables share the identity, so that an announcement of ours that a peer reflects is
        // recognised and dropped.
        let mut remote_config = config.clone();
        remote_config.pool = cache_pool();
        let (local, local_driver) = origin::Producer::new(config);
        let (remote, remote_driver) = origin::Producer::new(remote_config);
        let closed = watch::Sender::new(false);
        for driver in [local_driver, remote_driver] {
            let driver = moq_net::time::run(driver);
            spawn(&counters, while_open(closed.subscribe(), driver));
        }
        let inner = Arc::new(ScopeInner {
            id,
            me,
            kind,
            accept,
            incoming: broadcast::Sender::new(INCOMING_CAP),
            local,
            remote,
            published: Mutex::default(),
            sessions: Mutex::default(),
            ended: Mutex::default(),
            links: Mutex::default(),
            events: broadcast::Sender::new(SESSION_EVENTS_CAP),
            inbox,
            closed,
            counters,
        });
        let guard = guard_announcements(
            Arc::downgrade(&inner),
            inner.remote.consume().with_hidden(true).announced(),
        );
        spawn(&inner.counters, while_open(inner.watch_closed(), guard));
        Self { inner }
    }

    pub(crate) fn from_inner(inner: Arc<ScopeInner>) -> Self {
        Self { inner }
    }

    pub(crate) fn inner(&self) -> &Arc<ScopeInner> {
        &self.inner
    }

    /// Publishes a broadcast under `name` for all present and future peers of the scope. One of
    /// the same name is replaced: its readers see it end, and nothing it does later touches the
    /// new one. It stays published until [`Scope::unpublish`] or its own end.
    pub fn publish(&self, name: &str, broadcast: &Broadcast) -> Result<(), Error> {
        check_name(name)?;
        if self.is_closed() {
            return Err(Error::Closed("the scope"));
        }
        if broadcast.is_closed() {
            return Err(Error::Closed("the broadcast"));
        }
        let mut published = self.inner.published();
        if published
            .get(name)
            .is_some_and(|old| old.broadcast.is_same(broadcast))
        {
            return Ok(());
        }
        if published.len() >= MAX_PUBLISHED && !published.contains_key(name) {
            return Err(Error::Limit("broadcasts of a scope"));
        }
        let dynamic = self
            .inner
            .local
            .dynamic(name, broadcast.route())
            .map_err(|error| Error::InvalidArgument(format!("the name {name}: {error}")))?;
        let dynamic = Arc::new(dynamic);
        spawn(
            &self.inner.counters,
            serve(
                Arc::downgrade(&self.inner),
                Arc::downgrade(&dynamic),
                name.to_owned(),
                broadcast.clone(),
            ),
        );
        // The new one is announced before the old one is withdrawn: peers see one change.
        published.insert(
            name.to_owned(),
            Publication {
                broadcast: broadcast.clone(),
                _announced: dynamic,
            },
        );
        Ok(())
    }

    /// Withdraws what is published under `name`; false if there is nothing.
    pub fn unpublish(&self, name: &str) -> bool {
        let publication = self.inner.published().remove(name);
        publication.is_some()
    }

    /// The names published now, sorted.
    pub fn published_broadcasts(&self) -> Vec<String> {
        self.inner.published().keys().cloned().collect()
    }

    /// The session with a peer: the one that stands, or the result of a dial. All who ask while a
    /// dial is in flight share it and its error; giving up waiting does not stop it for the others,
    /// and stops it when there are none.
    /// In a room's scope the address should hold what is known of the peer's relay.
    pub async fn connect(&self, remote: impl Into<EndpointAddr>) -> Result<Session, Error> {
        let addr = remote.into();
        if addr.id == self.inner.me {
            return Err(Error::InvalidArgument(
                "an endpoint cannot dial itself".to_owned(),
            ));
        }
        if self.is_closed() {
            return Err(Error::Closed("the scope"));
        }
        if let Some(session) = self.session(addr.id) {
            return Ok(session);
        }
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting {
            inbox: &self.inner.inbox,
            key: Key {
                scope: self.inner.id,
                remote: addr.id,
            },
            waiter: NEXT_WAITER.fetch_add(1, Ordering::Relaxed),
        };
        let message = Message::Connect {
            scope: self.inner.id,
            addr,
            waiter: waiting.waiter,
            reply,
        };
        self.inner
            .inbox
            .send(message)
            .await
            .map_err(|_| Error::Closed("MoQ"))?;
        let core = answer.await.map_err(|_| Error::Closed("MoQ"));
        waiting.answered();
        Ok(Session::new(core??, self.clone()))
    }

    /// The session with a peer, if one stands.
    pub fn session(&self, remote: EndpointId) -> Option<Session> {
        let core = self.inner.sessions().get(&remote).cloned()?;
        Some(Session::new(core, self.clone()))
    }

    /// Sessions as they open and close, those that stand now first. An exchange of the connection
    /// underneath is not reported.
    pub fn sessions(&self) -> SessionEvents {
        SessionEvents::new(self.clone())
    }

    /// How the last session with a peer ended; None while one stands, if there was none, or if more
    /// than 256 other peers have left since.
    pub fn ended(&self, remote: EndpointId) -> Option<SessionError> {
        // Under the lock of the sessions: it is in one place or the other.
        let sessions = self.inner.sessions();
        if sessions.contains_key(&remote) {
            return None;
        }
        let ended = self.inner.ended();
        let found = ended.iter().find(|(peer, _)| *peer == remote);
        found.map(|(_, error)| error.clone())
    }

    /// Sessions that peers open in this scope, from now on.
    pub fn incoming_sessions(&self) -> IncomingSessions {
        IncomingSessions::new(self.inner.incoming.subscribe(), self.inner.watch_closed())
    }

    /// Waits until the peer announces the broadcast and takes it. Fails if the session with the
    /// peer closes while waiting; without a session it waits for one.
    pub async fn subscribe(
        &self,
        remote: EndpointId,
        name: &str,
    ) -> Result<RemoteBroadcast, SubscribeError> {
        check_name(name).map_err(|_| SubscribeError::NotAnnounced)?;
        let mut closed = self.inner.closed.subscribe();
        let mut events = self.inner.events.subscribe();
        let session_lost = async {
            loop {
                let core = self.inner.core(remote);
                if let Some(core) = core {
                    return SubscribeError::SessionClosed(core.closed().await);
                }
                // Any event will do, and missing some too: then look again.
                let _event = events.recv().await;
            }
        };
        let consumer = self.inner.remote.consume();
        tokio::select! {
            biased;
            found = consumer.routed_broadcast(format!("{remote}/{name}")) => match found {
                Ok(consumer) => Ok(RemoteBroadcast::new(remote, name.to_owned(), consumer)),
                Err(moq_net::Error::Closed) => Err(SubscribeError::Closed),
                Err(error) => {
                    tracing::debug!(remote = %remote.fmt_short(), name, %error, "not announced");
                    Err(SubscribeError::NotAnnounced)
                }
            },
            () = is_closed(&mut closed) => Err(SubscribeError::Closed),
            error = session_lost => Err(error),
        }
    }

    /// What peers announce: the present names first, then changes.
    pub fn announced(&self) -> Announced {
        self.announced_by(None)
    }

    pub(crate) fn announced_by(&self, remote: Option<EndpointId>) -> Announced {
        Announced::new(self.clone(), remote)
    }

    /// Ends the session with a peer, and a dial to it.
    pub fn disconnect(&self, remote: EndpointId, code: u32, reason: &str) {
        // The connections first, at once; the actor then forgets the session and stops the dial.
        for link in self.inner.links_to(remote) {
            link.close(code, reason);
        }
        let _full_or_gone = self.inner.inbox.try_send(Message::Disconnect {
            scope: self.inner.id,
            remote,
            code,
            reason: reason.to_owned(),
        });
    }

    /// Ends the sessions with all peers at once, without waiting for anything. The scope stays
    /// open. For the moment in which a page goes away, and may come back.
    pub fn disconnect_all(&self, code: u32, reason: &str) {
        let remotes: SortedSet<EndpointId> = self
            .inner
            .links()
            .values()
            .map(|link| link.remote)
            .collect();
        for remote in remotes {
            self.disconnect(remote, code, reason);
        }
    }

    /// Closes the scope: withdraws what is published and closes every session; peers get the code
    /// and the reason. Returns when the sessions are gone. Closing twice is fine.
    pub async fn close(&self, code: u32, reason: &str) {
        self.inner.shut(code, reason);
        let (done, closed) = oneshot::channel();
        let message = Message::ScopeClosed {
            scope: self.inner.id,
            code,
            reason: reason.to_owned(),
            done: Some(done),
        };
        if self.inner.inbox.send(message).await.is_ok() {
            let _actor_gone = closed.await;
        }
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        *self.inner.closed.borrow()
    }
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope")
            .field("id", &self.inner.id)
            .finish_non_exhaustive()
    }
}

impl ScopeInner {
    fn published(&self) -> MutexGuard<'_, SortedMap<String, Publication>> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, SortedMap<EndpointId, Arc<SessionCore>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> MutexGuard<'_, VecDeque<(EndpointId, SessionError)>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sessions that stand now, and what happens from now on.
    pub(crate) fn session_events(
        &self,
    ) -> (VecDeque<Arc<SessionCore>>, broadcast::Receiver<CoreEvent>) {
        let sessions = self.sessions();
        (
            sessions.values().cloned().collect(),
            self.events.subscribe(),
        )
    }

    pub(crate) fn announced(&self) -> announce::Consumer {
        self.remote.consume().announced()
    }

    /// What names this endpoint in the routes of the scope.
    #[cfg(test)]
    pub(crate) fn hop(&self) -> moq_net::Hop {
        self.local.hop()
    }

    pub(crate) fn watch_closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Tells those who listen for incoming sessions.
    pub(crate) fn tell(&self, incoming: IncomingSession) {
        let _nobody_listens = self.incoming.send(incoming);
    }

    fn links(&self) -> MutexGuard<'_, SortedMap<ConnId, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links_to(&self, remote: EndpointId) -> Vec<Arc<Link>> {
        self.links()
            .values()
            .filter(|link| link.remote == remote)
            .cloned()
            .collect()
    }

    pub(crate) fn is_own(&self) -> bool {
        matches!(self.kind, Kind::Own)
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Whether this scope has the key.
    pub(crate) fn has_key(&self, key: &[u8; 32]) -> bool {
        matches!(&self.kind, Kind::Room { key: own } if own == key)
    }

    /// The path that `dialler` names in its SETUP to enter this scope at `listener`.
    pub(crate) fn path(&self, dialler: EndpointId, listener: EndpointId) -> String {
        match &self.kind {
            Kind::Own => String::new(),
            Kind::Room { key } => scope_path(key, dialler, listener),
        }
    }

    /// Stands in for the identity that peers of old MoQ versions do not declare: the same for every
    /// session of a peer in this scope, so that a reconnect is not taken for another peer.
    pub(crate) fn peer_hop(&self, remote: EndpointId) -> moq_net::Hop {
        let mut hasher = blake3::Hasher::new_derive_key("iroh-rooms 2026-11 moq peer hop");
        hasher.update(&self.local.hop().id().to_be_bytes());
        hasher.update(remote.as_bytes());
        let mut id = [0; 8];
        hasher.finalize_xof().fill(&mut id);
        // Old JavaScript peers read hops as numbers: 53 bits, and not zero.
        let id = (u64::from_be_bytes(id) >> 11).max(1);
        moq_net::Hop::new(id).unwrap_or_else(|_| moq_net::Hop::random())
    }

    /// What a session with `remote` serves, and where it puts what that peer announces.
    pub(crate) fn origins(
        &self,
        remote: EndpointId,
    ) -> Result<(origin::Producer, origin::Producer), moq_net::Error> {
        let below = self.remote.scope(remote.to_string(), &names())?;
        Ok((self.local.clone(), below))
    }

    /// Enters a connection, so that closing the scope closes it; it is closed at once if that has
    /// happened already.
    pub(crate) fn add_link(&self, link: Arc<Link>) {
        self.links().insert(link.id, link.clone());
        if self.is_closed() {
            link.close(crate::close::LEAVING, "closed");
        }
    }

    pub(crate) fn remove_link(&self, id: ConnId) {
        self.links().remove(&id);
    }

    /// A connection stands: a session opens, or goes on with it.
    pub(crate) fn stand(&self, link: Arc<Link>) -> Arc<SessionCore> {
        let mut sessions = self.sessions();
        if let Some(core) = sessions.get(&link.remote) {
            core.stand_on(link);
            return core.clone();
        }
        let core = SessionCore::new(link);
        sessions.insert(core.remote, core.clone());
        // Sent under the lock: a listener that joins now sees it once, here or in the map.
        let _nobody_listens = self.events.send(CoreEvent::Opened(core.clone()));
        core
    }

    pub(crate) fn core(&self, remote: EndpointId) -> Option<Arc<SessionCore>> {
        self.sessions().get(&remote).cloned()
    }

    /// The session is over.
    pub(crate) fn over(&self, remote: EndpointId, error: SessionError) {
        let mut sessions = self.sessions();
        if let Some(core) = sessions.remove(&remote) {
            core.end(error.clone());
            let mut ended = self.ended();
            ended.retain(|(peer, _)| *peer != remote);
            if ended.len() >= ENDED_CAP {
                ended.pop_front();
            }
            ended.push_back((remote, error.clone()));
            drop(ended);
            let _nobody_listens = self.events.send(CoreEvent::Closed(remote, error));
        }
    }

    /// What can be done at once about closing.
    pub(crate) fn shut(&self, code: u32, reason: &str) {
        self.closed.send_replace(true);
        let links: Vec<_> = self.links().values().cloned().collect();
        for link in links {
            link.close(code, reason);
        }
        let published = std::mem::take(&mut *self.published());
        drop(published);
    }
}

impl Drop for ScopeInner {
    fn drop(&mut self) {
        self.shut(crate::close::LEAVING, "");
    }
}

/// The path of a room's scope: `/room/` and a tag that only those can compute who know the key, and
/// that is of no use to any other pair of endpoints.
pub fn scope_path(key: &[u8; 32], dialler: EndpointId, listener: EndpointId) -> String {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(b"iroh-rooms/moq/1");
    hasher.update(dialler.as_bytes());
    hasher.update(listener.as_bytes());
    let mut tag = [0; 16];
    hasher.finalize_xof().fill(&mut tag);
    format!("/room/{}", data_encoding::HEXLOWER.encode(&tag))
}

/// Every name of up to [`MAX_NAME_PARTS`] parts.
fn names() -> Patterns {
    (1..=MAX_NAME_PARTS)
        .filter_map(|parts| Pattern::from_str(&vec!["*"; parts].join("/")).ok())
        .collect()
}

pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let good = !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name.split('/').count() <= MAX_NAME_PARTS
        && name
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with('.') && !part.contains('*'));
    if good {
        Ok(())
    } else {
        Err(Error::InvalidArgument(format!(
            "a broadcast's name has 1 to {MAX_NAME_BYTES} bytes and at most {MAX_NAME_PARTS} parts \
             between slashes, none empty, beginning with a dot or with an asterisk in it"
        )))
    }
}

/// Answers requests for a published broadcast, until it is withdrawn, replaced or has ended.
async fn serve(
    scope: Weak<ScopeInner>,
    dynamic: Weak<origin::Dynamic>,
    name: String,
    broadcast: Broadcast,
) {
    let ended = async {
        broadcast.closed().await;
        broadcast.drained().await;
        time::sleep(LAST_WORDS).await;
    };
    let missing = async {
        broadcast.refuse_missing_tracks().await;
        std::future::pending::<()>().await;
    };
    tokio::pin!(ended, missing);
    loop {
        // Groups that nobody reads any more are dropped in time even if nothing is written.
        let sweep = broadcast.sweep(moq_now());
        let pause = sweep.map_or(Duration::from_secs(60), |at| {
            at.saturating_duration_since(moq_now())
        });
        let request = kio::wait(|waiter| {
            // Held only while polled: the map's handle is what keeps the announcement alive.
            match dynamic.upgrade() {
                Some(dynamic) => dynamic.poll_requested_broadcast(waiter).map(Some),
                None => Poll::Ready(None),
            }
        });
        tokio::select! {
            biased;
            () = &mut ended => break,
            () = &mut missing => {}
            request = request => match request {
                Some(Ok(request)) if request.path().as_str() == name => {
                    request.accept(broadcast.consume());
                }
                Some(Ok(request)) => request.reject(moq_net::Error::NotFound),
                Some(Err(_)) | None => {
                    // Withdrawn or replaced. Those who read an ended one get the rest of it.
                    if broadcast.is_closed() {
                        broadcast.drained().await;
                    }
                    return;
                }
            },
            () = time::sleep(pause.max(Duration::from_millis(100))) => {}
        }
    }
    // It ended by itself. What is published under its name by now stays.
    if let Some(scope) = scope.upgrade() {
        let mut published = scope.published();
        if published
            .get(&name)
            .is_some_and(|current| current.broadcast.is_same(&broadcast))
        {
            let publication = published.remove(&name);
            drop(published);
            drop(publication);
        }
    }
}

fn moq_now() -> moq_net::time::Instant {
    moq_net::time::Instant::now()
}

/// Waits for the end of a scope, without holding what a watch lends: that cannot change threads.
pub(crate) async fn is_closed(closed: &mut watch::Receiver<bool>) {
    drop(closed.wait_for(|closed| *closed).await);
}

/// Runs a task until the scope is closed, whoever still holds a handle of it.
async fn while_open(mut closed: watch::Receiver<bool>, task: impl Future) {
    tokio::select! {
        biased;
        () = is_closed(&mut closed) => {}
        _end = task => {}
    }
}

/// Numbers the callers of [`Scope::connect`].
static NEXT_WAITER: AtomicU64 = AtomicU64::new(0);

/// A caller of [`Scope::connect`]. Dropped before the answer it gives up.
struct Waiting<'a> {
    inbox: &'a mpsc::Sender<Message>,
    key: Key,
    waiter: WaiterId,
}

impl Waiting<'_> {
    fn answered(self) {
        std::mem::forget(self);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // An actor too busy to hear it stops the dial when its time is over.
        let _full_or_gone = self.inbox.try_send(Message::GiveUp {
            key: self.key,
            waiter: self.waiter,
        });
    }
}
