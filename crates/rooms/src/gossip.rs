//! The gossip of an endpoint, replaceable.
//!
//! iroh-gossip can hang for good (a frame of exactly its size limit blocks its actor), and it
//! does not answer a peer that comes back with the same key while it takes it for present. In
//! both cases a new instance helps: its connections are new, and closing the old ones makes the
//! others forget. Rooms that notice ask for it ([`GossipSlot::restart`]) and join their topics
//! again when the generation changes.

mod idle;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use iroh::{
    Endpoint,
    endpoint::Connection,
    protocol::{AcceptError, ProtocolHandler},
};
use iroh_gossip::net::Gossip;
use n0_future::{
    task,
    time::{self, Instant},
};
use tokio::sync::watch;

/// A restart takes the topics of all rooms with it, so there is a pause between two.
const RESTART_PAUSE: Duration = Duration::from_secs(10);
/// A hanging instance is not waited for longer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The gossip of an endpoint.
#[derive(Debug)]
pub(crate) struct GossipSlot {
    endpoint: Endpoint,
    /// The instance, and when the last restart was.
    current: Mutex<(Gossip, Option<Instant>)>,
    generation: watch::Sender<u64>,
}

impl GossipSlot {
    /// Starts the first instance.
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        let gossip = Gossip::builder().spawn(endpoint.clone());
        Self {
            endpoint: endpoint.clone(),
            current: Mutex::new((gossip, None)),
            generation: watch::Sender::new(0),
        }
    }

    /// The instance to use.
    pub(crate) fn current(&self) -> Gossip {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .clone()
    }

    /// Changes with every new instance.
    pub(crate) fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// How often there was a new one.
    pub(crate) fn restarts(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Puts a new instance in place, unless there was a restart just now.
    pub(crate) fn restart(&self) {
        let old = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.1.is_some_and(|last| last.elapsed() < RESTART_PAUSE) {
                return;
            }
            let new = Gossip::builder().spawn(self.endpoint.clone());
            std::mem::replace(&mut *current, (new, Some(Instant::now()))).0
        };
        tracing::warn!("gossip is started anew");
        self.generation.send_modify(|generation| *generation += 1);
        task::spawn(async move {
            // It may hang: dropping it aborts what is left.
            let _ = time::timeout(SHUTDOWN_TIMEOUT, old.shutdown()).await;
        });
    }
}

impl ProtocolHandler for GossipSlot {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        idle::close_when_silent(&connection);
        let accepted = self.current().handle_connection(connection).await;
        accepted.map_err(AcceptError::from_err)
    }

    async fn shutdown(&self) {
        // It may hang; the endpoint closes all the same.
        let _ = time::timeout(SHUTDOWN_TIMEOUT, self.current().shutdown()).await;
    }
}
