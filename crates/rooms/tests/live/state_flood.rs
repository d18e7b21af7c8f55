//! Rooms with a doorman and those who come in masses: what they fill, and whom they do not keep out.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use iroh::{
    Endpoint, EndpointAddr, RelayMode, SecretKey,
    endpoint::{Connection, ConnectionError, presets},
};
use iroh_rooms::{Live, Relays, StateRoom, doorman::Options};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    net::{Relay, soon},
    state::{entered, holds, join, names, patient, they_agree},
    state_hostile::{ASKS, DOOR, RAFT, at, at_door, first_words, proof},
};

/// Too many at once.
const BUSY: u64 = 2;

/// A peer without this library and without a relay: a flood costs nobody else anything.
async fn nearby(key: SecretKey) -> Endpoint {
    let builder = Endpoint::builder(presets::Minimal).secret_key(key);
    let builder = builder.relay_mode(RelayMode::Disabled);
    let builder = builder.clear_ip_transports().bind_addr("127.0.0.1:0");
    builder.expect("an address").bind().await.expect("it binds")
}

async fn strangers(count: usize) -> Vec<Endpoint> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(nearby(SecretKey::from_bytes(&rand::random())).await);
    }
    all
}

/// On the loopback.
fn directly(live: &Live) -> EndpointAddr {
    let addr = live.addr();
    let port = addr.ip_addrs().find(|it| it.is_ipv4()).map(|it| it.port());
    let local = SocketAddr::from(([127, 0, 0, 1], port.expect("it listens")));
    EndpointAddr::new(addr.id).with_ip_addr(local)
}

fn code_of(error: &ConnectionError) -> Option<u64> {
    match error {
        ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
        _ => None,
    }
}

/// How soon someone is back who was shown out: seconds before its place would be free.
const AGAIN: Duration = Duration::from_millis(500);

