//! Rooms with a doorman and those who mean no good: at the door, and among the members.

use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey,
    endpoint::{Connection, ConnectionError, presets},
};
use iroh_rooms::{Live, StateRoom, doorman::Options};
use serde_json::Value;

use crate::{
    net::{Relay, soon},
    state::{create, entered, holds, join, names, they_agree},
};

pub const DOOR: &[u8] = b"iroh-rooms/door/1";
pub const RAFT: &[u8] = b"iroh-rooms/raft/1";
/// Asks of one endpoint at once, as in the hub.
pub const ASKS: usize = 10;

/// A peer without this library.
async fn stranger(relay: &Relay) -> Endpoint {
    let endpoint = Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Custom([relay.url()].into_iter().collect()))
        .bind()
        .await
        .expect("it binds");
    soon(endpoint.online()).await;
    endpoint
}

async fn dial(endpoint: &Endpoint, relay: &Relay, id: EndpointId, alpn: &[u8]) -> Connection {
    let addr = EndpointAddr::new(id).with_relay_url(relay.url());
    soon(endpoint.connect(addr, alpn))
        .await
        .expect("it answers")
}

/// With its length in front.
fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes()[..], body].concat()
}

/// A frame of the door, as in the vectors.
pub fn at_door(name: &str) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/door.json");
    let text = std::fs::read_to_string(path).expect("it is there");
    let all: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let frame = all.iter().find(|it| it["name"] == name).expect("a frame");
    let hex = frame["bytes"].as_str().expect("hex");
    data_encoding::HEXLOWER.decode(hex.as_bytes()).expect("hex")
}

/// Which room is meant.
pub fn at(room: EndpointId) -> Vec<u8> {
    framed(&[&[0][..], room.as_bytes()].concat())
}

/// Says something, and returns what comes back until the other side ends it.
async fn say(connection: &Connection, bytes: &[u8]) -> Vec<u8> {
    let (mut send, mut recv) = soon(connection.open_bi()).await.expect("open");
    // It may be shown out in the middle of it.
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    soon(recv.read_to_end(1 << 20)).await.unwrap_or_default()
}

async fn closed_with(connection: &Connection) -> u64 {
    match soon(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("{other}"),
    }
}

