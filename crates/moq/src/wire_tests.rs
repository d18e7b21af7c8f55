//! Peers that are not this crate: hostile ones and old ones, made of moq-net's own client on our
//! transport.
#![allow(clippy::unwrap_used)]

use std::{future::Future, net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use iroh::{
    Endpoint, EndpointAddr, RelayMode, SecretKey,
    endpoint::{Connection, presets},
    protocol::Router,
};
use moq_net::{Timestamp, origin};

use crate::{
    ALPNS, Broadcast, Moq, Scope, TrackConfig, TrackOptions, close, limits, scope::scope_path,
    transport::Transport,
};

const KEY: [u8; 32] = [3; 32];
const HISTORY: TrackOptions = TrackOptions {
    priority: 0,
    max_age: Duration::from_secs(300),
    start: Some(0),
    ordered: true,
};

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} takes too long"),
    }
}

async fn endpoint(seed: u8) -> Endpoint {
    Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&[seed; 32]))
        .relay_mode(RelayMode::Disabled)
        .clear_ip_transports()
        .bind_addr((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .bind()
        .await
        .unwrap()
}

struct Listener {
    moq: Moq,
    router: Router,
    room: Scope,
    addr: EndpointAddr,
}

impl Listener {
    async fn new() -> Self {
        let endpoint = endpoint(1).await;
        let moq = Moq::new(endpoint.clone());
        let room = moq.open_scope(KEY).unwrap();
        let mut router = Router::builder(endpoint.clone());
        for alpn in ALPNS {
            router = router.accept(alpn, moq.protocol_handler());
        }
        let sockets = endpoint.bound_sockets();
        let addr = sockets
            .into_iter()
            .fold(EndpointAddr::new(endpoint.id()), EndpointAddr::with_ip_addr);
        Self {
            moq,
            router: router.spawn(),
            room,
            addr,
        }
    }
}

/// A peer made of moq-net alone.
struct Raw {
    endpoint: Endpoint,
    connection: Connection,
    session: moq_net::Session,
    local: origin::Producer,
    remote: origin::Producer,
}

impl Raw {
    async fn connect(listener: &Listener, alpn: &[u8], path: Option<&str>) -> Self {
        let endpoint = endpoint(2).await;
        let connection = endpoint.connect(listener.addr.clone(), alpn).await.unwrap();
        let origin = || {
            let (producer, driver) = origin::Producer::new(origin::Config::default());
            tokio::spawn(moq_net::time::run(driver));
            producer
        };
        let (local, remote) = (origin(), origin());
        let mut client = moq_net::Client::new()
            .with_publisher(&local)
            .with_subscriber(remote.clone());
        if let Some(path) = path {
            client = client.with_path(path);
        }
        let transport = Transport::new(connection.clone());
        let now = moq_net::time::Instant::now();
        let (session, driver) = client.connect_lite(now, transport).await.unwrap();
        tokio::spawn(moq_net::time::run(driver));
        Self {
            endpoint,
            connection,
            session,
            local,
            remote,
        }
    }

    /// As a member of the room.
    async fn enter(listener: &Listener) -> Self {
        let me = SecretKey::from_bytes(&[2; 32]).public();
        let path = scope_path(&KEY, me, listener.addr.id);
        Self::connect(listener, ALPNS[0], Some(&path)).await
    }

    async fn code(&self) -> u64 {
        match within("the end", self.connection.closed()).await {
            iroh::endpoint::ConnectionError::ApplicationClosed(close) => {
                close.error_code.into_inner()
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_path_is_good_for_one_pair_and_direction() {
    let listener = Listener::new().await;
    let me = SecretKey::from_bytes(&[2; 32]).public();
    let other = SecretKey::from_bytes(&[9; 32]).public();
    let wrong = [
        scope_path(&KEY, listener.addr.id, me),
        scope_path(&KEY, other, listener.addr.id),
        scope_path(&[4; 32], me, listener.addr.id),
        "/room/".to_owned(),
        format!("/room/{}", "0".repeat(40_000)),
    ];
    let count = wrong.len() as u64;
    for path in wrong {
        let raw = Raw::connect(&listener, ALPNS[0], Some(&path)).await;
        assert_eq!(raw.code().await, u64::from(close::UNKNOWN_SCOPE), "{path}");
        drop(raw.session);
        raw.endpoint.close().await;
    }
    assert_eq!(listener.moq.stats().unknown_scope, count);
    assert_eq!(listener.moq.stats().sessions, 0);
    listener.router.shutdown().await.unwrap();
}

#[tokio::test]
async fn announcing_without_measure_is_ignored_and_then_ended() {
    let listener = Listener::new().await;
    let mut announced = listener.room.announced();
    let raw = Raw::enter(&listener).await;
    let mut held = Vec::new();
    let deep = ["x"; limits::MAX_NAME_PARTS + 1].join("/");
    held.push(raw.local.publish(deep, origin::Route::default()).unwrap());
    let ignored = 500;
    for number in 0..limits::MAX_ANNOUNCED + ignored {
        let name = format!("b{number}");
        held.push(raw.local.publish(name, origin::Route::default()).unwrap());
    }
    for _ in 0..limits::MAX_ANNOUNCED {
        assert!(
            within("an announcement", announced.next())
                .await
                .unwrap()
                .active
        );
    }
    within("the rest", async {
        while listener.moq.stats().announcements_ignored < ignored as u64 {
            let wait = Duration::from_millis(50);
            let more = tokio::time::timeout(wait, announced.next()).await;
            assert!(more.is_err(), "{more:?}");
        }
    })
    .await;
    assert_eq!(listener.moq.stats().sessions, 1);

    for number in 0..limits::MAX_ANNOUNCED_HARD {
        held.push(
            raw.local
                .publish(format!("c{number}"), origin::Route::default())
                .unwrap(),
        );
    }
    assert_eq!(raw.code().await, u64::from(close::REJECTED));
    let mut gone = 0;
    while gone < limits::MAX_ANNOUNCED {
        gone += usize::from(
            !within("a withdrawal", announced.next())
                .await
                .unwrap()
                .active,
        );
    }
    assert!(listener.moq.stats().announcements_flooded >= 1);
    assert!(listener.room.session(raw.endpoint.id()).is_none());
}

#[tokio::test]
async fn nobody_announces_under_anothers_id() {
    let listener = Listener::new().await;
    let mut announced = listener.room.announced();
    let raw = Raw::enter(&listener).await;
    let other = SecretKey::from_bytes(&[9; 32]).public();
    let _held = raw
        .local
        .publish(format!("{other}/camera"), origin::Route::default())
        .unwrap();
    let first = within("an announcement", announced.next()).await.unwrap();
    assert_eq!(
        (first.remote, first.name),
        (raw.endpoint.id(), format!("{other}/camera"))
    );
}

#[tokio::test]
async fn streams_opened_and_left_do_no_harm() {
    let listener = Listener::new().await;
    let broadcast = Broadcast::new();
    let mut track = broadcast.track("t", TrackConfig::default()).unwrap();
    listener.room.publish("room", &broadcast).unwrap();
    let raw = Raw::enter(&listener).await;
    for round in 0..300u32 {
        // The listener may well have had enough of this session by now.
        let Ok(mut uni) = raw.connection.open_uni().await else {
            break;
        };
        let _closed = uni.write_all(&[round as u8; 3]).await;
        let Ok((mut send, mut recv)) = raw.connection.open_bi().await else {
            break;
        };
        let _closed = send.write_all(&[(round >> 3) as u8; 7]).await;
        match round % 4 {
            0 => drop(uni),
            1 => {
                let _closed = uni.reset(u32::MAX.into());
                let _closed = recv.stop(iroh::endpoint::VarInt::MAX);
            }
            2 => {
                let _closed = send.reset(iroh::endpoint::VarInt::MAX);
            }
            _ => {}
        }
    }
    // Whatever became of that session, the listener serves the next.
    drop(raw);
    let raw = Raw::enter(&listener).await;
    let found = within(
        "the broadcast",
        raw.remote.consume().routed_broadcast("room"),
    )
    .await
    .unwrap();
    let mut reader = found.track("t").unwrap().subscribe(None).await.unwrap();
    track.write(Bytes::from_static(b"alive"), None).unwrap();
    let mut group = within("a group", reader.recv_group())
        .await
        .unwrap()
        .unwrap();
    let frame = within("a frame", group.read_frame())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(frame.payload, Bytes::from_static(b"alive"));
}

#[tokio::test]
async fn each_version_both_ways() {
    for alpn in ALPNS {
        let listener = Listener::new().await;
        let own = listener.moq.own();
        let broadcast = Broadcast::new();
        let mut track = broadcast.track("t", TrackConfig::default()).unwrap();
        own.publish("ours", &broadcast).unwrap();
        track.write(Bytes::from_static(b"hello"), None).unwrap();

        let raw = Raw::connect(&listener, alpn, None).await;
        let theirs = raw.local.create_broadcast("theirs").unwrap();
        let mut their_track = theirs.create_track("t", None).unwrap();
        theirs.announce(origin::Route::default()).unwrap();
        their_track
            .write_frame(Timestamp::now(), Bytes::from_static(b"back"))
            .unwrap();

        let ours = within("ours", raw.remote.consume().routed_broadcast("ours"))
            .await
            .unwrap();
        let mut reader = ours.track("t").unwrap().subscribe(None).await.unwrap();
        let mut group = within("a group", reader.recv_group())
            .await
            .unwrap()
            .unwrap();
        let frame = within("a frame", group.read_frame())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(frame.payload, Bytes::from_static(b"hello"));

        let theirs = within("theirs", own.subscribe(raw.endpoint.id(), "theirs"))
            .await
            .unwrap();
        let mut reader = within("the track", theirs.track("t", HISTORY))
            .await
            .unwrap();
        let frame = within("a frame", reader.next_frame())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(frame.data, Bytes::from_static(b"back"));
        let session = own.session(raw.endpoint.id()).unwrap();
        assert_eq!(session.version().as_bytes(), alpn);
        session.close(77, "enough");
        assert_eq!(raw.code().await, 77);
    }
}