/// Comes again and again, and says the first half of a word.
async fn loiter(endpoint: Endpoint, to: EndpointAddr, alpn: &'static [u8], busy: Arc<AtomicU64>) {
    loop {
        let Ok(connection) = endpoint.connect(to.clone(), alpn).await else {
            continue;
        };
        if let Ok((mut send, _recv)) = connection.open_bi().await {
            let _ = send.write_all(&[0]).await;
            if code_of(&connection.closed().await) == Some(BUSY) {
                busy.fetch_add(1, Ordering::Relaxed);
                sleep(AGAIN).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_keeps_no_member_from_coming_back() {
    /// Fill all places of both kinds, 8 each.
    const CROWD: usize = 9;
    const EACH: usize = 10;
    let relay = Relay::on_free_port().await;
    let key = SecretKey::from_bytes(&rand::random());
    let relays = Relays::Custom(vec![relay.url()]);
    let (a, c) = (relay.live().await, relay.live().await);
    let b = Live::builder().relays(relays).secret_key(key.clone());
    let b = b.spawn().await.expect("the relay answers");
    let ada = StateRoom::create(&a, Some("the corner"), Options::new("ada"));
    let ada = entered(ada).await;
    let bo = join(&b, &ada, "bo").await;
    holds("both vote", || bo.consensus().voters.len() == 2).await;
    they_agree(&[&ada, &bo], "before").await;

    let (at_door, among_members) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut crowd = JoinSet::new();
    for stranger in strangers(CROWD).await {
        for _ in 0..EACH {
            for (alpn, busy) in [(DOOR, &at_door), (RAFT, &among_members)] {
                let (stranger, busy) = (stranger.clone(), busy.clone());
                crowd.spawn(loiter(stranger, directly(&a), alpn, busy));
            }
        }
    }
    let full = |what: &'static str| {
        let before = [&at_door, &among_members].map(|it| it.load(Ordering::Relaxed));
        let now = [at_door.clone(), among_members.clone()];
        holds(what, move || {
            let more = |(now, before): (&Arc<AtomicU64>, u64)| {
                now.load(Ordering::Relaxed) > before + CROWD as u64
            };
            now.iter().zip(before).all(more)
        })
    };
    full("all places are taken").await;
    // The network breaks the connection of the two: a newer one of the same key takes its place.
    let again = nearby(key.clone()).await;
    let connection = soon(again.connect(directly(&a), RAFT)).await.expect("in");
    let (mut send, mut recv) = soon(connection.open_bi()).await.expect("open");
    let hello = first_words(
        ada.id(),
        &proof("the corner", key.public(), a.endpoint_id()),
    );
    send.write_all(&hello).await.expect("open");
    let mut ready = [0; 5];
    soon(recv.read_exact(&mut ready)).await.expect("a member");
    assert_eq!(ready[4], 1);
    // And bo, who finds itself cut off, comes back.
    they_agree(&[&ada, &bo], "meanwhile").await;
    assert_eq!(names(&ada), ["ada", "bo"]);
    full("they are still there").await;
    assert_eq!(
        bo.consensus().epoch_number,
        0,
        "it was away for a moment only"
    );

    crowd.shutdown().await;
    let cy = join(&c, &ada, "cy").await;
    they_agree(&[&ada, &bo, &cy], "after").await;
    for live in [a, b, c] {
        live.close().await;
    }
}

/// Hellos on one connection.
const HELLOS_EACH: usize = 10;

/// What became of the connections.
#[derive(Debug, Default)]
struct Tally {
    /// Refused by the application's version: it got as far as the room.
    heard: u64,
    limited: u64,
    busy: u64,
    /// The connection broke.
    lost: u64,
}

/// Says all at once, each Hello on a stream of its own. One is heard.
async fn hellos(connection: &Connection, bytes: &[u8]) -> Option<u8> {
    let mut streams = Vec::new();
    for _ in 0..HELLOS_EACH {
        let (mut send, recv) = connection.open_bi().await.ok()?;
        // It may be shown out in the middle of it.
        let _ = send.write_all(bytes).await;
        let _ = send.finish();
        streams.push(recv);
    }
    let mut recv = streams.into_iter().next()?;
    let answer = recv.read_to_end(1024).await.ok()?;
    // Length, then the variant `Refused`, then its code; nothing for who is shown out.
    let refusal = answer.get(4).is_none_or(|it| *it == 4);
    assert!(refusal, "{answer:?}");
    answer.get(5).copied()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_hellos_stop_nothing() {
    const CONNECTIONS: usize = 10_000 / HELLOS_EACH;
    const CROWD: usize = 8;
    const AT_ONCE: usize = 16;
    let relay = Relay::on_free_port().await;
    let (a, b, c) = (relay.live().await, relay.live().await, relay.live().await);
    // Each would otherwise be a member.
    let app = Some([7; 32]);
    let founder = Options {
        app,
        ..Options::new("ada")
    };
    let ada = entered(StateRoom::create(&a, None, founder)).await;
    let id = ada.id().to_z32();
    let with = |name| Options {
        app,
        ..patient(name)
    };
    let bo = entered(StateRoom::join(&b, &id, with("bo"))).await;
    holds("both vote", || bo.consensus().voters.len() == 2).await;
    they_agree(&[&ada, &bo], "before").await;
    let before = a.stats().refused;

    let began = std::time::Instant::now();
    let words = [at(ada.id()), at_door("hello")].concat();
    let left = Arc::new(AtomicU64::new(CONNECTIONS as u64));
    let take = |left: &AtomicU64| {
        let less = |it: u64| it.checked_sub(1);
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    };
    let mut flood = JoinSet::new();
    for stranger in strangers(CROWD).await {
        for _ in 0..AT_ONCE {
            let (stranger, to, words, left) =
                (stranger.clone(), directly(&a), words.clone(), left.clone());
            flood.spawn(async move {
                let mut tally = Tally::default();
                while take(&left) {
                    let Ok(connection) = stranger.connect(to.clone(), DOOR).await else {
                        tally.lost += 1;
                        continue;
                    };
                    match hellos(&connection, &words).await {
                        // Of two voters one can be late on a busy machine: no quorum, for a moment.
                        Some(3 | 5) => tally.heard += 1,
                        Some(6) => tally.limited += 1,
                        Some(other) => panic!("answered {other}"),
                        None => match code_of(&connection.closed().await) {
                            Some(BUSY) => tally.busy += 1,
                            _ => tally.lost += 1,
                        },
                    }
                    connection.close(0u32.into(), b"");
                }
                tally
            });
        }
    }
    // The room goes on meanwhile, and a newcomer gets in.
    let cy = StateRoom::join(&c, &id, with("cy"));
    let mut updates = 0;
    while left.load(Ordering::Relaxed) > 0 && !flood.is_empty() {
        let room = if updates % 2 == 0 { &ada } else { &bo };
        let change = format!(r#"{{"n": {updates}}}"#);
        soon(room.merge(&change)).await.expect("it is made");
        updates += 1;
    }
    let mut sum = Tally::default();
    while let Some(tally) = flood.join_next().await {
        let tally = tally.expect("no other answer");
        sum.heard += tally.heard;
        sum.limited += tally.limited;
        sum.busy += tally.busy;
        sum.lost += tally.lost;
    }
    let seconds = began.elapsed().as_secs();
    println!("{sum:?} in {seconds} s, {updates} updates meanwhile");
    assert!(updates > 0);
    // Each is let ask ten times, and once more each second.
    assert!(
        sum.heard <= CROWD as u64 * (ASKS as u64 + seconds + 1),
        "{sum:?}"
    );
    assert!(sum.limited > 0, "{sum:?}");
    let refused = a.stats().refused - before;
    assert!(refused >= sum.limited + sum.busy, "{refused} of {sum:?}");
    they_agree(&[&ada, &bo, &entered(cy).await], "after").await;
    assert_eq!(names(&ada), ["ada", "bo", "cy"]);
    assert_eq!(
        bo.consensus().epoch_number,
        0,
        "nobody had to go on without the other"
    );
    for live in [a, b, c] {
        live.close().await;
    }
}
