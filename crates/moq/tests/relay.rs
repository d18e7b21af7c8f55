//! The same through a relay, as browsers do it.

mod common;

use std::{net::Ipv4Addr, time::Duration};

use common::{HISTORY, Peer, bytes, text, within};
use iroh::{EndpointAddr, RelayMode, RelayUrl};
use iroh_relay::server::{RelayConfig, Server, ServerConfig};
use iroh_rooms_moq::{Broadcast, Config, PathKind, TrackConfig};

async fn relay() -> (Server, RelayUrl) {
    let mut config = ServerConfig::default();
    config.relay = Some(RelayConfig::new((Ipv4Addr::LOCALHOST, 0)));
    let server = Server::spawn(config).await.unwrap();
    let url = format!("http://{}", server.http_addr().unwrap())
        .parse()
        .unwrap();
    (server, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_over_a_relay() {
    let (server, url) = relay().await;
    let mut peers = Vec::new();
    for seed in 1..4 {
        let peer = Peer::with(seed, Config::default(), RelayMode::custom([url.clone()])).await;
        within("the relay", peer.endpoint.online()).await;
        peers.push(peer);
    }
    let rooms: Vec<_> = peers
        .iter()
        .map(|peer| peer.moq.open_scope([5; 32]).unwrap())
        .collect();
    let mut chats = Vec::new();
    for room in &rooms {
        let broadcast = Broadcast::new();
        let config = TrackConfig {
            max_age: Duration::from_secs(300),
            ..TrackConfig::default()
        };
        chats.push(broadcast.track("chat", config).unwrap());
        room.publish("room", &broadcast).unwrap();
    }
    // All dial all, at once.
    let mut dials = tokio::task::JoinSet::new();
    for (from, room) in rooms.iter().enumerate() {
        for (to, peer) in peers.iter().enumerate() {
            if from != to {
                let room = room.clone();
                let addr = EndpointAddr::new(peer.id()).with_relay_url(url.clone());
                dials.spawn(async move { room.connect(addr).await.unwrap() });
            }
        }
    }
    let sessions = within("all dials", dials.join_all()).await;
    assert!(
        sessions
            .iter()
            .all(|session| session.stats().path == Some(PathKind::Relay))
    );

    let mut readers = Vec::new();
    for (from, room) in rooms.iter().enumerate() {
        for (to, peer) in peers.iter().enumerate() {
            if from != to {
                let remote = within("a room", room.subscribe(peer.id(), "room"))
                    .await
                    .unwrap();
                readers.push((
                    to,
                    within("chat", remote.track("chat", HISTORY)).await.unwrap(),
                ));
            }
        }
    }
    // Long enough that connections which lost to the other side's dial go away in between.
    for round in 0..100 {
        for (number, chat) in chats.iter_mut().enumerate() {
            chat.write(bytes(&format!("{number}: {round}")), None)
                .unwrap();
        }
        for (number, reader) in &mut readers {
            assert_eq!(text(reader).await, format!("{number}: {round}"));
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    for peer in &peers {
        let stats = peer.moq.stats();
        assert_eq!(
            (stats.sessions, stats.refused, stats.replaced),
            (2, 0, 0),
            "{stats:?}"
        );
    }
    for peer in peers {
        within("the end", peer.router.shutdown()).await.unwrap();
    }
    server.shutdown().await.unwrap();
}
