//! Rooms on a bad day: peers that have the ticket and mean no good. Each test has two who mean well,
//! and who can talk to each other during it and afterwards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use iroh::{
    Endpoint, EndpointId, RelayMode, SecretKey,
    address_lookup::memory::MemoryLookup,
    endpoint::{Connection, ConnectionError, QuicTransportConfig, presets},
    protocol::Router,
};
use iroh_gossip::{
    ALPN, Gossip, TopicId,
    api::{GossipReceiver, GossipSender},
};
use iroh_rooms::{
    Event, Live, Relays, Room, RoomTicket,
    moq::ALPNS,
    presence::{ROOM_STATE_KEY, RoomKey, RoomState},
    room,
};
use iroh_rooms_kv::wire::GossipMessage;
use serde_json::json;
use tokio::{net::TcpListener, time::sleep};

use crate::net::{PATIENCE, Relay, enter, joined, pair, said, soon, until};

/// iroh-gossip's frames have this many bytes beside the content of a message.
const FRAME_OVERHEAD: usize = 38;
/// And at most so many in all.
const FRAME_MAX: usize = 4096;

/// A peer without this library: an endpoint and iroh-gossip.
pub struct Stranger {
    pub endpoint: Endpoint,
    pub gossip: Gossip,
    lookup: MemoryLookup,
    _router: Router,
}

impl Stranger {
    pub async fn at(relay: &Relay) -> Self {
        Self::with(relay, QuicTransportConfig::builder().build()).await
    }

    async fn with(relay: &Relay, transport: QuicTransportConfig) -> Self {
        let lookup = MemoryLookup::new();
        let endpoint = Endpoint::builder(presets::Minimal)
            .relay_mode(RelayMode::Custom([relay.url()].into_iter().collect()))
            .transport_config(transport)
            .address_lookup(lookup.clone())
            .bind()
            .await
            .expect("it binds");
        soon(endpoint.online()).await;
        // It takes and sends more than others do.
        let gossip = Gossip::builder()
            .max_message_size(2 * FRAME_MAX)
            .spawn(endpoint.clone());
        let router = Router::builder(endpoint.clone())
            .accept(ALPN, gossip.clone())
            .spawn();
        Self {
            endpoint,
            gossip,
            lookup,
            _router: router,
        }
    }

    pub fn know(&self, live: &Live) {
        self.lookup.add_endpoint_info(live.addr());
    }

    pub async fn join(&self, topic: TopicId, victim: &Live) -> (GossipSender, GossipReceiver) {
        self.know(victim);
        let peers = vec![victim.endpoint_id()];
        let joined = soon(self.gossip.subscribe_and_join(topic, peers)).await;
        joined.expect("it joins").split()
    }

    pub async fn connect(&self, victim: &Live, alpn: &[u8]) -> Connection {
        soon(self.endpoint.connect(victim.addr(), alpn))
            .await
            .expect("it connects")
    }
}

pub fn wall() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    now.as_nanos() as u64
}

