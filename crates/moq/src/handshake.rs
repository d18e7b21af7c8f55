//! The task of one connection: its handshake, on either side, and then MoQ until it is closed.

use std::{
    future::Future,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use iroh::{
    Endpoint, EndpointAddr, EndpointId,
    endpoint::{ConnectError, ConnectOptions, Connection, QuicTransportConfig},
};
use n0_future::time;
use tokio::sync::{mpsc, oneshot};

use crate::{
    ALPNS, close,
    error::Error,
    incoming::{Decision, IncomingSession},
    moq::Accept,
    registry::Registry,
    scope::{ScopeInner, is_closed},
    session::{Link, Session},
    sessions::{ConnId, DialId, Key},
    stats::{Counters, count},
    transport::Transport,
};

/// How long a listener waits for the SETUP.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an incoming session may stay undecided.
pub const DECISION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a dial may take, with everything.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// The versions that carry a path, which a room needs.
const ROOM_ALPNS: usize = 2;

/// What connection tasks report to the actor.
pub(crate) enum Report {
    /// An accepted connection has a session in a scope, or not.
    Accepted {
        remote: EndpointId,
        established: Option<Established>,
    },
    /// A dial came to an end.
    Dialled {
        key: Key,
        dial: DialId,
        result: Result<Established, Error>,
    },
    /// An established connection is closed.
    Closed { key: Key, conn: ConnId },
}

/// An established connection, for the actor.
pub(crate) struct Established {
    pub(crate) key: Key,
    pub(crate) link: Arc<Link>,
    /// Who waits for the accepted session to stand.
    pub(crate) accepted: Option<Accepted>,
}

/// Who waits for an accepted session.
pub(crate) enum Accepted {
    /// Whoever called accept.
    Reply(oneshot::Sender<Session>),
    /// The listeners, who hear of it now.
    Tell,
}

/// The version of MoQ that a connection speaks.
fn version(connection: &Connection) -> Option<&'static str> {
    match connection.alpn() {
        b"moq-lite-06" => Some("moq-lite-06"),
        b"moq-lite-05" => Some("moq-lite-05"),
        b"moq-lite-04" => Some("moq-lite-04"),
        b"moq-lite-03" => Some("moq-lite-03"),
        _ => None,
    }
}

fn moq_now() -> moq_net::time::Instant {
    moq_net::time::Instant::now()
}

/// What a dial needs.
pub(crate) struct DialTask {
    pub(crate) endpoint: Endpoint,
    pub(crate) config: Option<QuicTransportConfig>,
    pub(crate) addr: EndpointAddr,
    pub(crate) scope: Arc<ScopeInner>,
    pub(crate) key: Key,
    pub(crate) dial: DialId,
    pub(crate) cancelled: oneshot::Receiver<()>,
    pub(crate) next_conn: Arc<AtomicU64>,
    pub(crate) reports: mpsc::Sender<Report>,
}

/// Dials and then runs the connection until its end.
pub(crate) async fn dial(mut task: DialTask) {
    let attempt = async {
        let result = time::timeout(
            DIAL_TIMEOUT,
            connect(
                &task.endpoint,
                task.config,
                task.addr,
                &task.scope,
                &task.next_conn,
            ),
        );
        result
            .await
            .unwrap_or(Err(Error::Timeout("dialling the peer")))
    };
    let result = tokio::select! {
        biased;
        // The sender never sends: it is dropped when nobody needs the result.
        _ = &mut task.cancelled => Err(Error::Closed("the dial")),
        result = attempt => result,
    };
    let (key, dial, scope) = (task.key, task.dial, Arc::downgrade(&task.scope));
    drop(task.scope);
    match result {
        Err(error) => {
            let _actor_gone = task
                .reports
                .send(Report::Dialled {
                    key,
                    dial,
                    result: Err(error),
                })
                .await;
        }
        Ok((link, session, driver)) => {
            if let Some(scope) = scope.upgrade() {
                scope.add_link(link.clone());
            }
            let established = Established {
                key,
                link: link.clone(),
                accepted: None,
            };
            let report = Report::Dialled {
                key,
                dial,
                result: Ok(established),
            };
            if task.reports.send(report).await.is_err() {
                link.close(close::LEAVING, "");
            }
            driver.await;
            drop(session);
            if let Some(scope) = scope.upgrade() {
                scope.remove_link(link.id);
            }
            let _actor_gone = task
                .reports
                .send(Report::Closed { key, conn: link.id })
                .await;
        }
    }
}

