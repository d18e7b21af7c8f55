//! A peer as iroh-live's rooms are, made of what they are made of: iroh-gossip, iroh-smol-kv's own
//! client with its state at key `s`, and MoQ at `moq-lite-03`, which it offers alone. It meets a room of
//! ours that is opened with `Compat::IrohLive`.

use std::{
    collections::{BTreeMap, HashSet},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use iroh::{
    Endpoint, EndpointId, RelayMode, RelayUrl, SecretKey,
    address_lookup::memory::MemoryLookup,
    endpoint::{Connection, presets},
    protocol::{AcceptError, ProtocolHandler, Router},
};
use iroh_gossip::{ALPN as GOSSIP, Gossip, TopicId};
use iroh_relay::server::{RelayConfig, Server, ServerConfig};
use iroh_rooms::{
    Event, Live, Relays, Room, RoomTicket,
    event::{Changed, EndReason, LeftReason},
    moq::{Broadcast, RemoteBroadcast, TrackConfig, TrackOptions, TrackWriter},
    room::{Compat, Options},
};
use iroh_smol_kv::{Client, Config, ExpiryConfig, WriteScope};
use iroh_tickets::{ParseError, Ticket};
use moq_tokio::{
    iroh::web_transport_iroh,
    moq_net::{self, Pattern, Patterns, Timescale, Timestamp, broadcast, origin, time, track},
    transport,
};
use n0_future::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

const MOQ: &[u8] = b"moq-lite-03";
const CATALOG: &str = r#"{"chat":{"message":{"name":"chat","priority":10}}}"#;

/// Fails rather than hangs.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = timeout(Duration::from_secs(60), future).await;
    result.unwrap_or_else(|_| panic!("{what}: not in time"))
}

/// Its state, as the specification has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct PeerState {
    broadcasts: Vec<String>,
    display_name: Option<String>,
}

/// Its ticket, which is read without looking at what follows.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct TheirTicket {
    bootstrap: Vec<EndpointId>,
    topic_id: TopicId,
}

impl Ticket for TheirTicket {
    const KIND: &'static str = "room";

    fn encode_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap()
    }

    fn decode_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        Ok(postcard::from_bytes(bytes)?)
    }
}

type Transport = transport::Session<web_transport_iroh::Session>;
type States = Pin<Box<dyn Stream<Item = (EndpointId, PeerState)> + Send>>;

/// What both ends of its sessions share.
#[derive(Clone)]
struct Moq {
    published: origin::Producer,
    /// What peers announce, below their ids.
    heard: origin::Producer,
    peers: Arc<Mutex<HashSet<EndpointId>>>,
}

impl Moq {
    fn below(&self, remote: EndpointId) -> origin::Producer {
        let all = Patterns::from(Pattern::subtree("").unwrap());
        self.heard.scope(remote.to_string(), &all).unwrap()
    }

    fn transport(connection: Connection) -> Transport {
        transport::Session::new(web_transport_iroh::Session::raw(connection))
    }
}

impl std::fmt::Debug for Moq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Moq")
    }
}

impl ProtocolHandler for Moq {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let remote = connection.remote_id();
        let server = moq_net::Server::new()
            .with_publisher(&self.published)
            .with_subscriber(self.below(remote));
        let accepted = server.accept_lite(time::Instant::now(), Self::transport(connection));
        let (session, driver) = accepted.await.map_err(AcceptError::from_err)?;
        self.peers.lock().unwrap().insert(remote);
        time::run(driver).await;
        self.peers.lock().unwrap().remove(&remote);
        drop(session);
        Ok(())
    }
}

/// An endpoint of iroh-live.
struct Theirs {
    endpoint: Endpoint,
    lookup: MemoryLookup,
    gossip: Gossip,
    moq: Moq,
    router: Router,
}

/// It in a room.
struct TheirRoom {
    kv: Client,
    writer: WriteScope,
    states: States,
}

/// A broadcast of it.
struct TheirBroadcast {
    broadcast: broadcast::Producer,
    chat: track::Producer,
    /// Kept: tracks end with these.
    _tracks: [track::Producer; 2],
}

