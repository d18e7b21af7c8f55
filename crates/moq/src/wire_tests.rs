//! Peers that are not this crate: hostile ones and old ones, made of moq-net's own client on our
//! transport.
#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use iroh::{
    EndpointAddr, SecretKey,
    endpoint::{Connection, RecvStream, SendStream, VarInt},
};
use moq_net::{Timestamp, origin};

use crate::{
    ALPNS, Broadcast, Cause, Scope, TrackConfig, close, limits,
    scope::scope_path,
    transport::Transport,
    wire_tests::common::{HISTORY, Peer, bytes, endpoint, text, until, within},
};

#[path = "../tests/common/mod.rs"]
mod common;

const KEY: [u8; 32] = [3; 32];

struct Listener {
    peer: Peer,
    room: Scope,
    addr: EndpointAddr,
}

impl Listener {
    async fn new() -> Self {
        let peer = Peer::new(1).await;
        Self {
            room: peer.moq.open_scope(KEY).unwrap(),
            addr: peer.addr(),
            peer,
        }
    }
}

/// A peer made of moq-net alone.
struct Raw {
    endpoint: iroh::Endpoint,
    connection: Connection,
    session: moq_net::Session,
    local: origin::Producer,
    remote: origin::Producer,
}

impl Raw {
    async fn connect(listener: &Listener, alpn: &[u8], path: Option<&str>) -> Self {
        Self::connect_as(2, listener, alpn, path).await
    }

    async fn connect_as(seed: u8, listener: &Listener, alpn: &[u8], path: Option<&str>) -> Self {
        let endpoint = endpoint(seed).await;
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
        let transport = Transport::new(connection.clone(), Arc::default());
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
        Self::enter_as(2, listener).await
    }

    async fn enter_as(seed: u8, listener: &Listener) -> Self {
        let me = SecretKey::from_bytes(&[seed; 32]).public();
        let path = scope_path(&KEY, me, listener.addr.id);
        Self::connect_as(seed, listener, ALPNS[0], Some(&path)).await
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
    assert_eq!(listener.peer.moq.stats().unknown_scope, count);
    assert_eq!(listener.peer.moq.stats().sessions, 0);
    listener.peer.router.shutdown().await.unwrap();
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
        while listener.peer.moq.stats().announcements_ignored < ignored as u64 {
            let wait = Duration::from_millis(50);
            let more = tokio::time::timeout(wait, announced.next()).await;
            assert!(more.is_err(), "{more:?}");
        }
    })
    .await;
    assert_eq!(listener.peer.moq.stats().sessions, 1);

    for number in 0..10_000 {
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
    assert!(listener.peer.moq.stats().announcements_flooded >= 1);
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
        let own = listener.peer.moq.own();
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

/// Announces the same as an honest peer, down to what names its instance.
#[tokio::test]
async fn anothers_hop_and_ones_own_change_nothing_for_others() {
    let listener = Listener::new().await;
    let honest = Raw::enter_as(2, &listener).await;
    let hop = moq_net::Hop::random();
    let route = || {
        let mut hops = moq_net::Hops::new();
        hops.push(hop).unwrap();
        origin::Route::default().with_hops(hops)
    };
    let broadcast = honest.local.create_broadcast("camera").unwrap();
    let mut track = broadcast.create_track("t", None).unwrap();
    broadcast.announce(route()).unwrap();
    let remote = within(
        "camera",
        listener.room.subscribe(honest.endpoint.id(), "camera"),
    )
    .await
    .unwrap();
    let mut reader = within("track", remote.track("t", HISTORY)).await.unwrap();

    let mut announced = listener.room.announced();
    let hostile = Raw::enter_as(3, &listener).await;
    let fake = hostile.local.create_broadcast("camera").unwrap();
    let _fake_track = fake.create_track("t", None).unwrap();
    fake.announce(route()).unwrap();
    // One that claims to have come from the listener is its own echo.
    let echo = hostile.local.create_broadcast("echo").unwrap();
    let mut hops = moq_net::Hops::new();
    hops.push(listener.room.inner().hop()).unwrap();
    echo.announce(origin::Route::default().with_hops(hops))
        .unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let announce = within("camera", announced.next()).await.unwrap();
        assert!(announce.active);
        seen.push((announce.remote, announce.name));
    }
    let camera = |raw: &Raw| (raw.endpoint.id(), "camera".to_owned());
    assert!(seen.contains(&camera(&honest)) && seen.contains(&camera(&hostile)));
    for number in 0..20 {
        track
            .write_frame(Timestamp::now(), number.to_string())
            .unwrap();
        assert_eq!(text(&mut reader).await, number.to_string());
    }
    // The end of the fake is not the end of the other.
    hostile.connection.close(0u32.into(), b"");
    let gone = within("its end", announced.next()).await.unwrap();
    assert_eq!((gone.remote, gone.active), (hostile.endpoint.id(), false));
    track.write_frame(Timestamp::now(), "still").unwrap();
    assert_eq!(text(&mut reader).await, "still");
    assert!(!remote.is_closed());
}