/// A connection with MoQ on it: its link, MoQ's own handle, and what drives it.
type Running<F> = (Arc<Link>, moq_net::Session, F);

#[cfg(not(target_family = "wasm"))]
type Driver = std::pin::Pin<Box<dyn Future<Output = moq_net::Error> + Send>>;
#[cfg(target_family = "wasm")]
type Driver = std::pin::Pin<Box<dyn Future<Output = moq_net::Error>>>;

async fn connect(
    endpoint: &Endpoint,
    config: Option<QuicTransportConfig>,
    addr: EndpointAddr,
    scope: &ScopeInner,
    next_conn: &AtomicU64,
) -> Result<Running<Driver>, Error> {
    let remote = addr.id;
    let offered = if scope.is_own() {
        ALPNS.len()
    } else {
        ROOM_ALPNS
    };
    let mut alpns = ALPNS.iter().take(offered).map(|alpn| alpn.to_vec());
    let newest = alpns.next().unwrap_or_default();
    let mut options = ConnectOptions::new().with_additional_alpns(alpns.collect());
    if let Some(config) = config {
        options = options.with_transport_config(config);
    }
    let refused = |error: ConnectError| Error::Connect(Arc::new(error));
    let connecting = endpoint
        .connect_with_opts(addr, &newest, options)
        .await
        .map_err(|error| refused(error.into()))?;
    let connection = connecting.await.map_err(|error| refused(error.into()))?;
    let version = version(&connection)
        .ok_or_else(|| Error::Protocol("the peer chose an unknown version".to_owned()))?;
    let link = Link::new(
        next_conn.fetch_add(1, Ordering::Relaxed),
        connection,
        version,
    );

    let transport = Transport::new(link.connection.clone(), scope.counters.clone());
    let mut confirmed = transport.confirmed();
    let (local, below) = scope.origins(remote).map_err(protocol)?;
    let mut client = moq_net::Client::new()
        .with_publisher(&local)
        .with_subscriber(below)
        .with_peer_hop(scope.peer_hop(remote));
    let path = scope.path(endpoint.id(), remote);
    if !path.is_empty() {
        client = client.with_path(path);
    }
    let (session, driver) = client
        .connect_lite(moq_now(), transport)
        .await
        .map_err(protocol)?;
    let mut driver: Driver = Box::pin(moq_net::time::run(driver));
    // A listener opens its first stream when it has accepted the SETUP. Before -05 there is no
    // SETUP, and a listener that only serves opens nothing.
    if matches!(version, "moq-lite-06" | "moq-lite-05") {
        tokio::select! {
            biased;
            _ = confirmed.wait_for(|confirmed| *confirmed) => {}
            _ = &mut driver => return Err(Error::Session(link.error())),
        }
    }
    Ok((link, session, driver))
}

fn protocol(error: moq_net::Error) -> Error {
    Error::Protocol(error.to_string())
}

/// What an incoming connection needs.
pub(crate) struct AcceptTask {
    pub(crate) connection: Connection,
    pub(crate) me: EndpointId,
    pub(crate) registry: Arc<Registry>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) next_conn: Arc<AtomicU64>,
    pub(crate) reports: mpsc::Sender<Report>,
}

/// Accepts a connection, or not, and then runs it until its end.
pub(crate) async fn accept(task: AcceptTask) {
    let (reports, remote) = (task.reports.clone(), task.connection.remote_id());
    let connection = task.connection.clone();
    let done = tokio::select! {
        biased;
        () = reports.closed() => {
            // MoQ is shut down.
            connection.close(close::LEAVING.into(), b"closed");
            return;
        }
        done = shake_hands(task) => done,
    };
    let Some((established, session, driver, scope)) = done else {
        let established = None;
        let _actor_gone = reports
            .send(Report::Accepted {
                remote,
                established,
            })
            .await;
        return;
    };
    let (key, link) = (established.key, established.link.clone());
    let established = Some(established);
    let report = Report::Accepted {
        remote,
        established,
    };
    if reports.send(report).await.is_err() {
        link.close(close::LEAVING, "");
    }
    driver.await;
    drop(session);
    if let Some(scope) = scope.upgrade() {
        scope.remove_link(link.id);
    }
    let _actor_gone = reports.send(Report::Closed { key, conn: link.id }).await;
}

