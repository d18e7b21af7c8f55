//! Sessions with the others, and the dials that bring them about.

use std::time::Duration;

use iroh::{EndpointAddr, EndpointId};
use iroh_rooms_moq::{
    Cause, Error as MoqError, IncomingSession, SessionError, SessionEvent, close,
};
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
                self.live.marks().set("session");
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

    /// Someone who knows the room's topic opens a session. In a guarded room that is not enough.
    pub(super) fn incoming(&self, incoming: IncomingSession) {
        if !self.admits(&incoming.remote_id()) {
            incoming.reject();
            return;
        }
        task::spawn(async move {
            // What it is worth is told by the scope.
            let _ = incoming.accept().await;
        });
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

    /// Dials those whom the ticket names without waiting for their presence: the path of a session
    /// proves what presence would. Once: whoever is there is heard of.
    pub(super) fn dial_bootstrap(&mut self) {
        for peer in self.bootstrap.iter().take(MAX_DIALS) {
            let due = Some(Instant::now());
            self.dials.insert(
                *peer,
                Dial {
                    due,
                    ..Dial::default()
                },
            );
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
        self.live.marks().set("dial");
        let mut addr = EndpointAddr::new(peer);
        // Of those of whom nothing is known but the ticket, the lookup knows the relay.
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
            Err(error) if self.roster.get(&peer).is_none() => {
                tracing::debug!(%peer, %error, "nobody where the ticket says");
                self.dials.remove(&peer);
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "dial failed");
                dial.failures = dial.failures.saturating_add(1);
                let delay = REDIAL_MIN.saturating_mul(1 << dial.failures.min(8));
                dial.due = Some(Instant::now() + jitter(delay.min(REDIAL_MAX)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use iroh_relay::server::{RelayConfig, Server, ServerConfig};
    use n0_future::time::timeout;

    use super::*;
    use crate::{Live, Relays, Room, RoomTicket, room::actor::scope_key};

    #[tokio::test(flavor = "multi_thread")]
    async fn whom_the_ticket_names_is_dialled_before_its_presence_is_known() {
        let mut config = ServerConfig::default();
        config.relay = Some(RelayConfig::new(([127, 0, 0, 1], 0)));
        let relay = Server::spawn(config).await.unwrap();
        let url = format!("http://{}", relay.http_addr().unwrap());
        let live = || {
            let relays = Relays::Custom(vec![url.parse().unwrap()]);
            Live::builder().relays(relays).spawn()
        };
        let (there, here) = (live().await.unwrap(), live().await.unwrap());
        // The scope of a room without the room: nothing is said on the topic.
        let mut ticket = RoomTicket::generate();
        ticket.add_peer(there.endpoint_id(), there.relay_url().as_ref());
        let scope = there.moq().open_scope(scope_key(&ticket.topic_id)).unwrap();
        let mut sessions = scope.sessions();
        let room = Room::new(&here, ticket).await.unwrap();
        let opened = timeout(Duration::from_secs(20), sessions.next()).await;
        assert!(
            matches!(opened, Ok(Some(SessionEvent::Opened(session))) if session.remote_id() == here.endpoint_id())
        );
        assert!(room.handle().peers().is_empty());
        here.close().await;
        there.close().await;
        relay.shutdown().await.unwrap();
    }
}
