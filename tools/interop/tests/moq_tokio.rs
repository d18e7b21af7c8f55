//! Our endpoints and those of moq-tokio, over iroh by direct address: either side dials, and
//! broadcasts flow both ways, in every version of the protocol.

#[path = "../../../crates/moq/tests/common/mod.rs"]
mod common;

use std::{net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use common::{HISTORY, Peer, bytes, frame, within};
use iroh::{Endpoint, EndpointId, RelayMode, SecretKey, endpoint::presets};
use iroh_rooms_moq::{
    Broadcast, Scope, Session, SessionEvent, TrackConfig, TrackOptions, TrackWriter, close,
};
use moq_tokio::{
    Connection,
    server::{Listener, Request},
};
// What moq-tokio's callers write, who need no other crate.
use moq_tokio::moq_net::{Timescale, Timestamp, broadcast, group, origin, track};

/// Three groups of two frames, of which the last is larger than a window.
const GROUPS: u64 = 3;
const LARGE: usize = 3 * 1024 * 1024;

fn payload(number: u64, index: u64) -> Bytes {
    if (number, index) == (GROUPS - 1, 1) {
        Bytes::from(vec![7; LARGE])
    } else {
        bytes(&format!("{number}/{index}"))
    }
}

fn micros(number: u64, index: u64) -> u64 {
    1_000_000 + number * 1000 + index
}

/// Versions 03 and 04 have neither timestamps, nor datagrams, nor the end of a track.
fn modern(version: &str) -> bool {
    version >= "moq-lite-05"
}

/// An endpoint of moq-tokio, with one broadcast `theirs` and what it hears of others.
struct Foreign {
    endpoint: Endpoint,
    published: origin::Producer,
    heard: origin::Producer,
    /// Kept: it ends with this.
    _broadcast: broadcast::Producer,
    track: track::Producer,
}

impl Foreign {
    async fn new() -> Self {
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(SecretKey::from_bytes(&[77; 32]))
            .relay_mode(RelayMode::Disabled)
            .clear_ip_transports()
            .bind_addr((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .bind()
            .await
            .unwrap();
        let published = moq_tokio::origin::spawn();
        let broadcast = published.create_broadcast("theirs").unwrap();
        broadcast.announce(origin::Route::default()).unwrap();
        let info = track::Info::default()
            .with_timescale(Timescale::MICRO)
            .with_max_age(Duration::from_secs(300));
        let track = broadcast.create_track("t", info).unwrap();
        for number in 0..GROUPS {
            let mut group = track.append_group().unwrap();
            for index in 0..2 {
                let time = Timestamp::new(micros(number, index), Timescale::MICRO).unwrap();
                group.write_frame(time, payload(number, index)).unwrap();
            }
            group.finish().unwrap();
        }
        Self {
            endpoint,
            published,
            heard: moq_tokio::origin::spawn(),
            _broadcast: broadcast,
            track,
        }
    }

    fn id(&self) -> EndpointId {
        self.endpoint.id()
    }

    /// Dials one of ours, offering the versions named; all it knows if there are none.
    async fn dial(&self, peer: &Peer, path: &str, versions: &[&str]) -> Connection {
        let mut config = moq_tokio::connect::Config::default();
        config.version = parse(versions);
        let client = config
            .init(moq_tokio::quic::Config::default())
            .unwrap()
            .with_iroh(self.endpoint.clone())
            .with_iroh_addrs(peer.endpoint.bound_sockets())
            .with_publisher(&self.published)
            .with_subscriber(self.heard.clone())
            .with_reconnect(false);
        let url: url::Url = format!("iroh://{}{path}", peer.id()).parse().unwrap();
        let connecting = client.connect(url);
        within("moq-tokio's dial", connecting.established())
            .await
            .unwrap()
    }

    async fn listen(&self, versions: &[&str]) -> Listener {
        let mut config = moq_tokio::server::Config::default();
        config.listen.version = parse(versions);
        config.iroh = Some(self.endpoint.clone());
        config.publisher = Some(self.published.consume());
        config.subscriber = Some(self.heard.clone());
        config.init().unwrap().listen().await.unwrap()
    }

    /// Reads our broadcast as moq-tokio's callers do.
    async fn read(&self, version: &str) {
        let heard = self.heard.consume();
        let ours = within("our broadcast", heard.routed_broadcast("ours"))
            .await
            .unwrap();
        let track = ours.track("t").unwrap();
        let everything = track::Subscription::default()
            .with_max_age(Duration::from_secs(300))
            .with_start(Some(track::Position::group(0)));
        let subscriber = within("our track", track.subscribe(everything))
            .await
            .unwrap();
        let mut groups = subscriber.ordered();
        for number in 0..GROUPS {
            let mut group = within("our group", groups.next_group())
                .await
                .unwrap()
                .unwrap();
            assert_eq!(group.sequence, number);
            self.read_group(&mut group, number, version).await;
        }
        if modern(version) {
            let mut old = within("an old group", track.fetch_group(1, None))
                .await
                .unwrap();
            self.read_group(&mut old, 1, version).await;
        }
    }

    async fn read_group(&self, group: &mut group::Consumer, number: u64, version: &str) {
        for index in 0..2 {
            let frame = within("our frame", group.read_frame())
                .await
                .unwrap()
                .unwrap();
            assert!(frame.payload == payload(number, index), "{number}/{index}");
            if modern(version) {
                let time = Duration::from(frame.timestamp);
                assert_eq!(time, Duration::from_micros(micros(number, index)));
            }
        }
        assert!(
            within("our group's end", group.read_frame())
                .await
                .unwrap()
                .is_none()
        );
    }
}

fn parse(versions: &[&str]) -> Vec<moq_tokio::moq_net::Version> {
    versions
        .iter()
        .map(|version| version.parse().unwrap())
        .collect()
}

fn publish(peer: &Peer) -> (Broadcast, TrackWriter) {
    let broadcast = Broadcast::new();
    let config = TrackConfig {
        max_age: Duration::from_secs(300),
        ..TrackConfig::default()
    };
    let mut track = broadcast.track("t", config).unwrap();
    for number in 0..GROUPS {
        let mut group = track.group().unwrap();
        for index in 0..2 {
            let time = Duration::from_micros(micros(number, index));
            group.write(payload(number, index), Some(time)).unwrap();
        }
        group.finish();
    }
    peer.moq.publish("ours", &broadcast).unwrap();
    (broadcast, track)
}

/// Reads moq-tokio's broadcast with our library, from the first group on and to the end.
async fn read(scope: &Scope, foreign: &Foreign, version: &str) {
    let remote = within("their broadcast", scope.subscribe(foreign.id(), "theirs"))
        .await
        .unwrap();
    let mut reader = within("their track", remote.track("t", HISTORY))
        .await
        .unwrap();
    for number in 0..GROUPS {
        for index in 0..2 {
            let frame = frame(&mut reader).await.unwrap();
            assert_eq!((frame.group, frame.index), (number, index));
            assert!(frame.data == payload(number, index), "{number}/{index}");
            if modern(version) {
                let time = Duration::from_micros(micros(number, index));
                assert_eq!(frame.timestamp, time);
            }
        }
    }
    if modern(version) {
        let mut old = within("an old group", reader.fetch(1)).await.unwrap();
        let first = within("its frame", old.next_frame()).await.unwrap();
        assert_eq!(first.unwrap().data, payload(1, 0));
    }
    // What is written while we read comes at once, and the end is an end.
    let time = Timestamp::new(micros(GROUPS, 0), Timescale::MICRO).unwrap();
    let mut group = foreign.track.append_group().unwrap();
    group.write_frame(time, payload(GROUPS, 0)).unwrap();
    group.finish().unwrap();
    assert_eq!(frame(&mut reader).await.unwrap().data, payload(GROUPS, 0));
    // Older versions do not say which group is the last. There a reader learns of the end when none
    // can come any more that it would still want: at once if it wants the newest only.
    if !modern(version) {
        drop(reader);
        let newest = remote.track("t", TrackOptions::default());
        reader = within("their track again", newest).await.unwrap();
        assert_eq!(frame(&mut reader).await.unwrap().group, GROUPS);
    }
    foreign.track.finish().unwrap();
    assert!(frame(&mut reader).await.is_none());
}

/// The session with moq-tokio in the endpoint's own scope.
async fn session(peer: &Peer, foreign: &Foreign) -> Session {
    let mut sessions = peer.moq.own().sessions();
    loop {
        match within("a session", sessions.next()).await.unwrap() {
            SessionEvent::Opened(session) if session.remote_id() == foreign.id() => return session,
            _ => {}
        }
    }
}

async fn they_dial(version: &str) {
    let (peer, foreign) = (Peer::new(1).await, Foreign::new().await);
    let (_broadcast, _track) = publish(&peer);
    let connection = foreign.dial(&peer, "", &[version]).await;
    assert_eq!(connection.version().unwrap().as_str(), version);
    foreign.read(version).await;
    read(peer.moq.own(), &foreign, version).await;

    let session = session(&peer, &foreign).await;
    session.close(close::LEAVING, "we leave");
    let ended = within("the end of moq-tokio's session", connection.closed()).await;
    assert!(ended.is_err(), "it is not the end that moq-tokio asked for");
}

async fn we_dial(version: &str) {
    let (peer, foreign) = (Peer::new(1).await, Foreign::new().await);
    let (_broadcast, _track) = publish(&peer);
    let mut listener = foreign.listen(&[version]).await;
    let addr = foreign
        .endpoint
        .bound_sockets()
        .into_iter()
        .fold(foreign.id().into(), iroh::EndpointAddr::with_ip_addr);
    let dial = peer.moq.connect(addr);
    let accept = async {
        let request: Request = listener.accept().await.unwrap();
        assert_eq!(request.alpn(), Some(version));
        request.ok().await.unwrap()
    };
    let (ours, theirs) = within("a session", async { tokio::join!(dial, accept) }).await;
    let ours = ours.unwrap();
    assert_eq!(theirs.version().as_str(), version);
    foreign.read(version).await;
    read(peer.moq.own(), &foreign, version).await;

    drop(theirs);
    within("the end of our session", ours.closed()).await;
}

/// Both directions of a dial in one version of the protocol.
macro_rules! version {
    ($module:ident, $version:literal) => {
        mod $module {
            #[tokio::test]
            async fn they_dial() {
                super::they_dial($version).await;
            }

            #[tokio::test]
            async fn we_dial() {
                super::we_dial($version).await;
            }
        }
    };
}

version!(lite_06, "moq-lite-06");
version!(lite_05, "moq-lite-05");
version!(lite_04, "moq-lite-04");
version!(lite_03, "moq-lite-03");

/// With the address as people write it, too, with a slash at its end.
#[tokio::test]
async fn the_newest_version_is_taken() {
    let (peer, foreign) = (Peer::new(1).await, Foreign::new().await);
    let connection = foreign.dial(&peer, "/", &[]).await;
    assert_eq!(connection.version().unwrap().as_str(), "moq-lite-06");
    assert_eq!(session(&peer, &foreign).await.version(), "moq-lite-06");
}