impl Theirs {
    async fn at(relay: &Relay, seed: u8) -> Self {
        let lookup = MemoryLookup::new();
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(SecretKey::from_bytes(&[seed; 32]))
            .relay_mode(RelayMode::Custom([relay.url()].into_iter().collect()))
            .address_lookup(lookup.clone())
            .bind()
            .await
            .unwrap();
        soon("their relay", endpoint.online()).await;
        let gossip = Gossip::builder().spawn(endpoint.clone());
        let moq = Moq {
            published: moq_tokio::origin::spawn(),
            heard: moq_tokio::origin::spawn(),
            peers: Arc::default(),
        };
        let router = Router::builder(endpoint.clone())
            .accept(GOSSIP, gossip.clone())
            .accept(MOQ, moq.clone())
            .spawn();
        Self {
            endpoint,
            lookup,
            gossip,
            moq,
            router,
        }
    }

    fn id(&self) -> EndpointId {
        self.endpoint.id()
    }

    async fn join(&self, ticket: &TheirTicket) -> TheirRoom {
        let peers = ticket.bootstrap.clone();
        let topic = self.gossip.subscribe(ticket.topic_id, peers).await.unwrap();
        let kv = Client::local(
            topic,
            Config {
                anti_entropy_interval: Duration::from_secs(60),
                fast_anti_entropy_interval: Duration::from_millis(500),
                expiry: Some(ExpiryConfig {
                    horizon: Duration::from_secs(120),
                    check_interval: Duration::from_secs(10),
                }),
            },
        );
        let values = kv.subscribe().stream();
        let states = values.filter_map(|value| {
            let (scope, key, value) = value.unwrap();
            (&key[..] == b"s").then(|| (scope, postcard::from_bytes(&value.value).unwrap()))
        });
        TheirRoom {
            writer: kv.write(self.endpoint.secret_key().clone()),
            kv,
            states: Box::pin(states),
        }
    }

    /// A broadcast of one picture, with a chat in it.
    fn publish(&self, name: &str) -> TheirBroadcast {
        let broadcast = self.moq.published.create_broadcast(name).unwrap();
        let track = |name: &str, text: Option<&'static str>| {
            let info = track::Info::default()
                .with_timescale(Timescale::MICRO)
                .with_max_age(Duration::from_secs(300));
            let track = broadcast.create_track(name, info).unwrap();
            text.map(|text| say(&track, text));
            track
        };
        let tracks = [
            track("catalog.json", Some(CATALOG)),
            track("video", Some("their picture")),
        ];
        let chat = track("chat", None);
        broadcast.announce(origin::Route::default()).unwrap();
        TheirBroadcast {
            chat,
            _tracks: tracks,
            broadcast,
        }
    }

    /// Waits for a broadcast, by the session that there is or by a new one.
    async fn subscribe(&self, remote: EndpointId, name: &str) -> broadcast::Consumer {
        if !self.moq.peers.lock().unwrap().contains(&remote) {
            let connection = soon("their dial", self.endpoint.connect(remote, MOQ)).await;
            let client = moq_net::Client::new()
                .with_publisher(&self.moq.published)
                .with_subscriber(self.moq.below(remote));
            let transport = Moq::transport(connection.unwrap());
            let connecting = client.connect_lite(time::Instant::now(), transport);
            let (session, driver) = soon("their session", connecting).await.unwrap();
            let peers = self.moq.peers.clone();
            peers.lock().unwrap().insert(remote);
            tokio::spawn(async move {
                time::run(driver).await;
                peers.lock().unwrap().remove(&remote);
                drop(session);
            });
        }
        let heard = self.moq.heard.consume();
        let announced = heard.routed_broadcast(format!("{remote}/{name}"));
        soon("our broadcast", announced).await.unwrap()
    }

    async fn close(self) {
        self.router.shutdown().await.unwrap();
        self.endpoint.close().await;
    }
}

impl TheirRoom {
    async fn write(&self, broadcasts: &[&str], name: &str) {
        let state = PeerState {
            broadcasts: broadcasts.iter().map(ToString::to_string).collect(),
            display_name: Some(name.into()),
        };
        let value = postcard::to_stdvec(&state).unwrap();
        self.writer.put("s", value).await.unwrap();
    }

    /// Waits until a peer's state is as wanted.
    async fn until(&mut self, peer: EndpointId, wanted: impl Fn(&PeerState) -> bool) -> PeerState {
        let found = async {
            loop {
                let (scope, state) = self.states.next().await.expect("it goes on");
                if scope == peer && wanted(&state) {
                    return state;
                }
            }
        };
        soon("our state", found).await
    }
}