#[tokio::test]
async fn half_open_connections_do_not_keep_others_out() {
    let listener = Listener::new().await;
    let silent = endpoint(9).await;
    let mut connections = Vec::new();
    for _ in 0..limits::MAX_HANDSHAKES_OF_PEER + 4 {
        let connection = silent
            .connect(listener.addr.clone(), ALPNS[0])
            .await
            .unwrap();
        // Says nothing, or half of something.
        let mut half = None;
        if connections.len() % 2 == 0
            && let Ok(mut stream) = connection.open_uni().await
        {
            let _refused = stream.write_all(&[1, 0x40]).await;
            half = Some(stream);
        }
        connections.push((connection, half));
    }
    until("refusals", || listener.peer.moq.stats().busy >= 4).await;
    let raw = Raw::enter(&listener).await;
    until("the honest session", || {
        listener.room.session(raw.endpoint.id()).is_some()
    })
    .await;
    // Shutting down does not wait for the silent.
    within("shutdown", listener.peer.moq.shutdown()).await;
    until("nothing is left", || {
        let stats = listener.peer.moq.stats();
        (stats.tasks, stats.streams) == (0, 0)
    })
    .await;
}

/// A peer made by hand, which speaks moq-lite-04: no SETUP, and announcements begin at once.
struct Hand {
    _endpoint: iroh::Endpoint,
    connection: Connection,
    announce: SendStream,
    _request: RecvStream,
}

impl Hand {
    async fn connect(listener: &Listener) -> Self {
        let endpoint = endpoint(7).await;
        let connection = endpoint
            .connect(listener.addr.clone(), b"moq-lite-04")
            .await
            .unwrap();
        let (announce, request) = within("a request", Self::accept(&connection, 1)).await;
        Self {
            _endpoint: endpoint,
            connection,
            announce,
            _request: request,
        }
    }

    /// The next request of a kind; others are left alone.
    async fn accept(connection: &Connection, kind: u8) -> (SendStream, RecvStream) {
        loop {
            let (send, mut recv) = connection.accept_bi().await.unwrap();
            let mut byte = [0];
            recv.read_exact(&mut byte).await.unwrap();
            if byte[0] == kind {
                return (send, recv);
            }
        }
    }

    async fn announce(&mut self, name: &str, hops: &[u64]) {
        let mut body = vec![1];
        body.extend(string(name));
        body.extend(varint(hops.len() as u64));
        body.extend(hops.iter().copied().flat_map(varint));
        self.announce.write_all(&message(&body)).await.unwrap();
    }

    /// Opens the stream of a group of subscription 0.
    async fn group(&self, number: u64) -> SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        let mut header = vec![0];
        let body: Vec<u8> = [varint(0), varint(number)].concat();
        header.extend(message(&body));
        stream.write_all(&header).await.unwrap();
        stream
    }
}

