//! The doorman's second endpoint, whose key is the room's: it is what the room id leads to.
//!
//! 1. It is bound when this member leads and what came before is settled, at one relay, and closed
//!    when that is over.
//! 2. The doorman asks its own door from its first endpoint who stands there: soon after the start,
//!    and then every [`PROBE_EVERY`].
//! 3. No answer, or that of another: the relay serves the newest registration of a key and starves the
//!    older in silence, so it registers anew, a little later.

use std::{sync::Arc, time::Duration};

use iroh::{EndpointId, RelayUrl, SecretKey, address_lookup::memory::MemoryLookup};
use n0_future::{
    task::{self, AbortOnDropHandle},
    time::{self, Instant},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    hub::{DOOR_ALPN, Hub},
    newcomer::{probe, relays_of},
};
use crate::{Live, door as frames, live::Relays, transport};

/// How often the door is looked after.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// And while it has never been found to answer, or was not the last time.
const PROBE_SOON: Duration = Duration::from_millis(150);
/// Failed looks in a row before it is registered anew, and again after twice as many each time.
const REBIND_AFTER: u32 = 2;
/// A closing endpoint is not waited for longer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// What a look at the own door showed.
pub(super) enum Look {
    /// It is this member's.
    Own,
    /// Someone else stands there.
    Foreign(frames::Here),
    /// Nobody answers.
    Nobody,
}

/// A door that this member stands at.
pub(super) struct Door {
    live: Live,
    key: SecretKey,
    hub: Arc<Hub>,
    looks: mpsc::Sender<(EndpointId, Look)>,
    /// Dropping it closes the endpoint.
    _bound: oneshot::Sender<()>,
    looking: Option<AbortOnDropHandle<()>>,
    next_look: Instant,
    failures: u32,
    binds: usize,
    /// Looks in a row that found it well.
    pub(super) found: u32,
}

impl Door {
    /// Begins to bind it.
    pub(super) fn open(
        live: &Live,
        key: SecretKey,
        hub: &Arc<Hub>,
        looks: mpsc::Sender<(EndpointId, Look)>,
    ) -> Self {
        Self {
            live: live.clone(),
            _bound: bind(live, &key, hub, 0),
            key,
            hub: hub.clone(),
            looks,
            looking: None,
            next_look: Instant::now(),
            failures: 0,
            binds: 0,
            found: 0,
        }
    }

    /// The room id that it is found under.
    pub(super) fn id(&self) -> EndpointId {
        self.key.public()
    }

    /// Looks after it, when that is due.
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        if self.looking.is_some() || now < self.next_look {
            return;
        }
        let (live, id, looks) = (self.live.clone(), self.id(), self.looks.clone());
        self.looking = Some(AbortOnDropHandle::new(task::spawn(async move {
            let relays = relays_of(&live, &id, &[]);
            let look = match probe(&live, &id, &relays).await {
                Some(here) if here.doorman == live.endpoint_id() => Look::Own,
                Some(here) => Look::Foreign(here),
                None => Look::Nobody,
            };
            // A room that is over needs none.
            let _ = looks.send((id, look)).await;
        })));
    }

    /// Takes in what a look showed.
    pub(super) fn looked(&mut self, look: &Look) {
        self.looking = None;
        let jitter = rand::random_range(0.75..1.25);
        match look {
            Look::Own => {
                self.failures = 0;
                self.found += 1;
                let wait = if self.found < 2 {
                    PROBE_SOON
                } else {
                    PROBE_EVERY
                };
                self.next_look = Instant::now() + wait.mul_f64(jitter);
            }
            Look::Foreign(_) | Look::Nobody => {
                self.found = 0;
                self.failures += 1;
                if self.failures >= REBIND_AFTER && self.failures.is_power_of_two() {
                    self.binds += 1;
                    self._bound = bind(&self.live, &self.key, &self.hub, self.binds);
                }
                self.next_look = Instant::now() + 4 * PROBE_SOON.mul_f64(jitter);
            }
        }
    }
}

/// Binds the endpoint, at another relay with each attempt, and serves it until the sender is dropped.
fn bind(live: &Live, key: &SecretKey, hub: &Arc<Hub>, attempt: usize) -> oneshot::Sender<()> {
    let (bound, released) = oneshot::channel::<()>();
    let (live, key, hub) = (live.clone(), key.clone(), hub.clone());
    task::spawn(async move {
        let candidates = relays_of(&live, &key.public(), &[]);
        let relay = candidates.get(attempt % candidates.len().max(1));
        let relays = match relay {
            Some(relay) => Relays::Custom(vec![relay.clone()]),
            None => live.relays().clone(),
        };
        let mut released = Box::pin(released);
        let endpoint = transport::endpoint(key, &relays, None, MemoryLookup::new(), live.tuning())
            .alpns(vec![DOOR_ALPN.to_vec()])
            .bind();
        let endpoint = tokio::select! {
            endpoint = endpoint => match endpoint {
                Ok(endpoint) => endpoint,
                Err(error) => return tracing::warn!(%error, "the room's door cannot be bound"),
            },
            _ = &mut released => return,
        };
        let early = register(&endpoint, relay.cloned());
        let serve = async {
            while let Some(incoming) = endpoint.accept().await {
                let hub = hub.clone();
                task::spawn(async move {
                    if let Ok(connection) = incoming.await {
                        hub.serve_door(connection).await;
                    }
                });
            }
        };
        tokio::select! {
            () = serve => {}
            () = early => {}
            _ = &mut released => {}
        }
        let _ = time::timeout(CLOSE_TIMEOUT, endpoint.close()).await;
    });
    bound
}

/// Has the endpoint connect to its relay at once, without waiting for a report on the network. Never
/// ends by itself.
async fn register(endpoint: &iroh::Endpoint, relay: Option<RelayUrl>) {
    if let Some(relay) = relay {
        let _client = transport::carries(endpoint, &relay).await;
    }
    std::future::pending().await
}
