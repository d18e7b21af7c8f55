//! The gossip of an endpoint, replaceable.
//!
//! iroh-gossip can hang for good: a link that takes nothing more, because its peer does not read or
//! because gossip gave it a frame of exactly its size limit, fills a queue and then blocks the actor
//! of all topics. It can end when its task fails. And it does not answer a peer that comes back with
//! the same key while it takes it for present. In all of these a new instance helps: its connections
//! are new, and closing the old ones makes the others forget. Rooms that notice ask for it
//! ([`GossipSlot::restart`]) and join their topics again when the generation changes.
//!
//! A hostile peer can bring that about again and again. So restarts become rare, and who is known to
//! be the cause is refused for a while. What goes over sessions is not touched by any of it.

mod idle;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use iroh::{
    Endpoint, EndpointId,
    endpoint::{Connection, WeakConnectionHandle},
    protocol::{AcceptError, ProtocolHandler},
};
use iroh_gossip::net::Gossip;
use iroh_rooms_sorted::SortedMap;
use n0_future::{
    task,
    time::{self, Instant},
};
use tokio::sync::watch;

/// A restart takes the topics of all rooms with it, so there is a pause between two, which doubles
/// with each one that follows soon. A restart that is asked for meanwhile comes at its end.
const RESTART_PAUSE_MIN: Duration = Duration::from_secs(10);
/// The longest pause.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(80);
/// A hanging instance is not waited for longer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections that others may have open to gossip here; more are closed and counted.
const MAX_CONNECTIONS: usize = 1024;
/// Of one peer. Gossip keeps a connection for some seconds after the last topic on it was left, so
/// whoever opens and closes rooms quickly has several.
const MAX_CONNECTIONS_OF_PEER: usize = 64;
/// How long a peer that made gossip hang is refused.
const REFUSAL: Duration = Duration::from_secs(600);
/// Peers that are refused at a time; who was refused first is let in again beyond.
const MAX_REFUSED: usize = 1024;
/// What refused connections are closed with: rejected, as in MoQ.
const CLOSE_REFUSED: u32 = 1;

/// The gossip of an endpoint.
#[derive(Debug)]
pub(crate) struct GossipSlot {
    endpoint: Endpoint,
    state: Mutex<State>,
    generation: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    gossip: Gossip,
    restarts: Restarts,
    /// What others opened to this instance, and may be closed by now.
    connections: SortedMap<EndpointId, Vec<WeakConnectionHandle>>,
    refused: VecDeque<(EndpointId, Instant)>,
    refusals: u64,
}

