//! The actor behind [`crate::Moq`].
//!
//! One task for each connection runs its handshake and then MoQ on it. The actor owns the table of
//! `sessions.rs` and does what it says. A connection's life:
//!
//! 1. Accepted: the protocol handler hands it to the actor. Its task reads the SETUP, finds the
//!    scope that the path names, asks whoever decides, and only then serves anything.
//!    Dialled: its task dials, sends the SETUP and waits until the listener answers.
//! 2. The task reports the connection as established. The actor asks the table; a session opens, or
//!    goes on with the new connection.
//! 3. The task runs MoQ until the connection is closed, by whomever, and reports that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use iroh::{
    Endpoint, EndpointAddr, EndpointId,
    endpoint::{Connection, QuicTransportConfig},
};
use iroh_rooms_sorted::SortedMap;
use n0_future::time::{self, Instant};
use tokio::sync::{mpsc, oneshot};

use crate::{
    close,
    error::{Cause, Error, SessionError},
    handshake::{AcceptTask, Accepted, DialTask, Established, Report, accept, dial},
    incoming::IncomingSession,
    registry::Registry,
    scope::Scope,
    session::{Link, Session, SessionCore},
    sessions::{ConnId, DialId, Input, Key, Output, ScopeId, Table, WaiterId},
    stats::{Counters, count, spawn},
};

/// Reports of connection tasks that wait for the actor; the tasks wait to enter more.
const REPORTS_CAP: usize = 256;
/// Handshakes of incoming connections in progress; beyond, connections are refused.
pub const MAX_HANDSHAKES: usize = 64;
/// The same for one peer, so that no peer keeps the others out. A peer has one for each room that
/// it enters at once.
pub const MAX_HANDSHAKES_OF_PEER: usize = 16;
/// Connections with peers, unless [`crate::Config::max_connections`] says another number.
pub const MAX_CONNECTIONS: usize = 1024;
/// How long closing waits for the last connections to be gone.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What handles ask of the actor.
pub(crate) enum Message {
    Incoming(Connection),
    Connect {
        scope: ScopeId,
        addr: EndpointAddr,
        waiter: WaiterId,
        reply: oneshot::Sender<Result<Arc<SessionCore>, Error>>,
    },
    GiveUp {
        key: Key,
        waiter: WaiterId,
    },
    Disconnect {
        scope: ScopeId,
        remote: EndpointId,
        code: u32,
        reason: String,
    },
    ScopeClosed {
        scope: ScopeId,
        code: u32,
        reason: String,
        done: Option<oneshot::Sender<()>>,
    },
    Shutdown {
        done: oneshot::Sender<()>,
    },
}

/// An established connection.
struct Conn {
    link: Arc<Link>,
    key: Key,
}

/// Owns the table of sessions and does what it says.
pub(crate) struct Actor {
    endpoint: Endpoint,
    max_connections: usize,
    dialling: Option<QuicTransportConfig>,
    registry: Arc<Registry>,
    counters: Arc<Counters>,
    table: Table,
    started: Instant,
    /// Connections that are established and not closed.
    conns: SortedMap<ConnId, Conn>,
    /// Dropping the sender stops the dial.
    dials: SortedMap<DialId, oneshot::Sender<()>>,
    waiters: SortedMap<WaiterId, oneshot::Sender<Result<Arc<SessionCore>, Error>>>,
    /// Where to find the peers that are about to be dialled.
    addrs: SortedMap<Key, EndpointAddr>,
    /// What the standing connection had received when the key's connection was replaced.
    baselines: SortedMap<ConnId, u64>,
    /// Who waits for all connections of a scope to be gone.
    closing: Vec<(ScopeId, Instant, oneshot::Sender<()>)>,
    /// Incoming connections whose handshake is in progress, by peer.
    handshakes: SortedMap<EndpointId, usize>,
    next_conn: Arc<AtomicU64>,
    reports: mpsc::Sender<Report>,
}

