//! All MoQ sessions of an endpoint: the handle and the protocol handler. The work is done by the
//! actor (`actor.rs`) and the connection tasks (`handshake.rs`).

use std::sync::Arc;

use iroh::{
    Endpoint, EndpointAddr, EndpointId,
    endpoint::{Connection, QuicTransportConfig},
    protocol::{AcceptError, ProtocolHandler},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    actor::{Actor, MAX_CONNECTIONS, Message},
    broadcast::Broadcast,
    close,
    error::Error,
    incoming::IncomingSessions,
    registry::Registry,
    scope::{Kind, Scope},
    session::Session,
    stats::{Counters, Stats, spawn},
};

/// Requests that wait for the actor; more callers wait to enter theirs.
const INBOX_CAP: usize = 256;
/// Scopes that may be open at once.
pub const MAX_SCOPES: usize = 256;

/// Who decides about incoming sessions of a scope. Into a room's come only those who know its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Accept {
    /// All are accepted; [`Scope::incoming_sessions`] tells of them.
    #[default]
    All,
    /// None is accepted before [`IncomingSession::accept`] is called on it.
    Manual,
}

/// How to run [`Moq`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Who decides about incoming sessions of the endpoint's own scope.
    pub accept: Accept,
    /// Connections with peers, of all scopes together; beyond, incoming ones are refused, except of
    /// a peer that has one already: a reconnect replaces it. What is dialled here counts, and is
    /// never refused. Default [`MAX_CONNECTIONS`].
    pub max_connections: usize,
    /// How QUIC is configured on connections that are dialled here. Default: as the endpoint is.
    pub dialling: Option<QuicTransportConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            accept: Accept::default(),
            max_connections: MAX_CONNECTIONS,
            dialling: None,
        }
    }
}

/// All MoQ sessions of an endpoint. Clones are the same; when the last one is gone and no scope,
/// session or protocol handler of it is left, everything is closed.
#[derive(Clone)]
pub struct Moq {
    inner: Arc<MoqInner>,
}

struct MoqInner {
    me: EndpointId,
    inbox: mpsc::Sender<Message>,
    registry: Arc<Registry>,
    counters: Arc<Counters>,
    own: Scope,
}

impl Moq {
    /// Starts MoQ on an endpoint. Register [`Moq::protocol_handler`] for each of [`crate::ALPNS`].
    pub fn new(endpoint: Endpoint) -> Self {
        Self::with_config(endpoint, Config::default())
    }

    /// Starts MoQ on an endpoint.
    pub fn with_config(endpoint: Endpoint, config: Config) -> Self {
        let me = endpoint.id();
        let (inbox, messages) = mpsc::channel(INBOX_CAP);
        let registry = Arc::new(Registry::default());
        let counters = Arc::new(Counters::default());
        let own = registry.add(|id| {
            let (inbox, counters) = (inbox.clone(), counters.clone());
            Scope::open(id, me, Kind::Own, config.accept, inbox, counters)
        });
        spawn(
            &counters,
            Actor::run(
                endpoint,
                config.max_connections,
                config.dialling,
                registry.clone(),
                counters.clone(),
                messages,
            ),
        );
        Self {
            inner: Arc::new(MoqInner {
                me,
                inbox,
                registry,
                counters,
                own,
            }),
        }
    }

    /// What to register with iroh's Router for each of [`crate::ALPNS`].
    pub fn protocol_handler(&self) -> MoqProtocolHandler {
        MoqProtocolHandler {
            inbox: self.inner.inbox.clone(),
        }
    }

    /// The endpoint's own scope, which any peer may dial.
    pub fn own(&self) -> &Scope {
        &self.inner.own
    }

    /// Opens the scope of a room. `key` is what all its members derive from the room's topic; only
    /// they can enter. A key can be open once at a time.
    pub fn open_scope(&self, key: [u8; 32]) -> Result<Scope, Error> {
        self.open_scope_with(key, Accept::All)
    }

    /// The same, saying who decides about incoming sessions of those who know the key.
    pub fn open_scope_with(&self, key: [u8; 32], accept: Accept) -> Result<Scope, Error> {
        if self.inner.inbox.is_closed() {
            return Err(Error::Closed("MoQ"));
        }
        let MoqInner {
            me,
            inbox,
            registry,
            counters,
            ..
        } = &*self.inner;
        let open = |id| {
            let (inbox, counters) = (inbox.clone(), counters.clone());
            Scope::open(id, *me, Kind::Room { key }, accept, inbox, counters)
        };
        registry.try_add(MAX_SCOPES, |scope| scope.has_key(&key), open)
    }

    /// Publishes a broadcast in the endpoint's own scope. See [`Scope::publish`].
    pub fn publish(&self, name: &str, broadcast: &Broadcast) -> Result<(), Error> {
        self.own().publish(name, broadcast)
    }

    /// The session with a peer in the endpoint's own scope. See [`Scope::connect`].
    pub async fn connect(&self, remote: impl Into<EndpointAddr>) -> Result<Session, Error> {
        self.own().connect(remote).await
    }

    /// Sessions that peers open in the endpoint's own scope, from now on.
    pub fn incoming_sessions(&self) -> IncomingSessions {
        self.own().incoming_sessions()
    }

    /// The names published in the endpoint's own scope, sorted.
    pub fn published_broadcasts(&self) -> Vec<String> {
        self.own().published_broadcasts()
    }

    /// Closes all sessions of all scopes and stops. Peers get the code for leaving. Calling it
    /// twice is fine.
    pub async fn shutdown(&self) {
        shutdown(&self.inner.inbox).await;
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        self.inner.counters.read()
    }
}

impl std::fmt::Debug for Moq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moq")
            .field("me", &format_args!("{}", self.inner.me.fmt_short()))
            .finish_non_exhaustive()
    }
}

async fn shutdown(inbox: &mpsc::Sender<Message>) {
    let (done, closed) = oneshot::channel();
    if inbox.send(Message::Shutdown { done }).await.is_ok() {
        let _actor_gone = closed.await;
    }
}

/// Takes MoQ connections from iroh's Router.
#[derive(Clone)]
pub struct MoqProtocolHandler {
    inbox: mpsc::Sender<Message>,
}

impl ProtocolHandler for MoqProtocolHandler {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        // MoQ's machines are not Send in a browser and this future must be: the actor takes over.
        // The connection lives as long as this future does.
        if self
            .inbox
            .send(Message::Incoming(connection.clone()))
            .await
            .is_err()
        {
            connection.close(close::LEAVING.into(), b"closed");
        }
        connection.closed().await;
        Ok(())
    }

    async fn shutdown(&self) {
        shutdown(&self.inbox).await;
    }
}

impl std::fmt::Debug for MoqProtocolHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MoqProtocolHandler")
    }
}