/// What they counted until it is enough.
async fn counted(lives: &[&Live], before: u64, more: u64) {
    let all = || lives.iter().map(|it| it.stats().refused).sum::<u64>();
    holds("what was refused is counted", || all() >= before + more).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_at_the_door_gets_nothing_and_harms_nobody() {
    let relay = Relay::on_free_port().await;
    let (a, b) = (relay.live().await, relay.live().await);
    let ada = create(&a, "ada").await;
    let room = ada.id();
    let stranger = stranger(&relay).await;
    let garbage: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        framed(&[]),
        framed(&[99]),
        framed(&[0; 7]),
        // Longer than a frame may be, and never sent.
        (64 * 1024 + 1_u32).to_be_bytes().to_vec(),
        [&at(room)[..], &framed(&[0xff; 64 * 1024])].concat(),
        // What only the doorman says.
        [&at(room)[..], &at_door("welcome")].concat(),
        [at(room), at(room), at(room), at(room), at(room)].concat(),
    ];
    for door in [room, a.endpoint_id()] {
        for bytes in &garbage {
            let before = a.stats().refused;
            let connection = dial(&stranger, &relay, door, DOOR).await;
            assert!(say(&connection, bytes).await.is_empty());
            assert_eq!(closed_with(&connection).await, 1);
            counted(&[&a], before, 1).await;
        }
    }
    // Another room, and a proof of the end of someone that proves nothing.
    for bytes in [
        [at(stranger.id()), at_door("hello")].concat(),
        [at(room), at_door("ended")].concat(),
    ] {
        let connection = dial(&stranger, &relay, room, DOOR).await;
        assert!(say(&connection, &bytes).await.is_empty());
    }
    let bo = join(&b, &ada, "bo").await;
    they_agree(&[&ada, &bo], "still").await;
    stranger.close().await;
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_hellos_is_held_off() {
    let relay = Relay::on_free_port().await;
    let (a, b) = (relay.live().await, relay.live().await);
    let options = Options {
        // Each would otherwise be a member.
        app: Some([7; 32]),
        ..Options::new("ada")
    };
    let ada = entered(StateRoom::create(&a, None, options)).await;
    let stranger = stranger(&relay).await;
    let hello = [at(ada.id()), at_door("hello")].concat();
    let before = a.stats().refused;
    let mut codes = Vec::new();
    for _ in 0..3 * ASKS {
        let connection = dial(&stranger, &relay, ada.id(), DOOR).await;
        let answer = say(&connection, &hello).await;
        connection.close(0u32.into(), b"");
        // Length, then the variant `Refused`, then its code.
        assert_eq!(answer.get(4), Some(&4), "{answer:?}");
        codes.push(answer.get(5).copied());
    }
    let (app, limited) = (Some(5), Some(6));
    assert!(
        codes.iter().all(|code| [app, limited].contains(code)),
        "{codes:?}"
    );
    assert_eq!(codes.first(), Some(&app));
    assert!(codes.contains(&limited), "{codes:?}");
    counted(&[&a], before, 1).await;
    // Who is not it is let in meanwhile.
    let options = Options {
        app: Some([7; 32]),
        ..Options::new("bo")
    };
    let bo = StateRoom::join(&b, &ada.id().to_z32(), options);
    they_agree(&[&ada, &entered(bo).await], "still").await;
    stranger.close().await;
    a.close().await;
    b.close().await;
}

/// The first words of a member.
pub fn first_words(room: EndpointId, proof: &[u8; 32]) -> Vec<u8> {
    framed(&[&[0][..], room.as_bytes(), proof, &[0, 0]].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_never_admitted_gets_nothing_from_members() {
    let relay = Relay::on_free_port().await;
    let (a, b) = (relay.live().await, relay.live().await);
    let ada = create(&a, "ada").await;
    let bo = join(&b, &ada, "bo").await;
    they_agree(&[&ada, &bo], "before").await;
    let stranger = stranger(&relay).await;
    let before = a.stats().refused;
    for bytes in [
        first_words(ada.id(), &[0; 32]),
        first_words(stranger.id(), &[0; 32]),
        framed(&[1, 0]),
        framed(&[0xff; 1024]),
        (1025_u32).to_be_bytes().to_vec(),
    ] {
        let connection = dial(&stranger, &relay, a.endpoint_id(), RAFT).await;
        assert!(say(&connection, &bytes).await.is_empty());
        assert!([1, 66].contains(&closed_with(&connection).await));
    }
    counted(&[&a], before, 4).await;
    they_agree(&[&ada, &bo], "after").await;
    assert_eq!(names(&ada), ["ada", "bo"]);
    stranger.close().await;
    a.close().await;
    b.close().await;
}

/// What `docs/wire.md` says of the proof, of a room whose name is known.
pub fn proof(name: &str, dialler: EndpointId, listener: EndpointId) -> [u8; 32] {
    let secret = blake3::derive_key("iroh-rooms 2026-11 named room", name.as_bytes());
    let topic = blake3::keyed_hash(&secret, b"topic secret");
    let key = blake3::derive_key("iroh-rooms 2026-11 mesh", topic.as_bytes());
    let both = [&dialler.as_bytes()[..], listener.as_bytes()].concat();
    *blake3::keyed_hash(&key, &both).as_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_the_name_and_speaks_nonsense_is_shown_out() {
    let relay = Relay::on_free_port().await;
    let (a, b) = (relay.live().await, relay.live().await);
    let ada = StateRoom::create(&a, Some("the corner"), Options::new("ada"));
    let ada = entered(ada).await;
    let bo = join(&b, &ada, "bo").await;
    they_agree(&[&ada, &bo], "before").await;
    let stranger = stranger(&relay).await;
    let proof = proof("the corner", stranger.id(), a.endpoint_id());
    // Its lane, and what it says there.
    let lines: Vec<(Vec<u8>, bool)> = vec![
        (vec![3], true),
        (
            [&[0][..], &(1024 * 1024 + 1_u32).to_be_bytes()].concat(),
            true,
        ),
        ([&[0][..], &framed(&[0xff; 2000])].concat(), false),
        ([&[2][..], &framed(b"garbage")].concat(), false),
    ];
    for (bytes, closes) in lines {
        let before = a.stats().refused;
        let connection = dial(&stranger, &relay, a.endpoint_id(), RAFT).await;
        let (mut send, mut recv) = soon(connection.open_bi()).await.expect("open");
        let hello = first_words(ada.id(), &proof);
        send.write_all(&hello).await.expect("open");
        let mut ready = [0; 5];
        soon(recv.read_exact(&mut ready))
            .await
            .expect("it is taken for one");
        assert_eq!(ready[4], 1);
        let mut lane = soon(connection.open_uni()).await.expect("open");
        lane.write_all(&bytes).await.expect("open");
        if closes {
            assert_eq!(closed_with(&connection).await, 1);
        }
        counted(&[&a], before, 1).await;
    }
    they_agree(&[&ada, &bo], "after").await;
    assert_eq!(names(&ada), ["ada", "bo"]);
    stranger.close().await;
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_key_of_the_room_cannot_let_anyone_in() {
    let relay = Relay::on_free_port().await;
    let (a, b) = (relay.live().await, relay.live().await);
    let ada = StateRoom::create(&a, Some("the corner"), Options::new("ada"));
    let ada = entered(ada).await;
    let secret = blake3::derive_key("iroh-rooms 2026-11 named room", b"the corner");
    let key = SecretKey::from_bytes(blake3::keyed_hash(&secret, b"room key").as_bytes());
    assert_eq!(key.public(), ada.id());
    let imposter = Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Custom([relay.url()].into_iter().collect()))
        .secret_key(key)
        .alpns(vec![DOOR.to_vec()])
        .bind()
        .await
        .expect("it binds");
    soon(imposter.online()).await;
    let answering = imposter.clone();
    let serving = tokio::spawn(async move {
        while let Some(incoming) = answering.accept().await {
            let Ok(connection) = incoming.await else {
                continue;
            };
            tokio::spawn(async move {
                let Ok((mut send, _recv)) = connection.accept_bi().await else {
                    return;
                };
                let _ = send.write_all(&at_door("welcome")).await;
                let _ = send.finish();
                connection.closed().await;
            });
        }
    });
    // It can keep him out, where there is a direct way to it, and no more than that.
    let waits = Options {
        join_timeout: std::time::Duration::from_secs(5),
        ..Options::new("bo")
    };
    let bo = StateRoom::join(&b, "the corner", waits);
    let kept_out = soon(bo.ready()).await.is_err();
    assert_eq!(names(&ada).len(), if kept_out { 1 } else { 2 });
    bo.leave().await;
    serving.abort();
    imposter.close().await;
    holds("bo has gone", || names(&ada) == ["ada"]).await;
    let bo = join(&b, &ada, "bo").await;
    they_agree(&[&ada, &bo], "all the same").await;
    a.close().await;
    b.close().await;
}