fn say(track: &track::Producer, text: &'static str) {
    let mut group = track.append_group().unwrap();
    let time = Timestamp::new(1, Timescale::MICRO).unwrap();
    group.write_frame(time, Bytes::from(text)).unwrap();
    group.finish().unwrap();
}

/// The first frame of a track of ours, from its first group on.
async fn read_ours(broadcast: &broadcast::Consumer, name: &str) -> Bytes {
    let everything = track::Subscription::default()
        .with_max_age(Duration::from_secs(300))
        .with_start(Some(track::Position::group(0)));
    let track = broadcast.track(name).unwrap();
    let subscriber = soon(name, track.subscribe(everything)).await.unwrap();
    let mut groups = subscriber.ordered();
    let mut group = soon(name, groups.next_group()).await.unwrap().unwrap();
    let frame = soon(name, group.read_frame()).await.unwrap();
    frame.expect("a frame").payload
}

async fn read_theirs(broadcast: &RemoteBroadcast) -> Bytes {
    let track = broadcast.track("video", TrackOptions::default());
    let mut reader = soon("their track", track).await.unwrap();
    let frame = soon("their picture", reader.next_frame()).await.unwrap();
    frame.expect("a frame").data
}

struct Relay {
    server: Server,
}

impl Relay {
    async fn start() -> Self {
        let mut config = ServerConfig::default();
        config.relay = Some(RelayConfig::new(([127, 0, 0, 1], 0)));
        let server = Server::spawn(config).await.unwrap();
        Self { server }
    }

    fn url(&self) -> RelayUrl {
        let addr = self.server.http_addr().unwrap();
        format!("http://{addr}").parse().unwrap()
    }

    async fn live(&self, seed: u8) -> Live {
        let live = Live::builder()
            .relays(Relays::Custom(vec![self.url()]))
            .secret_key(SecretKey::from_bytes(&[seed; 32]));
        live.spawn().await.unwrap()
    }
}

async fn enter(live: &Live, ticket: RoomTicket) -> Room {
    let options = Options {
        display_name: Some("Ada".into()),
        compat: Some(Compat::IrohLive),
        ..Options::default()
    };
    Room::open(live, ticket, options).await.unwrap()
}

/// A broadcast of one picture.
fn picture() -> (Broadcast, TrackWriter) {
    let broadcast = Broadcast::new();
    let config = TrackConfig {
        max_age: Duration::from_secs(300),
        ..TrackConfig::default()
    };
    let mut track = broadcast.track("video", config).unwrap();
    track.write("our picture".into(), None).unwrap();
    (broadcast, track)
}

async fn until<T>(room: &mut Room, mut fits: impl FnMut(&Event) -> Option<T>) -> T {
    let mut seen = Vec::new();
    let found = timeout(Duration::from_secs(60), async {
        loop {
            let event = room.recv().await.expect("the room is open");
            if let Some(found) = fits(&event) {
                return found;
            }
            seen.push(event);
        }
    });
    let found = found.await;
    found.unwrap_or_else(|_| panic!("not in time; seen: {seen:#?}"))
}

fn stays(event: &Event) {
    assert!(!matches!(event, Event::PeerLeft { .. }), "{event:?}");
}

