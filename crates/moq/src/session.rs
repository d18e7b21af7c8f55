//! The relation to one peer in one scope.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use iroh::{EndpointId, endpoint::Connection};
use tokio::sync::watch;

use crate::{
    announced::Announced,
    broadcast::Broadcast,
    error::{Error, SessionError, SubscribeError},
    scope::Scope,
    sessions::ConnId,
    track::RemoteBroadcast,
};

/// A session with one peer in one scope.
///
/// There is one for each peer and scope, however many callers ask for it. It stands for the
/// relation, not for a connection: when both sides dial at once or the peer reconnects, the
/// connection underneath is exchanged and the session goes on. Clones share it; dropping them does
/// not end it.
#[derive(Clone)]
pub struct Session {
    core: Arc<SessionCore>,
    scope: Scope,
}

impl Session {
    pub(crate) fn new(core: Arc<SessionCore>, scope: Scope) -> Self {
        Self { core, scope }
    }

    /// The peer.
    pub fn remote_id(&self) -> EndpointId {
        self.core.remote
    }

    /// The MoQ version of the present connection, for example `moq-lite-06`.
    pub fn version(&self) -> &'static str {
        self.core.link().version
    }

    /// The scope this session is in.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The present connection. Do not close it: [`Session::close`] does.
    pub fn conn(&self) -> Connection {
        self.core.link().connection.clone()
    }

    /// Counters of the present connection.
    pub fn stats(&self) -> SessionStats {
        let connection = &self.core.link().connection;
        let stats = connection.stats();
        SessionStats {
            rtt: selected_rtt(connection),
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
            bytes_lost: stats.lost_bytes,
            packets_sent: stats.sent_packets,
            packets_received: stats.udp_rx.datagrams,
            packets_lost: stats.lost_packets,
            path: selected_path(connection),
        }
    }

    /// Ends the session; the peer learns the code and the reason. See [`crate::close`].
    pub fn close(&self, code: u32, reason: &str) {
        self.scope.disconnect(self.core.remote, code, reason);
    }

    /// Waits for the end of the session and says how it came.
    pub async fn closed(&self) -> SessionError {
        self.core.closed().await
    }

    /// Waits until this peer announces the broadcast and takes it.
    pub async fn subscribe(&self, name: &str) -> Result<RemoteBroadcast, SubscribeError> {
        tokio::select! {
            biased;
            broadcast = self.scope.subscribe(self.core.remote, name) => broadcast,
            error = self.closed() => Err(SubscribeError::SessionClosed(error)),
        }
    }

    /// Publishes a broadcast in the session's scope: its other peers get it as well.
    pub fn publish(&self, name: &str, broadcast: &Broadcast) -> Result<(), Error> {
        self.scope.publish(name, broadcast)
    }

    /// What this peer announces: the present names first, then changes.
    pub fn announced(&self) -> Announced {
        self.scope.announced_by(Some(self.core.remote))
    }

    /// Where what the peer is offered comes from: the session's scope. The name is that of the
    /// specification.
    pub fn origin_producer(&self) -> &Scope {
        &self.scope
    }

    /// Where what the peer offers comes in: the same as [`Session::announced`]. The name is that of
    /// the specification.
    pub fn origin_consumer(&self) -> Announced {
        self.announced()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("remote", &format_args!("{}", self.core.remote.fmt_short()))
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

/// Counters of a session's present connection, as QUIC keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Round trip time of the path in use.
    pub rtt: Option<Duration>,
    /// Bytes sent, with everything.
    pub bytes_sent: u64,
    /// Bytes received, with everything.
    pub bytes_received: u64,
    /// Bytes taken for lost.
    pub bytes_lost: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Datagrams received.
    pub packets_received: u64,
    /// Packets taken for lost.
    pub packets_lost: u64,
    /// The kind of path in use.
    pub path: Option<PathKind>,
}

/// How packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// Through a relay.
    Relay,
    /// From address to address.
    Direct,
}

impl PathKind {
    /// `relay` or `direct`.
    pub fn as_str(self) -> &'static str {
        match self {
            PathKind::Relay => "relay",
            PathKind::Direct => "direct",
        }
    }
}

impl std::fmt::Display for PathKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The round trip time of the path that a connection uses.
pub(crate) fn selected_rtt(connection: &Connection) -> Option<Duration> {
    let paths = connection.paths();
    let selected = paths.iter().find(|path| path.is_selected());
    selected
        .or_else(|| paths.iter().next())
        .map(|path| path.rtt())
}

fn selected_path(connection: &Connection) -> Option<PathKind> {
    let paths = connection.paths();
    let selected = paths.iter().find(|path| path.is_selected());
    let path = selected.or_else(|| paths.iter().next())?;
    Some(if path.is_relay() {
        PathKind::Relay
    } else {
        PathKind::Direct
    })
}

/// One connection that carries, carried or will carry a session.
pub(crate) struct Link {
    pub(crate) id: ConnId,
    pub(crate) remote: EndpointId,
    pub(crate) connection: Connection,
    pub(crate) version: &'static str,
    /// What this side closed it with: QUIC only remembers that it was this side.
    closing: OnceLock<(u32, String)>,
}

impl Link {
    pub(crate) fn new(id: ConnId, connection: Connection, version: &'static str) -> Arc<Self> {
        Arc::new(Self {
            id,
            remote: connection.remote_id(),
            connection,
            version,
            closing: OnceLock::new(),
        })
    }

    pub(crate) fn close(&self, code: u32, reason: &str) {
        // Closing what is closed already would hide the peer's reason.
        if self.connection.close_reason().is_none() {
            let _first_wins = self.closing.set((code, reason.to_owned()));
            self.connection.close(code.into(), reason.as_bytes());
        }
    }

    /// How it ended; call it on a closed connection.
    pub(crate) fn error(&self) -> SessionError {
        use iroh::endpoint::ConnectionError;
        match self.connection.close_reason() {
            Some(ConnectionError::LocallyClosed) | None => match self.closing.get() {
                Some((code, reason)) => SessionError::local(*code, reason),
                None => SessionError::local(crate::close::NORMAL, ""),
            },
            Some(error) => error.into(),
        }
    }
}

/// What all handles of a session share.
pub(crate) struct SessionCore {
    pub(crate) remote: EndpointId,
    link: Mutex<Arc<Link>>,
    ended: watch::Sender<Option<SessionError>>,
}

impl SessionCore {
    pub(crate) fn new(link: Arc<Link>) -> Arc<Self> {
        Arc::new(Self {
            remote: link.remote,
            link: Mutex::new(link),
            ended: watch::Sender::new(None),
        })
    }

    pub(crate) fn link(&self) -> Arc<Link> {
        self.link
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Exchanges the connection underneath.
    pub(crate) fn stand_on(&self, link: Arc<Link>) {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = link;
    }

    pub(crate) fn end(&self, error: SessionError) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(error);
            first
        });
    }

    pub(crate) async fn closed(&self) -> SessionError {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or_else(|| SessionError::local(0, "")),
            // The sender lives as long as `self`.
            Err(_) => SessionError::local(0, ""),
        }
    }
}