fn varint(value: u64) -> Vec<u8> {
    match value {
        0..0x40 => vec![value as u8],
        0x40..0x4000 => (value as u16 | 0x4000).to_be_bytes().to_vec(),
        0x4000..0x4000_0000 => (value as u32 | 0x8000_0000).to_be_bytes().to_vec(),
        _ => (value | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
    }
}

fn message(body: &[u8]) -> Vec<u8> {
    [varint(body.len() as u64), body.to_vec()].concat()
}

fn string(text: &str) -> Vec<u8> {
    message(text.as_bytes())
}

#[tokio::test]
async fn oversize_frames_and_groups_cost_their_group_only() {
    let listener = Listener::new().await;
    let mut hand = Hand::connect(&listener).await;
    hand.announce("camera", &[77]).await;
    let own = listener.peer.moq.own();
    let remote = hand.connection.clone();
    let answer = tokio::spawn(async move {
        let (mut send, recv) = Hand::accept(&remote, 2).await;
        // SUBSCRIBE_OK: priority, order, max age, start, end.
        let ok = [vec![0], message(&[0, 0, 0, 0, 0])].concat();
        send.write_all(&ok).await.unwrap();
        (send, recv)
    });
    let me = SecretKey::from_bytes(&[7; 32]).public();
    let camera = within("camera", own.subscribe(me, "camera")).await.unwrap();
    let options = crate::TrackOptions {
        ordered: false,
        ..HISTORY
    };
    let mut reader = within("track", camera.track("t", options)).await.unwrap();
    let reading = tokio::spawn(async move {
        loop {
            let frame = reader.next_frame().await.unwrap().unwrap();
            if frame.group == 3 {
                return (frame, reader.lagged());
            }
        }
    });
    let _subscription = within("the subscription", answer).await.unwrap();

    // A frame that says it is huge.
    for (number, size) in [(0, 33 << 20), (1, (1 << 62) - 1)] {
        let mut stream = hand.group(number).await;
        stream.write_all(&varint(size)).await.unwrap();
        let code = within("a reset", stream.stopped()).await.unwrap();
        assert!(code.is_some(), "{number}");
    }
    // More frames than a group may have.
    let mut stream = hand.group(2).await;
    let frames = [1, b'x'].repeat(8193);
    let _stopped = stream.write_all(&frames).await;
    let code = within("a reset", stream.stopped()).await.unwrap();
    assert!(code.is_some());
    // A group for a subscription that is not, and with a number beyond all.
    let mut stray = hand.connection.open_uni().await.unwrap();
    let header: Vec<u8> = [varint(99), varint((1 << 62) - 1)].concat();
    stray
        .write_all(&[vec![0], message(&header)].concat())
        .await
        .unwrap();
    // And one that is as it should be.
    let mut stream = hand.group(3).await;
    stream.write_all(&string("alive")).await.unwrap();
    stream.finish().unwrap();
    let (alive, lagged) = within("the good group", reading).await.unwrap();
    assert_eq!(alive.data, bytes("alive"));
    assert!(lagged >= 1, "{lagged}");
    assert!(own.session(me).is_some());
}

#[tokio::test]
async fn names_that_cannot_be_are_not_reported() {
    let listener = Listener::new().await;
    let own = listener.peer.moq.own();
    let mut announced = own.announced();
    let mut hand = Hand::connect(&listener).await;
    let me = SecretKey::from_bytes(&[7; 32]).public();
    hand.announce(&"x".repeat(limits::MAX_NAME_BYTES + 1), &[77])
        .await;
    hand.announce(&["x"; limits::MAX_NAME_PARTS + 1].join("/"), &[77])
        .await;
    hand.announce("good", &[77]).await;
    let first = within("the good one", announced.next()).await.unwrap();
    assert_eq!((first.remote, first.name.as_str()), (me, "good"));
    // More parts than the protocol has: that peer has said its last word.
    hand.announce(&["x"; 33].join("/"), &[77]).await;
    hand.announce("after", &[77]).await;
    let next = within("its end", announced.next()).await.unwrap();
    assert_eq!((next.name.as_str(), next.active), ("good", false));
    // The listener serves the next.
    let raw = Raw::connect(&listener, ALPNS[0], None).await;
    let _held = raw
        .local
        .publish("camera", origin::Route::default())
        .unwrap();
    let next = within("camera", announced.next()).await.unwrap();
    assert_eq!(
        (next.remote, next.name.as_str()),
        (raw.endpoint.id(), "camera")
    );
}

#[tokio::test]
async fn resets_in_every_state_and_the_largest_code() {
    let listener = Listener::new().await;
    let broadcast = Broadcast::new();
    let mut track = broadcast.track("t", TrackConfig::default()).unwrap();
    listener.room.publish("room", &broadcast).unwrap();
    // What a stream may begin with, cut off anywhere.
    let mut bodies = vec![vec![], vec![0x40], vec![0xff; 8]];
    for kind in 0..9 {
        let body = [varint(0), string("room"), string("t"), vec![0; 6]].concat();
        let whole = [vec![kind], message(&body)].concat();
        bodies.extend(
            (1..=whole.len())
                .step_by(4)
                .map(|end| whole[..end].to_vec()),
        );
    }
    let mut raw = Raw::enter(&listener).await;
    for (round, body) in bodies.iter().enumerate() {
        if raw.connection.close_reason().is_some() {
            // Some of it is reason enough to end that session.
            drop(raw);
            raw = Raw::enter(&listener).await;
        }
        let code = if round % 2 == 0 {
            VarInt::MAX
        } else {
            7u32.into()
        };
        if let Ok(mut uni) = raw.connection.open_uni().await {
            let _closed = uni.write_all(body).await;
            let _closed = uni.reset(code);
        }
        if let Ok((mut send, mut recv)) = raw.connection.open_bi().await {
            let _closed = send.write_all(body).await;
            match round % 3 {
                0 => drop(send.reset(code)),
                1 => drop(recv.stop(code)),
                _ => drop((send.finish(), recv.stop(code))),
            }
        }
        // Each reset is seen, not only the last.
        tokio::task::yield_now().await;
    }
    drop(raw);
    let raw = Raw::enter(&listener).await;
    let found = within(
        "the broadcast",
        raw.remote.consume().routed_broadcast("room"),
    )
    .await
    .unwrap();
    let mut reader = found.track("t").unwrap().subscribe(None).await.unwrap();
    track.write(bytes("alive"), None).unwrap();
    let group = within("a group", reader.recv_group()).await.unwrap();
    assert!(group.is_some());
    let session = listener.room.session(raw.endpoint.id()).unwrap();
    raw.connection.close(VarInt::MAX, &[0xff; 1000]);
    let error = within("the end", session.closed()).await;
    assert_eq!((error.code, error.cause), (u32::MAX, Cause::Peer));
    // Asked again, and by one who comes later.
    assert_eq!(session.closed().await.code, u32::MAX);
    until("it is remembered", || {
        listener.room.ended(raw.endpoint.id()) == Some(error.clone())
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_holds_nobody_up_for_long() {
    let listener = Listener::new().await;
    let broadcast = Broadcast::new();
    let config = TrackConfig {
        max_age: Duration::from_secs(300),
        ..TrackConfig::default()
    };
    let mut track = broadcast.track("t", config).unwrap();
    listener.peer.moq.publish("room", &broadcast).unwrap();
    // Subscribes by hand and opens its window for nothing.
    let hand = Hand::connect(&listener).await;
    let (mut send, _recv) = hand.connection.open_bi().await.unwrap();
    let body = [varint(0), string("room"), string("t"), vec![0; 5]].concat();
    send.write_all(&[vec![2], message(&body)].concat())
        .await
        .unwrap();
    assert!(within("demand", track.used()).await);
    let data = bytes(&"x".repeat(64 * 1024));
    let rounds = 3 * limits::MAX_UNDER_WAY_BYTES / data.len() as u64;
    let mut waited = 0;
    for _ in 0..rounds {
        track.write(data.clone(), None).unwrap();
        waited += u32::from(!track.demand().is_ready());
        assert!(within("room for more", track.ready()).await);
    }
    assert!(waited >= 1, "it never waited for one who takes nothing");
    // The end comes as well, though nobody takes it.
    broadcast.finish();
    until("it is withdrawn", || {
        listener.peer.moq.published_broadcasts().is_empty()
    })
    .await;
}

/// Each version offered alone to listeners that know one version alone.
#[tokio::test]
async fn pairs_of_versions_agree_or_are_refused() {
    for theirs in ALPNS {
        let peer = Peer::with_alpns(
            1,
            crate::Config::default(),
            iroh::RelayMode::Disabled,
            &[theirs],
        )
        .await;
        let dialler = endpoint(2).await;
        for ours in ALPNS.into_iter().chain([b"moq-lite-99".as_slice()]) {
            let result = within("an answer", dialler.connect(peer.addr(), ours)).await;
            assert_eq!(result.is_ok(), ours == theirs, "{ours:?} {theirs:?}");
        }
    }
    // A listener that knows none of ours: the error says that it is about the protocol.
    let foreign = Peer::with_alpns(
        1,
        crate::Config::default(),
        iroh::RelayMode::Disabled,
        &[b"moq-lite-99"],
    )
    .await;
    let peer = Peer::new(2).await;
    let error = within("refusal", peer.moq.connect(foreign.addr()))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "CONNECT_FAILED");
    assert!(error.to_string().contains("protocol"), "{error}");
}