/// Step 1 of an accepted connection's life. Every way out without a session closes the connection
/// and counts why.
async fn shake_hands(
    task: AcceptTask,
) -> Option<(Established, moq_net::Session, Driver, Weak<ScopeInner>)> {
    let AcceptTask {
        connection,
        me,
        registry,
        counters,
        next_conn,
        reports: _,
    } = task;
    let remote = connection.remote_id();
    let Some(version) = version(&connection) else {
        count(&counters.bad_handshakes);
        connection.close(close::REJECTED.into(), b"unknown version");
        return None;
    };
    let link = Link::new(
        next_conn.fetch_add(1, Ordering::Relaxed),
        connection,
        version,
    );

    let transport = Transport::new(link.connection.clone(), counters.clone());
    let server = moq_net::Server::new();
    let setup = server.accept_request_lite(moq_now(), transport);
    let handshake = match time::timeout(HANDSHAKE_TIMEOUT, setup).await {
        Ok(Ok(handshake)) => handshake,
        Ok(Err(error)) => {
            count(&counters.bad_handshakes);
            tracing::debug!(remote = %remote.fmt_short(), %error, "bad handshake");
            // MoQ has closed it with its own code; this covers what it leaves open.
            link.close(close::REJECTED, "bad handshake");
            return None;
        }
        Err(_) => {
            count(&counters.bad_handshakes);
            link.close(close::REJECTED, "handshake timed out");
            return None;
        }
    };
    // A program that was given a URL says `/` where it means nothing in particular.
    let path = match handshake.path() {
        "/" => "",
        path => path,
    };
    let Some(scope) = registry.find(path, remote, me) else {
        count(&counters.unknown_scope);
        link.close(close::UNKNOWN_SCOPE, "unknown scope");
        return None;
    };

    let accepted = match scope.accept {
        Accept::All => Some(Accepted::Tell),
        Accept::Manual => {
            let (decide, decision) = oneshot::channel();
            scope.tell(IncomingSession::undecided(remote, decide));
            let mut closed = scope.watch_closed();
            let decision = tokio::select! {
                biased;
                decision = time::timeout(DECISION_TIMEOUT, decision) => decision,
                () = is_closed(&mut closed) => {
                    link.close(close::LEAVING, "closed");
                    return None;
                }
                _ = link.connection.closed() => {
                    count(&counters.rejected);
                    return None;
                }
            };
            match decision {
                Ok(Ok(Decision::Accept(reply))) => Some(Accepted::Reply(reply)),
                Ok(Ok(Decision::Reject) | Err(_)) => {
                    count(&counters.rejected);
                    link.close(close::REJECTED, "rejected");
                    return None;
                }
                Err(_) => {
                    count(&counters.rejected);
                    link.close(close::REJECTED, "undecided");
                    return None;
                }
            }
        }
    };

    let started = match scope.origins(remote) {
        Ok((local, below)) => {
            let handshake = handshake
                .with_publisher(&local)
                .with_subscriber(below)
                .with_peer_hop(scope.peer_hop(remote));
            handshake.ok().await
        }
        Err(error) => Err(error),
    };
    let (session, driver) = match started {
        Ok(started) => started,
        Err(error) => {
            count(&counters.bad_handshakes);
            tracing::debug!(remote = %remote.fmt_short(), %error, "MoQ did not start");
            link.close(close::REJECTED, "bad handshake");
            return None;
        }
    };
    scope.add_link(link.clone());
    let key = Key {
        scope: scope.id,
        remote,
    };
    let driver: Driver = Box::pin(moq_net::time::run(driver));
    Some((
        Established {
            key,
            link,
            accepted,
        },
        session,
        driver,
        Arc::downgrade(&scope),
    ))
}