pub fn secret(number: u32) -> SecretKey {
    let mut seed = [77; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    SecretKey::from_bytes(&seed)
}

/// What a member says of itself.
pub fn member(topic: &TopicId, id: EndpointId) -> RoomState {
    RoomState::new(&RoomKey::new(topic), &id)
}

pub fn signed(secret: &SecretKey, state: &RoomState) -> GossipMessage {
    let value = state.encode().expect("within the limit of values");
    GossipMessage::sign(secret, ROOM_STATE_KEY.into(), wall(), value.into())
}

pub async fn say(sender: &GossipSender, bytes: impl Into<bytes::Bytes>) {
    soon(sender.broadcast(bytes.into()))
        .await
        .expect("gossip takes it");
}

/// Both hear what the other says.
pub async fn they_talk(rooms: [&mut Room; 2], text: &str) {
    let [a, b] = rooms;
    a.send_chat(text).await.expect("open");
    until(b, |event| said(event).filter(|(_, said)| said == text)).await;
    b.send_chat(text).await.expect("open");
    until(a, |event| said(event).filter(|(_, said)| said == text)).await;
}

/// The second hears of a change of the first that only gossip carries.
async fn gossip_flows(from: &Room, to: &mut Room, what: &str) {
    let wanted = json!({ "at": what });
    let presence = Some(wanted.clone());
    from.handle().set_presence(presence).await.expect("open");
    until(to, |event| match event {
        Event::PeerUpdated { peer, .. } => (peer.presence.as_ref() == Some(&wanted)).then_some(()),
        _ => None,
    })
    .await;
}

pub async fn holds(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let met = tokio::time::timeout(3 * PATIENCE, async {
        while !check().await {
            sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(met.await.is_ok(), "{what}: not in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn own_limits_are_errors_that_say_so() {
    let live = Live::builder().relays(Relays::Disabled);
    let live = live.spawn().await.expect("without a relay");
    let long = "x".repeat(1024 * 1024);
    let options = room::Options {
        display_name: Some(long.clone()),
        ..Default::default()
    };
    let refused = Room::open(&live, RoomTicket::generate(), options).await;
    let error = refused.expect_err("a name of 1 MiB");
    assert_eq!(error.code(), "TOO_LARGE");
    assert!(error.to_string().contains("1048576"), "{error}");

    let room = Room::new(&live, RoomTicket::generate())
        .await
        .expect("open");
    for error in [
        room.handle()
            .set_display_name(Some(&long))
            .await
            .expect_err("1 MiB"),
        room.send_chat(&"x".repeat(4097))
            .await
            .expect_err("4,097 bytes"),
    ] {
        assert_eq!(error.code(), "TOO_LARGE");
    }
    room.send_chat(&"x".repeat(4096))
        .await
        .expect("4,096 bytes");
    let empty = room.send_chat("").await.expect_err("no text");
    assert_eq!(empty.code(), "INVALID_ARGUMENT");
    live.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_relay_is_named() {
    // It listens, and says nothing a relay would say.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let server = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let url = format!("http://{addr}").parse().expect("a URL");
    let live = Live::builder().relays(Relays::Custom(vec![url]));
    let error = live.spawn().await.expect_err("it is none");
    assert_eq!(error.code(), "RELAY_UNREACHABLE");
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_gossips_is_counted_and_shown_to_nobody() {
    let relay = Relay::on_free_port().await;
    let ([a, b], mut room_a, mut room_b) = pair(&relay).await;
    they_talk([&mut room_a, &mut room_b], "before").await;
    let topic = room_a.handle().id();
    let stranger = Stranger::at(&relay).await;
    let (sender, _receiver) = stranger.join(topic, &a).await;
    let before = room_a.handle().stats().await.expect("open").refused;

    say(&sender, b"garbage".as_slice()).await;
    say(&sender, vec![0xff; 3900]).await;
    // In the name of one who is here, without its key.
    let mut stolen = signed(&secret(1), &member(&topic, b.endpoint_id()));
    stolen.scope = b.endpoint_id();
    say(&sender, stolen.encode()).await;
    // From eleven minutes ahead.
    let later = wall() + 660_000_000_000;
    let value = member(&topic, secret(2).public()).encode().expect("small");
    let future = GossipMessage::sign(&secret(2), ROOM_STATE_KEY.into(), later, value.into());
    say(&sender, future.encode()).await;
    // What someone said in another room, with its signature.
    let elsewhere = TopicId::from_bytes([9; 32]);
    let replayed = signed(&secret(3), &member(&elsewhere, secret(3).public()));
    say(&sender, replayed.encode()).await;
    // Members that break the limits of what they say of themselves.
    let mut long = member(&topic, secret(4).public());
    long.display_name = Some("x".repeat(2500));
    say(&sender, signed(&secret(4), &long).encode()).await;
    let mut many = member(&topic, secret(5).public());
    many.broadcasts = (0..33).map(|n| n.to_string()).collect();
    say(&sender, signed(&secret(5), &many).encode()).await;

    // What is said in its own name the second may know a newer word of, and then does not look further.
    for (live, room, refusals) in [(&a, &room_a, 7), (&b, &room_b, 6)] {
        holds("the refusals", async || {
            room.handle().stats().await.expect("open").refused >= before + refusals
        })
        .await;
        let others = room.handle().peers();
        assert_eq!(others.len(), 1, "{others:?}");
        assert_ne!(others[0].id, live.endpoint_id());
    }
    they_talk([&mut room_a, &mut room_b], "after").await;
    gossip_flows(&room_a, &mut room_b, "after").await;
    for live in [a, b] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_nobodies_keeps_no_newcomer_out() {
    let relay = Relay::on_free_port().await;
    let ([a, b], mut room_a, mut room_b) = pair(&relay).await;
    they_talk([&mut room_a, &mut room_b], "before").await;
    let topic = room_a.handle().id();
    let stranger = Stranger::at(&relay).await;
    let (sender, _receiver) = stranger.join(topic, &a).await;
    for number in 0..300 {
        let secret = secret(number);
        say(
            &sender,
            signed(&secret, &member(&topic, secret.public())).encode(),
        )
        .await;
    }
    holds("the crowd", async || room_a.handle().peers().len() > 250).await;
    they_talk([&mut room_a, &mut room_b], "in the crowd").await;

    // To dial them all in turn would take minutes.
    let c = relay.live().await;
    let mut room_c = enter(&c, &room_a.ticket().await.expect("open"), "Cy").await;
    they_talk([&mut room_a, &mut room_c], "through the crowd").await;
    they_talk([&mut room_b, &mut room_c], "all of us").await;
    for live in [a, b, c] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_cannot_send_us_to_ever_more_relays() {
    /// As in the room's actor.
    const MAX_RELAYS: usize = 8;
    let relay = Relay::on_free_port().await;
    let ([a, b], mut room_a, mut room_b) = pair(&relay).await;
    they_talk([&mut room_a, &mut room_b], "before").await;
    let topic = room_a.handle().id();
    let stranger = Stranger::at(&relay).await;
    let (sender, _receiver) = stranger.join(topic, &a).await;
    let mut visited = Vec::new();
    for number in 0..3 * MAX_RELAYS as u32 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let secret = secret(number);
        let mut state = member(&topic, secret.public());
        let addr = listener.local_addr().expect("bound");
        state.relay_url = Some(format!("http://{addr}/"));
        let was_visited = Arc::new(AtomicBool::new(false));
        visited.push(was_visited.clone());
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                was_visited.store(true, Ordering::Relaxed);
            }
        });
        say(&sender, signed(&secret, &state).encode()).await;
    }
    let count = || {
        visited
            .iter()
            .filter(|it| it.load(Ordering::Relaxed))
            .count()
    };
    holds("a visit", async || count() > 0).await;
    holds("all of them", async || {
        room_a.handle().peers().len() > 3 * MAX_RELAYS
    })
    .await;
    they_talk([&mut room_a, &mut room_b], "after").await;
    // Of two rooms, which may have chosen different ones.
    assert!(count() <= 2 * MAX_RELAYS, "{}", count());
    for live in [a, b] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_opened_and_left_harm_nobody() {
    /// Of one peer to gossip.
    const MAX_CONNECTIONS: usize = 64;
    let relay = Relay::on_free_port().await;
    let ([a, b], mut room_a, mut room_b) = pair(&relay).await;
    they_talk([&mut room_a, &mut room_b], "before").await;
    let stranger = Stranger::at(&relay).await;
    let mut held = Vec::new();
    let mut open = async |connection: &Connection| {
        for _ in 0..300 {
            // Without a byte a stream is not there at all. It may be shown out meanwhile.
            let Ok(mut stream) = connection.open_uni().await else {
                break;
            };
            let _ = stream.write_all(&[0]).await;
            held.push(stream);
        }
    };
    let moq = stranger.connect(&a, ALPNS[0]).await;
    open(&moq).await;
    let gossip = stranger.connect(&a, ALPN).await;
    open(&gossip).await;
    they_talk([&mut room_a, &mut room_b], "during").await;
    assert!(matches!(
        soon(moq.closed()).await,
        ConnectionError::ApplicationClosed(_)
    ));

    // More connections to gossip than anyone needs.
    let mut more = Vec::new();
    for _ in 0..MAX_CONNECTIONS + 5 {
        more.push(stranger.connect(&a, ALPN).await);
    }
    for connection in &more[MAX_CONNECTIONS..] {
        let ConnectionError::ApplicationClosed(close) = soon(connection.closed()).await else {
            panic!("it is not refused");
        };
        assert_eq!(close.error_code, 1u32.into());
    }
    assert!(a.stats().refused >= 5);
    they_talk([&mut room_a, &mut room_b], "after").await;
    gossip_flows(&room_b, &mut room_a, "after").await;
    for live in [a, b] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_gossips_limit_costs_one_restart() {
    let relay = Relay::on_free_port().await;
    let ([a, b], mut room_a, mut room_b) = pair(&relay).await;
    they_talk([&mut room_a, &mut room_b], "before").await;
    let topic = room_a.handle().id();
    let stranger = Stranger::at(&relay).await;
    let (sender, _receiver) = stranger.join(topic, &a).await;
    let content = |frame: usize, fill: u8| vec![fill; frame - FRAME_OVERHEAD];
    say(&sender, content(FRAME_MAX - 1, 1)).await;
    gossip_flows(&room_a, &mut room_b, "one less").await;
    assert_eq!(a.stats().gossip_restarts, 0);

    say(&sender, content(FRAME_MAX, 2)).await;
    holds("the restart", async || a.stats().gossip_restarts > 0).await;
    they_talk([&mut room_a, &mut room_b], "meanwhile").await;
    gossip_flows(&room_a, &mut room_b, "afterwards").await;
    gossip_flows(&room_b, &mut room_a, "afterwards").await;
    let c = relay.live().await;
    let mut room_c = enter(&c, &room_a.ticket().await.expect("open"), "Cy").await;
    until(&mut room_c, joined).await;

    // Whoever did it is let in nowhere where it did it.
    stranger.know(&a);
    for fill in 3..8 {
        let again = stranger
            .gossip
            .subscribe(topic, vec![a.endpoint_id()])
            .await;
        let (sender, _receiver) = again.expect("it tries").split();
        // Without a neighbour it is for nobody, and that is no error.
        let _ = sender.broadcast(content(FRAME_MAX, fill).into()).await;
        let refused = a.stats().refused;
        let connection = stranger.connect(&a, ALPN).await;
        soon(connection.closed()).await;
        assert!(a.stats().refused > refused);
    }
    assert!(a.stats().gossip_restarts <= 2, "{:?}", a.stats());

    // One more is not read at all.
    let other = Stranger::at(&relay).await;
    let (sender, _receiver) = other.join(topic, &b).await;
    say(&sender, content(FRAME_MAX + 1, 9)).await;
    they_talk([&mut room_b, &mut room_c], "after").await;
    gossip_flows(&room_a, &mut room_b, "after").await;
    for live in [a, b, c] {
        live.close().await;
    }
}

/// Its neighbours may open no stream to it: what is for it fills a queue, and then gossip hangs.
#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_reads_nothing_is_found_out() {
    let relay = Relay::on_free_port().await;
    let ([a, b], mut room_a, mut room_b) = pair(&relay).await;
    they_talk([&mut room_a, &mut room_b], "before").await;
    let transport = QuicTransportConfig::builder().max_concurrent_uni_streams(0u32.into());
    let deaf = Stranger::with(&relay, transport.build()).await;
    deaf.know(&a);
    let joining = deaf
        .gossip
        .subscribe(room_a.handle().id(), vec![a.endpoint_id()]);
    let _topic = soon(joining).await.expect("it tries");
    let mut n = 0;
    holds("the restart", async || {
        n += 1;
        // While gossip hangs this waits, and may fail.
        let _ = room_a.handle().set_presence(Some(json!(n))).await;
        a.stats().gossip_restarts > 0
    })
    .await;
    they_talk([&mut room_a, &mut room_b], "meanwhile").await;
    gossip_flows(&room_a, &mut room_b, "after").await;
    let refused = a.stats().refused;
    let connection = deaf.connect(&a, ALPN).await;
    soon(connection.closed()).await;
    assert!(a.stats().refused > refused);
    for live in [a, b] {
        live.close().await;
    }
}
