//! Sessions with the others, and the dials that bring them about.

use std::time::Duration;

use iroh::{EndpointAddr, EndpointId};
use iroh_rooms_moq::{Cause, Error as MoqError, SessionError, SessionEvent, close};
use n0_future::{
    task::{self, AbortOnDropHandle},
    time::Instant,
};

use super::{Actor, Dial, OpenSession, REDIAL_MAX, REDIAL_MIN, Report, jitter};
use crate::{event::LeftReason, roster::Input};

/// Dials under way at once.
const MAX_DIALS: usize = 16;
/// And for this long once there is a session again.
const FADE_WITH_SESSION: Duration = Duration::from_secs(2);

impl Actor {
    pub(super) fn session(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Opened(session) => {
                let peer = session.remote_id();
                self.sessions.insert(
                    peer,
                    OpenSession {
                        session,
                        packets: 0,
                    },
                );
                if let Some(dial) = self.dials.get_mut(&peer) {
                    *dial = Dial::default();
                }
                self.feed(Input::Heard(peer));
                let soon = Instant::now() + FADE_WITH_SESSION;
                for ((owner, _), deadline) in &mut self.fading {
                    if *owner == peer {
                        *deadline = soon;
                    }
                }
            }
            SessionEvent::Closed { remote, error } => {
                self.sessions.remove(&remote);
                self.session_closed(remote, &error);
            }
            // Nothing is lost but the order: what stands is asked of the scope.
            SessionEvent::Lagged(_) => {
                let (scope, known) = (self.scope.clone(), self.roster.iter().map(|peer| peer.id));
                let standing = known.filter_map(|peer| scope.session(peer));
                self.sessions = standing
                    .map(|session| {
                        (
                            session.remote_id(),
                            OpenSession {
                                session,
                                packets: 0,
                            },
                        )
                    })
                    .collect();
            }
        }
    }

    pub(super) fn session_closed(&mut self, peer: EndpointId, error: &SessionError) {
        match (error.cause, error.code) {
            (Cause::Peer, close::LEAVING) => self.feed(Input::Gone(peer, LeftReason::Left)),
            _ => {
                if let Some(dial) = self.dials.get_mut(&peer) {
                    dial.due = Some(Instant::now() + jitter(REDIAL_MIN));
                }
            }
        }
    }

    pub(super) fn next_dial(&self) -> Option<Instant> {
        let running = self
            .dials
            .values()
            .filter(|dial| dial.running.is_some())
            .count();
        if running >= MAX_DIALS || self.state.is_leaving() {
            return None;
        }
        self.dials
            .values()
            .filter(|dial| dial.running.is_none())
            .filter_map(|dial| dial.due)
            .min()
    }

    pub(super) fn dial_due(&mut self) {
        let now = Instant::now();
        let peer = self
            .dials
            .iter()
            .filter(|(_, dial)| dial.running.is_none() && dial.due.is_some_and(|due| due <= now))
            // First those who are known to exist: in a crowd of invented peers the others would wait
            // for minutes.
            .min_by_key(|(peer, dial)| {
                let unseen = !self.neighbors.contains(*peer);
                (unseen, dial.failures > 0, dial.due)
            })
            .map(|(peer, _)| *peer);
        let Some(peer) = peer else { return };
        let Some(dial) = self.dials.get_mut(&peer) else {
            return;
        };
        dial.due = None;
        let mut addr = EndpointAddr::new(peer);
        if let Some(relay) = self.relays.get(&peer) {
            addr = addr.with_relay_url(relay.clone());
        }
        let (scope, reports) = (self.scope.clone(), self.reports_tx.clone());
        dial.running = Some(AbortOnDropHandle::new(task::spawn(async move {
            let result = scope.connect(addr).await.map(drop);
            // A closed room needs no report.
            let _ = reports.send(Report::Dialled(peer, result)).await;
        })));
    }

    pub(super) fn dialled(&mut self, peer: EndpointId, result: Result<(), MoqError>) {
        let Some(dial) = self.dials.get_mut(&peer) else {
            return;
        };
        dial.running = None;
        match result {
            Ok(()) => dial.failures = 0,
            Err(error) => {
                tracing::debug!(%peer, %error, "dial failed");
                dial.failures = dial.failures.saturating_add(1);
                let delay = REDIAL_MIN.saturating_mul(1 << dial.failures.min(8));
                dial.due = Some(Instant::now() + jitter(delay.min(REDIAL_MAX)));
            }
        }
    }
}