impl GossipSlot {
    /// Starts the first instance.
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        Self {
            endpoint: endpoint.clone(),
            state: Mutex::new(State {
                gossip: Gossip::builder().spawn(endpoint.clone()),
                restarts: Restarts::default(),
                connections: SortedMap::new(),
                refused: VecDeque::new(),
                refusals: 0,
            }),
            generation: watch::Sender::new(0),
        }
    }

    /// The instance to use.
    pub(crate) fn current(&self) -> Gossip {
        self.state().gossip.clone()
    }

    /// Changes with every new instance.
    pub(crate) fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// How often there was a new one.
    pub(crate) fn restarts(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Connections refused.
    pub(crate) fn refusals(&self) -> u64 {
        self.state().refusals
    }

    /// Puts a new instance in place, now or when the pause since the last one is over.
    pub(crate) fn restart(self: &Arc<Self>) {
        let due = self.state().restarts.ask(Instant::now());
        match due {
            Due::Now => self.replace(),
            Due::Already => {}
            Due::In(wait) => {
                let slot = Arc::downgrade(self);
                task::spawn(async move {
                    time::sleep(wait).await;
                    if let Some(slot) = slot.upgrade() {
                        slot.state().restarts.begin(Instant::now());
                        slot.replace();
                    }
                });
            }
        }
    }

    /// A peer sent what gossip cannot pass on: refuses it for [`REFUSAL`], and restarts.
    pub(crate) fn poisoned_by(self: &Arc<Self>, peer: EndpointId) {
        tracing::warn!(%peer, "a peer broke gossip's links, and is refused");
        self.state().refuse(peer);
        self.restart();
    }

    fn replace(&self) {
        let (old, connections) = {
            let mut state = self.state();
            // A peer that lets us open no stream keeps what is for it from going out.
            let blocking: Vec<_> = state.open().filter(blocks).collect();
            for connection in blocking {
                state.refuse(connection.remote_id());
            }
            let new = Gossip::builder().spawn(self.endpoint.clone());
            let old = std::mem::replace(&mut state.gossip, new);
            (old, std::mem::take(&mut state.connections))
        };
        tracing::warn!("gossip is started anew");
        self.generation.send_modify(|generation| *generation += 1);
        task::spawn(async move {
            // It may hang: dropping it aborts what is left.
            let _ = time::timeout(SHUTDOWN_TIMEOUT, old.shutdown()).await;
            drop(old);
            for connection in connections.values().flatten() {
                if let Some(connection) = connection.upgrade() {
                    connection.close(0u32.into(), b"gossip is started anew");
                }
            }
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProtocolHandler for GossipSlot {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let gossip = {
            let mut state = self.state();
            if !state.admit(&connection) {
                connection.close(CLOSE_REFUSED.into(), b"refused");
                return Ok(());
            }
            state.gossip.clone()
        };
        idle::close_when_silent(&connection);
        let accepted = gossip.handle_connection(connection).await;
        accepted.map_err(AcceptError::from_err)
    }

    async fn shutdown(&self) {
        // It may hang; the endpoint closes all the same.
        let _ = time::timeout(SHUTDOWN_TIMEOUT, self.current().shutdown()).await;
    }
}

impl State {
    /// Whether a connection may be used; counts those that may not.
    fn admit(&mut self, connection: &Connection) -> bool {
        let peer = connection.remote_id();
        self.refused.retain(|(_, since)| since.elapsed() < REFUSAL);
        self.connections.retain(|_, connections| {
            connections.retain(|connection| is_open(connection).is_some());
            !connections.is_empty()
        });
        let all: usize = self.connections.values().map(Vec::len).sum();
        let of_peer = self.connections.get(&peer).map_or(0, Vec::len);
        if all >= MAX_CONNECTIONS
            || of_peer >= MAX_CONNECTIONS_OF_PEER
            || self.refused.iter().any(|(refused, _)| *refused == peer)
        {
            self.refusals += 1;
            return false;
        }
        let connections = self.connections.entry(peer).or_default();
        connections.push(connection.weak_handle());
        true
    }

    fn refuse(&mut self, peer: EndpointId) {
        self.refused.retain(|(refused, _)| *refused != peer);
        if self.refused.len() >= MAX_REFUSED {
            self.refused.pop_front();
        }
        self.refused.push_back((peer, Instant::now()));
    }

    fn open(&self) -> impl Iterator<Item = Connection> {
        self.connections.values().flatten().filter_map(is_open)
    }
}

fn is_open(connection: &WeakConnectionHandle) -> Option<Connection> {
    let connection = connection.upgrade()?;
    connection.close_reason().is_none().then_some(connection)
}

fn blocks(connection: &Connection) -> bool {
    connection.stats().frame_tx.streams_blocked_uni > 0
}

/// When restarts are allowed.
#[derive(Debug)]
struct Restarts {
    last: Option<Instant>,
    pause: Duration,
    waiting: bool,
}

#[derive(Debug, PartialEq)]
enum Due {
    Now,
    In(Duration),
    /// Another one waits already.
    Already,
}

impl Default for Restarts {
    fn default() -> Self {
        Self {
            last: None,
            pause: RESTART_PAUSE_MIN,
            waiting: false,
        }
    }
}

impl Restarts {
    fn ask(&mut self, now: Instant) -> Due {
        if self.waiting {
            return Due::Already;
        }
        let wait = self.last.map_or(Duration::ZERO, |last| {
            self.pause
                .saturating_sub(now.saturating_duration_since(last))
        });
        if wait.is_zero() {
            self.begin(now);
            return Due::Now;
        }
        self.waiting = true;
        Due::In(wait)
    }

    fn begin(&mut self, now: Instant) {
        let quiet = self.last.map(|last| now.saturating_duration_since(last));
        self.pause = match quiet {
            // Twice the pause without a wish for another: what was wrong is over.
            Some(quiet) if quiet < self.pause * 2 => (self.pause * 2).min(RESTART_PAUSE_MAX),
            _ => RESTART_PAUSE_MIN,
        };
        self.last = Some(now);
        self.waiting = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_become_rare_and_none_is_forgotten() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(restarts.ask(at(0)), Due::Now);
        assert_eq!(restarts.ask(at(4)), Due::In(Duration::from_secs(6)));
        assert_eq!(restarts.ask(at(5)), Due::Already);
        let mut now = 10;
        for pause in [20, 40, 80, 80] {
            restarts.begin(at(now));
            assert_eq!(restarts.ask(at(now)), Due::In(Duration::from_secs(pause)));
            now += pause;
        }
        restarts.begin(at(now));
        assert_eq!(restarts.ask(at(now + 160)), Due::Now, "after a quiet time");
        assert_eq!(restarts.ask(at(now + 160)), Due::In(RESTART_PAUSE_MIN));
    }
}
