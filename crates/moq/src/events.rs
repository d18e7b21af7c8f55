//! Sessions of a scope as they open and close.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use iroh::EndpointId;
use n0_future::time;
use tokio::sync::{broadcast, watch};

use crate::{
    error::SessionError,
    scope::{Scope, is_closed},
    session::{Session, SessionCore},
};

/// Session events that wait for one slow listener; beyond, it is told how many it missed.
pub const SESSION_EVENTS_CAP: usize = 256;

#[derive(Clone)]
pub(crate) enum CoreEvent {
    Opened(Arc<SessionCore>),
    Closed(EndpointId, SessionError),
}

/// A session opened or closed.
#[derive(Debug, Clone)]
pub enum SessionEvent {
    /// There is a session with this peer now.
    Opened(Session),
    /// There is none any longer.
    Closed {
        /// The peer.
        remote: EndpointId,
        /// How it ended.
        error: SessionError,
    },
    /// This listener was too slow and missed so many events: look at [`Scope::session`].
    Lagged(u64),
}

/// Sessions as they open and close. See [`Scope::sessions`].
pub struct SessionEvents {
    present: VecDeque<Arc<SessionCore>>,
    events: broadcast::Receiver<CoreEvent>,
    closed: watch::Receiver<bool>,
    scope: Scope,
}

impl SessionEvents {
    pub(crate) fn new(scope: Scope) -> Self {
        let (present, events) = scope.inner().session_events();
        Self {
            present,
            events,
            closed: scope.inner().watch_closed(),
            scope,
        }
    }

    /// The next event; None when the scope is closed and all have been given. May be cancelled
    /// without losing anything.
    pub async fn next(&mut self) -> Option<SessionEvent> {
        if let Some(core) = self.present.pop_front() {
            return Some(SessionEvent::Opened(Session::new(core, self.scope.clone())));
        }
        let event = tokio::select! {
            biased;
            event = self.events.recv() => event,
            () = is_closed(&mut self.closed) => {
                // The sessions of a closed scope end in a moment; then nothing comes any more.
                let sessions_end = time::timeout(CLOSING_EVENTS, self.events.recv());
                match sessions_end.await {
                    Ok(event) => event,
                    Err(_) => return None,
                }
            }
        };
        match event {
            Ok(CoreEvent::Opened(core)) => {
                Some(SessionEvent::Opened(Session::new(core, self.scope.clone())))
            }
            Ok(CoreEvent::Closed(remote, error)) => Some(SessionEvent::Closed { remote, error }),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(SessionEvent::Lagged(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// How long the events of a closed scope's last sessions may take.
const CLOSING_EVENTS: Duration = Duration::from_millis(500);

impl std::fmt::Debug for SessionEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionEvents")
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}