impl Actor {
    pub(crate) async fn run(
        endpoint: Endpoint,
        max_connections: usize,
        dialling: Option<QuicTransportConfig>,
        registry: Arc<Registry>,
        counters: Arc<Counters>,
        mut inbox: mpsc::Receiver<Message>,
    ) {
        let (reports, mut reported) = mpsc::channel(REPORTS_CAP);
        let table = Table::new(endpoint.id());
        let mut actor = Self {
            endpoint,
            max_connections,
            dialling,
            registry,
            counters,
            table,
            started: Instant::now(),
            conns: SortedMap::new(),
            dials: SortedMap::new(),
            waiters: SortedMap::new(),
            addrs: SortedMap::new(),
            baselines: SortedMap::new(),
            closing: Vec::new(),
            handshakes: SortedMap::new(),
            next_conn: Arc::default(),
            reports,
        };
        let mut finished = None;
        loop {
            let deadline = actor.deadline();
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(Message::Shutdown { done }) => {
                        finished = Some(done);
                        break;
                    }
                    Some(message) => actor.message(message),
                    None => break,
                },
                Some(report) = reported.recv() => actor.report(report),
                () = sleep_until(deadline) => actor.tick(),
            }
        }
        // Nobody can ask any more, and what is left ends.
        inbox.close();
        actor.close_everything();
        let limit = Instant::now() + CLOSE_TIMEOUT;
        while !actor.conns.is_empty() {
            let left = limit.saturating_duration_since(Instant::now());
            match time::timeout(left, reported.recv()).await {
                Ok(Some(report)) => actor.report(report),
                _ => break,
            }
        }
        while let Ok(message) = inbox.try_recv() {
            if let Message::Shutdown { done }
            | Message::ScopeClosed {
                done: Some(done), ..
            } = message
            {
                let _caller_gone = done.send(());
            }
        }
        if let Some(done) = finished {
            let _caller_gone = done.send(());
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn deadline(&self) -> Option<Instant> {
        let table = self.table.deadline().map(|at| self.started + at);
        let closing = self.closing.iter().map(|(_, at, _)| *at).min();
        [table, closing].into_iter().flatten().min()
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Incoming(connection) => self.incoming(connection),
            Message::Connect {
                scope,
                addr,
                waiter,
                reply,
            } => {
                let key = Key {
                    scope,
                    remote: addr.id,
                };
                if self
                    .registry
                    .get(scope)
                    .is_none_or(|scope| scope.is_closed())
                {
                    let _caller_gone = reply.send(Err(Error::Closed("the scope")));
                    return;
                }
                self.waiters.insert(waiter, reply);
                self.addrs.insert(key, addr);
                self.step(Input::Connect { key, waiter }, "", None);
                self.addrs.remove(&key);
            }
            Message::GiveUp { key, waiter } => {
                self.waiters.remove(&waiter);
                self.step(Input::GiveUp { key, waiter }, "", None);
            }
            Message::Disconnect {
                scope,
                remote,
                code,
                reason,
            } => {
                let key = Key { scope, remote };
                let error = SessionError::local(code, &reason);
                self.step(Input::Disconnect { key, code }, &reason, Some(error.into()));
            }
            Message::ScopeClosed {
                scope,
                code,
                reason,
                done,
            } => {
                self.close_scope(scope, code, &reason);
                if let Some(done) = done {
                    self.closing
                        .push((scope, Instant::now() + CLOSE_TIMEOUT, done));
                    self.settle_closing();
                }
            }
            // Handled by the loop.
            Message::Shutdown { .. } => {}
        }
    }

    fn close_scope(&mut self, scope: ScopeId, code: u32, reason: &str) {
        for key in self.table.keys(scope) {
            let error = SessionError::local(code, reason);
            self.step(Input::Disconnect { key, code }, reason, Some(error.into()));
        }
    }

    fn close_everything(&mut self) {
        for scope in self.registry.open() {
            scope.shut(close::LEAVING, "");
            self.close_scope(scope.id, close::LEAVING, "");
        }
        for conn in self.conns.values() {
            conn.link.close(close::LEAVING, "");
        }
        self.dials.clear();
        self.waiters.clear();
        self.closing.clear();
    }

    /// Tells those who wait for a scope's end when it is there, or takes too long.
    fn settle_closing(&mut self) {
        let now = Instant::now();
        let conns = &self.conns;
        self.closing
            .extract_if(.., |(scope, until, _)| {
                *until <= now || conns.values().all(|conn| conn.key.scope != *scope)
            })
            .for_each(|(_, _, done)| {
                let _caller_gone = done.send(());
            });
    }

    fn tick(&mut self) {
        self.step(Input::Tick, "", None);
        self.settle_closing();
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Accepted {
                remote,
                established,
            } => {
                if let Some(count) = self.handshakes.get_mut(&remote) {
                    *count -= 1;
                    if *count == 0 {
                        self.handshakes.remove(&remote);
                    }
                }
                let Some(Established {
                    key,
                    link,
                    accepted,
                }) = established
                else {
                    return;
                };
                if !self.enter(key, &link) {
                    return;
                }
                self.step(Input::Accepted { key, conn: link.id }, "", None);
                self.tell(key, accepted);
            }
            Report::Dialled { key, dial, result } => {
                self.dials.remove(&dial);
                match result {
                    Ok(Established { link, .. }) if self.enter(key, &link) => {
                        let conn = link.id;
                        self.step(Input::Dialled { key, dial, conn }, "", None);
                    }
                    Ok(_) => {
                        let error = Error::Closed("the scope");
                        self.step(Input::DialFailed { key, dial }, "", Some(error));
                    }
                    Err(error) => {
                        count(&self.counters.dials_failed);
                        tracing::debug!(remote = %key.remote.fmt_short(), %error, "dial failed");
                        self.step(Input::DialFailed { key, dial }, "", Some(error));
                    }
                }
            }
            Report::Closed { key, conn } => {
                let error = self.conns.get(&conn).map(|conn| conn.link.error());
                self.step(Input::Closed { key, conn }, "", error.map(Error::Session));
                self.conns.remove(&conn);
                self.baselines.remove(&conn);
                self.settle_closing();
            }
        }
    }

    /// Enters an established connection; false if its scope is closed by now.
    fn enter(&mut self, key: Key, link: &Arc<Link>) -> bool {
        if self
            .registry
            .get(key.scope)
            .is_none_or(|scope| scope.is_closed())
        {
            link.close(close::LEAVING, "closed");
            return false;
        }
        self.conns.insert(
            link.id,
            Conn {
                link: link.clone(),
                key,
            },
        );
        true
    }

    /// Tells that an accepted session stands.
    fn tell(&self, key: Key, accepted: Option<Accepted>) {
        let Some(accepted) = accepted else { return };
        let Some(scope) = self.registry.get(key.scope) else {
            return;
        };
        let Some(core) = scope.core(key.remote) else {
            return;
        };
        let session = Session::new(core, Scope::from_inner(scope.clone()));
        match accepted {
            Accepted::Reply(reply) => {
                let _caller_gone = reply.send(session);
            }
            Accepted::Tell => {
                scope.tell(IncomingSession::established(session));
            }
        }
    }

    fn incoming(&mut self, connection: Connection) {
        let remote = connection.remote_id();
        let total: usize = self.handshakes.values().sum();
        let of_peer = self.handshakes.get(&remote).copied().unwrap_or(0);
        let full = self.conns.len() + total >= self.max_connections;
        if total >= MAX_HANDSHAKES
            || of_peer >= MAX_HANDSHAKES_OF_PEER
            || (full && !self.is_connected(remote))
        {
            count(&self.counters.busy);
            connection.close(close::REJECTED.into(), b"busy");
            return;
        }
        self.handshakes.insert(remote, of_peer + 1);
        let task = AcceptTask {
            connection,
            me: self.endpoint.id(),
            registry: self.registry.clone(),
            counters: self.counters.clone(),
            next_conn: self.next_conn.clone(),
            reports: self.reports.clone(),
        };
        spawn(&self.counters, accept(task));
    }

    /// Whether a peer has an established connection, in any scope.
    fn is_connected(&self, remote: EndpointId) -> bool {
        self.conns.values().any(|conn| conn.key.remote == remote)
    }

    /// Asks the table and does what it says. `reason` goes with closed connections; `error` is what
    /// those get who waited, and how a session ended.
    fn step(&mut self, input: Input, reason: &str, error: Option<Error>) {
        let outputs = self.table.handle(input, self.now());
        if !matches!(input, Input::Tick) || !outputs.is_empty() {
            tracing::trace!(?input, ?outputs, "sessions");
        }
        for output in outputs {
            self.perform(output, reason, error.as_ref());
        }
        self.counters
            .sessions
            .store(self.table.standing() as u64, Ordering::Relaxed);
    }

    fn perform(&mut self, output: Output, reason: &str, error: Option<&Error>) {
        match output {
            Output::Dial { key, dial } => self.start_dial(key, dial),
            Output::CancelDial { dial, .. } => {
                self.dials.remove(&dial);
            }
            Output::Resolve { key, waiter } => {
                let Some(reply) = self.waiters.remove(&waiter) else {
                    return;
                };
                let core = self
                    .registry
                    .get(key.scope)
                    .and_then(|scope| scope.core(key.remote));
                let _caller_gone = reply.send(core.ok_or(Error::Closed("the session")));
            }
            Output::Fail { waiter, .. } => {
                let Some(reply) = self.waiters.remove(&waiter) else {
                    return;
                };
                let error = error.cloned().unwrap_or(Error::Closed("the session"));
                let _caller_gone = reply.send(Err(error));
            }
            Output::Refuse { waiter, .. } => {
                let Some(reply) = self.waiters.remove(&waiter) else {
                    return;
                };
                let _caller_gone = reply.send(Err(Error::Limit("callers waiting for a dial")));
            }
            Output::Stand { key, conn } => {
                let Some(scope) = self.registry.get(key.scope) else {
                    return;
                };
                let Some(conn) = self.conns.get(&conn) else {
                    return;
                };
                scope.stand(conn.link.clone());
            }
            Output::Retire {
                standing, retiring, ..
            } => {
                self.baselines.insert(retiring, self.received(standing));
            }
            Output::Check {
                key,
                standing,
                retiring,
            } => {
                let before = self.baselines.get(&retiring).copied().unwrap_or(0);
                let alive = self.received(standing) > before;
                self.step(
                    Input::Checked {
                        key,
                        standing,
                        retiring,
                        alive,
                    },
                    "",
                    None,
                );
            }
            Output::Close { conn, code, .. } => {
                match code {
                    close::GLARE => count(&self.counters.glares),
                    close::REPLACED => count(&self.counters.replaced),
                    _ => {}
                }
                let Some(conn) = self.conns.get(&conn) else {
                    return;
                };
                conn.link.close(code, reason);
            }
            Output::Over { key } => {
                let Some(scope) = self.registry.get(key.scope) else {
                    return;
                };
                let error = match error {
                    Some(Error::Session(error)) => error.clone(),
                    Some(error) => SessionError {
                        code: 0,
                        reason: error.to_string(),
                        cause: Cause::Transport,
                    },
                    None => SessionError::local(close::NORMAL, reason),
                };
                scope.over(key.remote, error);
            }
        }
    }

    /// Packets a connection has received.
    fn received(&self, conn: ConnId) -> u64 {
        let conn = self.conns.get(&conn);
        conn.map_or(0, |conn| conn.link.connection.stats().udp_rx.datagrams)
    }

    fn start_dial(&mut self, key: Key, number: DialId) {
        let Some(scope) = self.registry.get(key.scope) else {
            return;
        };
        count(&self.counters.dials);
        let (cancel, cancelled) = oneshot::channel();
        self.dials.insert(number, cancel);
        let addr = self
            .addrs
            .get(&key)
            .cloned()
            .unwrap_or_else(|| key.remote.into());
        let task = DialTask {
            endpoint: self.endpoint.clone(),
            config: self.dialling.clone(),
            addr,
            scope,
            key,
            dial: number,
            cancelled,
            next_conn: self.next_conn.clone(),
            reports: self.reports.clone(),
        };
        spawn(&self.counters, dial(task));
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
