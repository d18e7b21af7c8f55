//! A relay on this machine, endpoints at it, and what the tests wait for.

use std::{future::Future, net::SocketAddr, time::Duration};

use iroh::{EndpointId, RelayUrl};
use iroh_relay::server::{RelayConfig, Server, ServerConfig};
use iroh_rooms::{
    Event, Live, Peer, Relays, Room, RoomEvents, RoomTicket, event::LeftReason, room,
};
use tokio::time::timeout;

/// Long enough for a loaded machine, short enough to say that something hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Relay {
    server: Server,
    addr: SocketAddr,
}

impl Relay {
    pub async fn start(addr: SocketAddr) -> Self {
        let mut config = ServerConfig::default();
        config.relay = Some(RelayConfig::new(addr));
        let server = Server::spawn(config).await.expect("the relay starts");
        let addr = server.http_addr().expect("HTTP is on");
        Self { server, addr }
    }

    pub async fn on_free_port() -> Self {
        Self::start(([127, 0, 0, 1], 0).into()).await
    }

    pub fn url(&self) -> RelayUrl {
        format!("http://{}", self.addr).parse().expect("a URL")
    }

    pub async fn stop(self) -> SocketAddr {
        self.server.shutdown().await.expect("the relay stops");
        self.addr
    }

    pub async fn live(&self) -> Live {
        let relays = Relays::Custom(vec![self.url()]);
        Live::builder()
            .relays(relays)
            .spawn()
            .await
            .expect("the relay answers")
    }
}

pub async fn enter(live: &Live, ticket: &RoomTicket, name: &str) -> Room {
    let options = room::Options {
        display_name: Some(name.into()),
        ..Default::default()
    };
    Room::open(live, ticket.clone(), options)
        .await
        .expect("the room opens")
}

/// Two peers in one room, each with its endpoint.
pub async fn pair(relay: &Relay) -> ([Live; 2], Room, Room) {
    let (a, b) = (relay.live().await, relay.live().await);
    let room_a = enter(&a, &RoomTicket::generate(), "Ada").await;
    let room_b = enter(&b, &room_a.ticket().await.expect("open"), "Bo").await;
    ([a, b], room_a, room_b)
}

/// Reads events until one fits.
pub async fn until<T>(events: &mut impl Cursor, mut fits: impl FnMut(&Event) -> Option<T>) -> T {
    let mut seen = Vec::new();
    let found = timeout(PATIENCE, async {
        loop {
            let event = events.next().await.expect("the room is open");
            if let Some(found) = fits(&event) {
                return found;
            }
            seen.push(event);
        }
    });
    let found = found.await;
    found.unwrap_or_else(|_| panic!("not in time; seen: {seen:#?}"))
}

pub trait Cursor {
    async fn next(&mut self) -> Option<Event>;
}

impl Cursor for Room {
    async fn next(&mut self) -> Option<Event> {
        self.recv().await
    }
}

impl Cursor for RoomEvents {
    async fn next(&mut self) -> Option<Event> {
        self.recv().await
    }
}

pub fn joined(event: &Event) -> Option<Peer> {
    match event {
        Event::PeerJoined { peer } => Some(peer.clone()),
        _ => None,
    }
}

pub fn left(event: &Event) -> Option<(EndpointId, LeftReason)> {
    match event {
        Event::PeerLeft { peer, reason } => Some((peer.id, *reason)),
        _ => None,
    }
}

pub fn said(event: &Event) -> Option<(String, String)> {
    match event {
        Event::ChatMessage(message) => Some((
            message.peer.display_name.clone().unwrap_or_default(),
            message.text.clone(),
        )),
        _ => None,
    }
}

/// Fails rather than hangs.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("soon enough")
}
