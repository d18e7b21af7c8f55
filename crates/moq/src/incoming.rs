//! Sessions that peers open in a scope, and the decision about them.

use std::sync::{Arc, Mutex, PoisonError};

use iroh::EndpointId;
use tokio::sync::{broadcast, oneshot, watch};

use crate::{close, error::Error, scope::is_closed, session::Session};

/// Incoming sessions that wait for one slow listener; beyond, the oldest are skipped.
pub const INCOMING_CAP: usize = 64;

/// A session that a peer opens. Clones are the same.
#[derive(Clone)]
pub struct IncomingSession {
    inner: Arc<Incoming>,
}

/// What clones of an incoming session share.
struct Incoming {
    remote: EndpointId,
    /// Takes the decision; None once it was made.
    decision: Mutex<Option<oneshot::Sender<Decision>>>,
    /// With `Accept::All` the session is there already.
    established: Option<Session>,
}

/// What to do about an incoming session.
pub(crate) enum Decision {
    /// Accept it, and tell when it stands.
    Accept(oneshot::Sender<Session>),
    Reject,
}

impl IncomingSession {
    /// One that waits for its decision.
    pub(crate) fn undecided(remote: EndpointId, decision: oneshot::Sender<Decision>) -> Self {
        Self {
            inner: Arc::new(Incoming {
                remote,
                decision: Mutex::new(Some(decision)),
                established: None,
            }),
        }
    }

    /// One that stands already.
    pub(crate) fn established(session: Session) -> Self {
        Self {
            inner: Arc::new(Incoming {
                remote: session.remote_id(),
                decision: Mutex::new(None),
                established: Some(session),
            }),
        }
    }

    /// Who it is.
    pub fn remote_id(&self) -> EndpointId {
        self.inner.remote
    }

    /// Accepts it. Fails if it is too late: it was decided otherwise, undecided for too long, or
    /// the peer is gone.
    pub async fn accept(&self) -> Result<Session, Error> {
        if let Some(session) = &self.inner.established {
            return Ok(session.clone());
        }
        let (reply, session) = oneshot::channel();
        if !self.decide(Decision::Accept(reply)) {
            return Err(Error::Closed("the incoming session"));
        }
        session
            .await
            .map_err(|_| Error::Closed("the incoming session"))
    }

    /// Rejects it: closed with code 1. The peer has seen nothing that is published here, unless
    /// all sessions are accepted anyway. False if it is too late.
    pub fn reject(&self) -> bool {
        match &self.inner.established {
            Some(session) => {
                session.close(close::REJECTED, "rejected");
                true
            }
            None => self.decide(Decision::Reject),
        }
    }

    fn decide(&self, decision: Decision) -> bool {
        let waiting = self
            .inner
            .decision
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        waiting.is_some_and(|waiting| waiting.send(decision).is_ok())
    }
}

impl std::fmt::Debug for IncomingSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("IncomingSession")
            .field(&format_args!("{}", self.inner.remote.fmt_short()))
            .finish()
    }
}

/// Sessions that peers open. See [`crate::Scope::incoming_sessions`].
pub struct IncomingSessions {
    receiver: broadcast::Receiver<IncomingSession>,
    closed: watch::Receiver<bool>,
    skipped: u64,
}

impl IncomingSessions {
    pub(crate) fn new(
        receiver: broadcast::Receiver<IncomingSession>,
        closed: watch::Receiver<bool>,
    ) -> Self {
        Self {
            receiver,
            closed,
            skipped: 0,
        }
    }

    /// The next one; None when the scope is closed or MoQ is shut down. If this listener is too
    /// slow the oldest are skipped. May be cancelled without losing anything.
    pub async fn next(&mut self) -> Option<IncomingSession> {
        loop {
            let incoming = tokio::select! {
                biased;
                () = is_closed(&mut self.closed) => return None,
                incoming = self.receiver.recv() => incoming,
            };
            match incoming {
                Ok(incoming) => return Some(incoming),
                Err(broadcast::error::RecvError::Lagged(skipped)) => self.skipped += skipped,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// How many were skipped so far.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

impl std::fmt::Debug for IncomingSessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IncomingSessions")
            .field("skipped", &self.skipped)
            .finish_non_exhaustive()
    }
}