/// Everything that both do, whoever was there first.
async fn they_meet(ours: &Live, room: &mut Room, theirs: &Theirs, their_room: &mut TheirRoom) {
    // They see us, and read our broadcast and our chat.
    let (_broadcast, _track) = picture();
    room.publish("camera", &_broadcast).await.unwrap();
    room.send_chat("hello from ours").await.unwrap();
    let us = ours.endpoint_id();
    let listed = |state: &PeerState| state.broadcasts == ["camera", "chat"];
    let state = their_room.until(us, listed).await;
    assert_eq!(state.display_name.as_deref(), Some("Ada"));
    let camera = theirs.subscribe(us, "camera").await;
    assert_eq!(read_ours(&camera, "video").await, "our picture");
    let chat = theirs.subscribe(us, "chat").await;
    let catalog = read_ours(&chat, "catalog.json").await;
    assert_eq!(catalog, CATALOG, "they find the chat by it");
    assert_eq!(read_ours(&chat, "chat").await, "hello from ours");

    // We see them, and read theirs.
    let camera = theirs.publish("camera");
    let unlisted = theirs.publish("of another room");
    their_room.write(&["camera"], "Theo").await;
    let mut broadcasts = BTreeMap::new();
    let mut joined = Vec::new();
    until(room, |event| {
        stays(event);
        match event {
            Event::PeerJoined { peer } => {
                assert_eq!(peer.id, theirs.id());
                joined.push(peer.display_name.clone().unwrap());
            }
            Event::BroadcastSubscribed {
                name, broadcast, ..
            } => {
                broadcasts.insert(name.clone(), broadcast.clone());
            }
            _ => {}
        }
        (joined.len() == 1 && broadcasts.contains_key("camera")).then_some(())
    })
    .await;
    assert_eq!(read_theirs(&broadcasts["camera"]).await, "their picture");
    for text in ["hello from theirs", "and again"] {
        say(&camera.chat, text);
        let (from, said) = until(room, |event| match event {
            Event::ChatMessage(message) => Some((message.peer.id, message.text.clone())),
            Event::BroadcastSubscribed { name, .. } => panic!("{name} is not of this room"),
            _ => None,
        })
        .await;
        assert_eq!((from, said.as_str()), (theirs.id(), text));
    }
    let about = room.handle().diagnose().await.unwrap();
    let versions: Vec<_> = about.iter().map(|peer| peer.version.as_deref()).collect();
    assert_eq!(versions, [Some("moq-lite-03")]);

    // A change is none that leaves, neither of the name nor of the last broadcast.
    their_room.write(&["camera"], "Theodor").await;
    let changed = until(room, |event| match event {
        Event::PeerUpdated { peer, changed } => {
            assert_eq!(peer.display_name.as_deref(), Some("Theodor"));
            Some(changed.clone())
        }
        event => {
            stays(event);
            None
        }
    })
    .await;
    assert_eq!(changed, [Changed::DisplayName]);
    their_room.write(&[], "Theodor").await;
    drop((camera.chat, camera._tracks));
    camera.broadcast.close();
    drop(unlisted);
    let reason = until(room, |event| match event {
        Event::BroadcastEnded { name, reason, .. } => {
            assert_eq!(name, "camera");
            Some(*reason)
        }
        event => {
            stays(event);
            None
        }
    })
    .await;
    assert_eq!(reason, EndReason::Unpublished);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_iroh_live_enters_our_room_by_our_ticket() {
    let relay = Relay::start().await;
    let ours = relay.live(1).await;
    let mut room = enter(&ours, RoomTicket::generate()).await;
    let theirs = Theirs::at(&relay, 2).await;
    theirs.lookup.add_endpoint_info(ours.addr());
    let ticket = room.ticket().await.unwrap();
    assert_eq!(ticket.relays.len(), 1, "more than they know of");
    let ticket = TheirTicket::decode_string(&ticket.to_string()).unwrap();
    assert_eq!(ticket.bootstrap, [ours.endpoint_id()]);
    let mut their_room = theirs.join(&ticket).await;
    they_meet(&ours, &mut room, &theirs, &mut their_room).await;

    // They have no word for leaving, and are gone when nothing is heard of them.
    let id = theirs.id();
    theirs.close().await;
    let left = until(&mut room, |event| match event {
        Event::PeerLeft { peer, reason } => Some((peer.id, *reason)),
        _ => None,
    });
    assert_eq!(left.await, (id, LeftReason::Timeout));
    ours.close().await;
    relay.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn we_enter_a_room_of_iroh_live_by_its_ticket() {
    let relay = Relay::start().await;
    let theirs = Theirs::at(&relay, 3).await;
    let ticket = TheirTicket {
        bootstrap: vec![theirs.id()],
        topic_id: TopicId::from_bytes([5; 32]),
    };
    let mut their_room = theirs.join(&ticket).await;
    let ours = relay.live(4).await;
    theirs.lookup.add_endpoint_info(ours.addr());
    let ticket: RoomTicket = ticket.encode_string().parse().unwrap();
    let mut room = enter(&ours, ticket).await;
    they_meet(&ours, &mut room, &theirs, &mut their_room).await;

    // What was published is withdrawn when we leave, and the endpoint's own scope goes on.
    room.handle().leave().await;
    assert!(ours.moq().published_broadcasts().is_empty());
    let parted = async {
        while !theirs.moq.peers.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("the session's end", parted).await;
    let (broadcast, _track) = picture();
    ours.moq().publish("after", &broadcast).unwrap();
    let after = theirs.subscribe(ours.endpoint_id(), "after").await;
    assert_eq!(read_ours(&after, "video").await, "our picture");
    their_room.kv.shutdown().await.unwrap();
    theirs.close().await;
    ours.close().await;
    relay.server.shutdown().await.unwrap();
}
