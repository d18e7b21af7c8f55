//! What rooms of iroh-live are known to do wrong, done right. Silent peers, those that unpublish and
//! those that publish anew are in `room.rs`; a subscription that fails in `room/actor/broadcasts.rs`.

use std::{collections::BTreeMap, time::Duration};

use iroh::EndpointId;
use iroh_gossip::api::Event as GossipEvent;
use iroh_rooms::{
    Error, Event, Live, Relays, Room, RoomTicket,
    event::LeftReason,
    kv::wire::GossipMessage,
    moq::{Broadcast, TrackConfig, TrackWriter},
    presence::{PEER_STATE_KEY, PeerState, ROOM_STATE_KEY},
    room::{Compat, Options},
};
use n0_future::StreamExt;
use serde_json::json;
use tokio::time::{advance, pause, resume, sleep};

use crate::{
    hostile::{Stranger, holds, member, say, secret, signed, they_talk, wall},
    net::{Relay, enter, joined, left, pair, said, soon, until},
};

/// A broadcast with one text in it.
fn broadcast(text: &'static str) -> (Broadcast, TrackWriter) {
    let broadcast = Broadcast::new();
    let config = TrackConfig {
        priority: 0,
        max_age: Duration::from_secs(60),
    };
    let mut track = broadcast.track("text", config).expect("a fresh broadcast");
    track.write(text.into(), None).expect("open");
    (broadcast, track)
}

async fn read(broadcast: &iroh_rooms::moq::RemoteBroadcast) -> Result<bytes::Bytes, Error> {
    let mut reader = broadcast.track("text", Default::default()).await?;
    Ok(reader.next_frame().await?.expect("a text").data)
}

async fn read_by(room: &Room, peer: EndpointId, name: &str) -> bytes::Bytes {
    let remote = soon(room.handle().subscribe(peer, name)).await;
    soon(read(&remote.expect("announced"))).await.expect("open")
}

/// Presence expires after two minutes, and is written again long before.
#[tokio::test]
async fn who_comes_after_three_minutes_sees_everyone() {
    let relay = Relay::on_free_port().await;
    let ([a, b], mut room_a, mut room_b) = pair(&relay).await;
    until(&mut room_a, joined).await;
    until(&mut room_b, joined).await;
    let (notes, _track) = broadcast("kept");
    room_b.publish("notes", &notes).await.expect("open");
    let subscribed = |event: &Event| match event {
        Event::BroadcastSubscribed { name, .. } => Some(name.clone()),
        _ => None,
    };
    assert_eq!(until(&mut room_a, subscribed).await, "notes");

    // Half a second at a time. The clock stands still while something blocks, and the network does not.
    pause();
    for _ in 0..360 {
        advance(Duration::from_millis(500)).await;
        let network = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5)));
        network.await.expect("it sleeps");
    }
    resume();
    while let Some(event) = room_a.try_recv() {
        assert!(
            !matches!(event, Event::PeerLeft { .. } | Event::PeerJoined { .. }),
            "{event:?}"
        );
    }

    let c = relay.live().await;
    let mut room_c = enter(&c, &room_a.ticket().await.expect("open"), "Cy").await;
    let mut seen = BTreeMap::new();
    until(&mut room_c, |event| {
        seen.extend(joined(event).map(|peer| (peer.id, peer.display_name)));
        (seen.len() == 2).then_some(())
    })
    .await;
    assert_eq!(seen[&a.endpoint_id()].as_deref(), Some("Ada"));
    assert_eq!(seen[&b.endpoint_id()].as_deref(), Some("Bo"));
    assert_eq!(read_by(&room_c, b.endpoint_id(), "notes").await, "kept");
    for live in [a, b, c] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_goes_on_though_nobody_reads_its_events() {
    const MESSAGES: usize = 900;
    let relay = Relay::on_free_port().await;
    let (lives, mut room_a, mut room_b) = pair(&relay).await;
    until(&mut room_a, joined).await;
    until(&mut room_b, joined).await;
    // From here on the second reads none, and they are more than are kept for it.
    for n in 0..MESSAGES {
        room_a.send_chat(&n.to_string()).await.expect("open");
        if n % 100 == 99 {
            holds("all so far", async || {
                room_b.handle().chat_history().len() == n + 1
            })
            .await;
        }
    }
    room_b.send_chat("still here").await.expect("open");
    assert_eq!(until(&mut room_a, said).await.1, "still here");
    room_a.handle().leave().await;
    holds("the leave", async || room_b.handle().peers().is_empty()).await;

    let first = soon(room_b.recv()).await.expect("open");
    let Event::Lagged { missed } = first else {
        panic!("{first:?}")
    };
    assert!(missed > 500, "{missed}");
    let gone = (lives[0].endpoint_id(), LeftReason::Left);
    assert_eq!(until(&mut room_b, left).await, gone, "and then what is");
    for live in lives {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcasts_of_one_name_in_two_rooms_are_apart() {
    let relay = Relay::on_free_port().await;
    let (a, b) = (relay.live().await, relay.live().await);
    let red_a = enter(&a, &RoomTicket::generate(), "Ada").await;
    let blue_a = enter(&a, &RoomTicket::generate(), "Ada").await;
    let red_b = enter(&b, &red_a.ticket().await.expect("open"), "Bo").await;
    let mut blue_b = enter(&b, &blue_a.ticket().await.expect("open"), "Bo").await;
    until(&mut blue_b, joined).await;
    let ((red, _t1), (blue, _t2), (own, _t3)) =
        (broadcast("red"), broadcast("blue"), broadcast("own"));
    red_a.publish("camera", &red).await.expect("open");
    blue_a.publish("camera", &blue).await.expect("open");
    a.moq().publish("camera", &own).expect("open");
    let only_red = broadcast("only here");
    red_a.publish("extra", &only_red.0).await.expect("open");

    assert_eq!(read_by(&red_b, a.endpoint_id(), "camera").await, "red");
    assert_eq!(read_by(&blue_b, a.endpoint_id(), "camera").await, "blue");
    let session = soon(b.moq().connect(a.addr())).await.expect("dialled");
    let remote = soon(session.subscribe("camera")).await.expect("announced");
    assert_eq!(soon(read(&remote)).await.expect("open"), "own");
    let of_a = |room: &Room| room.handle().peers()[0].broadcasts.clone();
    holds("presence", async || of_a(&red_b) == ["camera", "extra"]).await;
    assert_eq!(of_a(&blue_b), ["camera"]);
    assert_eq!(b.moq().own().published_broadcasts(), Vec::<String>::new());

    // What ends in one goes on in the other.
    red_a.handle().unpublish("camera").await.expect("open");
    holds("it ends", async || of_a(&red_b) == ["extra"]).await;
    assert_eq!(read_by(&blue_b, a.endpoint_id(), "camera").await, "blue");
    for live in [a, b] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_know_the_topic_gets_nothing() {
    let relay = Relay::on_free_port().await;
    let ([a, b], mut room_a, mut room_b) = pair(&relay).await;
    they_talk([&mut room_a, &mut room_b], "before").await;
    let (secret_words, _track) = broadcast("secret");
    room_a.publish("notes", &secret_words).await.expect("open");

    // It dials: the endpoint's own scope has nothing, and the room's is not found with another key.
    let outsider = relay.live().await;
    let session = soon(outsider.moq().connect(a.addr()))
        .await
        .expect("anyone may");
    let mut announced = session.announced();
    let wrong = outsider.moq().open_scope([7; 32]).expect("a fresh one");
    let refused = soon(wrong.connect(a.addr())).await;
    refused.expect_err("the room's scope is found by its key");
    let heard = tokio::time::timeout(Duration::from_secs(1), announced.next()).await;
    assert!(heard.is_err(), "{heard:?}");

    // It is dialled, since a ticket names it.
    let mut ticket = room_a.ticket().await.expect("open");
    ticket.add_peer(outsider.endpoint_id(), outsider.relay_url().as_ref());
    let c = relay.live().await;
    let before = outsider.stats().refused;
    let mut room_c = enter(&c, &ticket, "Cy").await;
    they_talk([&mut room_a, &mut room_c], "with a third").await;
    holds("the dial", async || outsider.stats().refused > before).await;
    assert_eq!(outsider.stats().sessions, 1, "its own with the first alone");
    assert_eq!(
        outsider.moq().own().session(c.endpoint_id()).map(|_| ()),
        None
    );

    // A value that was signed in another room changes nothing, at either key.
    let stranger = Stranger::at(&relay).await;
    let topic = room_a.handle().id();
    let (sender, _receiver) = stranger.join(topic, &a).await;
    let elsewhere = iroh_gossip::TopicId::from_bytes([9; 32]);
    let refused = room_a.handle().stats().await.expect("open").refused;
    let replayed = signed(&secret(1), &member(&elsewhere, secret(1).public()));
    say(&sender, replayed.encode()).await;
    say(&sender, theirs(&secret(2), "Theo", &["camera"])).await;
    holds("the refusal", async || {
        room_a.handle().stats().await.expect("open").refused > refused
    })
    .await;
    sleep(Duration::from_secs(1)).await;
    let mut known = vec![b.endpoint_id(), c.endpoint_id()];
    known.sort();
    let seen: Vec<_> = room_a.handle().peers().iter().map(|peer| peer.id).collect();
    assert_eq!(seen, known);
    for live in [a, b, c, outsider] {
        live.close().await;
    }
}

/// What a peer of iroh-live says of itself.
fn theirs(secret: &iroh::SecretKey, name: &str, broadcasts: &[&str]) -> bytes::Bytes {
    theirs_at(secret, name, broadcasts, wall())
}

fn theirs_at(secret: &iroh::SecretKey, name: &str, broadcasts: &[&str], time: u64) -> bytes::Bytes {
    let state = PeerState {
        broadcasts: broadcasts.iter().map(ToString::to_string).collect(),
        display_name: Some(name.into()),
    };
    let value = postcard::to_stdvec(&state).expect("small");
    GossipMessage::sign(secret, PEER_STATE_KEY.into(), time, value.into()).encode()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_room_for_iroh_live_reads_its_value() {
    let relay = Relay::on_free_port().await;
    let (a, b) = (relay.live().await, relay.live().await);
    let options = |name: &str| Options {
        display_name: Some(name.into()),
        presence: Some(json!({ "mood": "fine" })),
        compat: Some(Compat::IrohLive),
        ..Options::default()
    };
    let ticket = RoomTicket::generate();
    let mut room_a = Room::open(&a, ticket.clone(), options("Ada"))
        .await
        .expect("open");
    let second = Room::open(&a, RoomTicket::generate(), options("Ada")).await;
    let error = second.expect_err("one for each endpoint");
    assert_eq!(error.code(), "INVALID_ARGUMENT");
    let ticket = room_a.ticket().await.expect("open");
    let mut room_b = Room::open(&b, ticket, options("Bo")).await.expect("open");

    // Peers of this library write both values: they come once, complete, and leave for good.
    for room in [&mut room_a, &mut room_b] {
        let peer = until(room, joined).await;
        assert_eq!(peer.presence, Some(json!({ "mood": "fine" })));
    }
    they_talk([&mut room_a, &mut room_b], "in the endpoint's own scope").await;

    let stranger = Stranger::at(&relay).await;
    let (sender, _receiver) = stranger.join(room_a.handle().id(), &a).await;
    say(&sender, b"garbage".as_slice()).await;
    let long = "x".repeat(65);
    say(&sender, theirs(&secret(1), &long, &[])).await;
    say(&sender, theirs(&secret(2), "Theo", &["camera"])).await;
    for room in [&mut room_a, &mut room_b] {
        let theo = until(room, joined).await;
        assert_eq!(theo.id, secret(2).public());
        assert_eq!(theo.display_name.as_deref(), Some("Theo"));
        assert_eq!(theo.broadcasts, ["camera"]);
    }
    say(&sender, theirs(&secret(2), "Theodor", &["camera"])).await;
    let renamed = until(&mut room_a, |event| match event {
        Event::PeerUpdated { peer, .. } => Some(peer.display_name.clone()),
        Event::PeerLeft { .. } => panic!("updating is not leaving"),
        _ => None,
    });
    assert_eq!(renamed.await.as_deref(), Some("Theodor"));
    assert_eq!(room_a.handle().peers().len(), 2, "the long name is refused");

    room_b.handle().leave().await;
    let gone = (b.endpoint_id(), LeftReason::Left);
    assert_eq!(until(&mut room_a, left).await, gone);
    // What it said to peers of iroh-live is still told, and nobody is brought back by it.
    say(&sender, theirs(&secret(2), "Theo", &[])).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(room_a.handle().peers().len(), 1);
    room_a.handle().leave().await;
    Room::open(&a, RoomTicket::generate(), options("Ada"))
        .await
        .expect("the next one");
    for live in [a, b] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_after_leaving() {
    let relay = Relay::on_free_port().await;
    let ([a, b], mut room_a, mut room_b) = pair(&relay).await;
    they_talk([&mut room_a, &mut room_b], "before").await;
    let (notes, mut track) = broadcast("before");
    room_a.publish("notes", &notes).await.expect("open");
    let id = a.endpoint_id();
    let remote = soon(room_b.handle().subscribe(id, "notes")).await;
    let remote = remote.expect("announced");
    let mut reader = soon(remote.track("text", Default::default()))
        .await
        .expect("there");
    let frame = soon(reader.next_frame()).await.expect("open");
    assert_eq!(frame.expect("a text").data, "before");

    // The endpoint stays, and so do the broadcast and whoever reads it.
    room_a.handle().leave().await;
    until(&mut room_b, left).await;
    let _ = track.write("after".into(), None);
    let rest = soon(async {
        loop {
            match reader.next_frame().await {
                Ok(Some(frame)) => assert_ne!(frame.data, "after"),
                end => return end,
            }
        }
    });
    drop(rest.await);
    assert!(room_b.handle().scope().session(id).is_none());
    let dialled = soon(room_b.handle().scope().connect(a.addr())).await;
    dialled.expect_err("no scope of that key");
    let again = tokio::time::timeout(Duration::from_secs(1), read(&remote)).await;
    assert!(!matches!(again, Ok(Ok(_))), "{again:?}");
    assert!(room_b.handle().peers().is_empty());
    assert_eq!((a.stats().rooms, a.stats().sessions), (0, 0));
    for live in [a, b] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_ten_minutes_apart_do_no_harm() {
    let relay = Relay::on_free_port().await;
    let ([a, b], mut room_a, mut room_b) = pair(&relay).await;
    they_talk([&mut room_a, &mut room_b], "before").await;
    let topic = room_a.handle().id();
    let stranger = Stranger::at(&relay).await;
    let (sender, _receiver) = stranger.join(topic, &a).await;
    // Almost: what is being said takes its time.
    let skew = Duration::from_secs(590).as_nanos() as u64;
    for (number, time) in [(1, wall() - skew), (2, wall() + skew)] {
        let secret = secret(number);
        let id = secret.public();
        let mut state = member(&topic, id);
        let write = |state: &iroh_rooms::presence::RoomState, after: u64| {
            let value = state.encode().expect("small").into();
            GossipMessage::sign(&secret, ROOM_STATE_KEY.into(), time + after, value).encode()
        };
        state.display_name = Some("early or late".into());
        say(&sender, write(&state, 0)).await;
        for room in [&mut room_a, &mut room_b] {
            assert_eq!(until(room, joined).await.id, id);
        }
        state.display_name = Some("renamed".into());
        say(&sender, write(&state, 1)).await;
        for room in [&mut room_a, &mut room_b] {
            let name = until(room, |event| match event {
                Event::PeerUpdated { peer, .. } => Some(peer.display_name.clone()),
                Event::PeerLeft { .. } => panic!("nobody leaves"),
                _ => None,
            });
            assert_eq!(name.await.as_deref(), Some("renamed"));
        }
        state.set_leaving(true);
        say(&sender, write(&state, 2)).await;
        for room in [&mut room_a, &mut room_b] {
            assert_eq!(until(room, left).await, (id, LeftReason::Left));
        }
    }
    they_talk([&mut room_a, &mut room_b], "after").await;
    for live in [a, b] {
        live.close().await;
    }
}

/// An endpoint on a thread of its own, which can be stopped and ended as a process is.
struct Apart {
    runtime: tokio::runtime::Runtime,
    live: Live,
    room: Room,
}

impl Apart {
    /// To be called where blocking is allowed.
    fn enter(relay: iroh::RelayUrl, key: iroh::SecretKey, ticket: RoomTicket) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread");
        let (live, room) = runtime.block_on(async {
            let live = Live::builder()
                .relays(Relays::Custom(vec![relay]))
                .secret_key(key);
            let live = live.spawn().await.expect("the relay answers");
            let room = enter(&live, &ticket, "Bo").await;
            (live, room)
        });
        Self {
            runtime,
            live,
            room,
        }
    }

    /// Nothing happens in it for so long.
    fn freeze(&self, time: Duration) {
        self.runtime.spawn(async move { std::thread::sleep(time) });
    }

    /// Gone without a word, and its sockets with it.
    fn kill(self) {
        let Self {
            runtime,
            live,
            room,
        } = self;
        // What ends with its handle would say so.
        std::mem::forget((live, room));
        runtime.shutdown_background();
    }
}

async fn apart(relay: &Relay, key: &iroh::SecretKey, ticket: RoomTicket) -> Apart {
    let (url, key) = (relay.url(), key.clone());
    let entering = tokio::task::spawn_blocking(move || Apart::enter(url, key, ticket));
    entering.await.expect("it enters")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_returns_in_time_was_never_gone_and_later_comes_anew() {
    let relay = Relay::on_free_port().await;
    let a = relay.live().await;
    let mut room_a = enter(&a, &RoomTicket::generate(), "Ada").await;
    let ticket = room_a.ticket().await.expect("open");
    let mut other = apart(&relay, &secret(1), ticket).await;
    let id = other.live.endpoint_id();
    assert_eq!(until(&mut room_a, joined).await.id, id);
    they_talk([&mut room_a, &mut other.room], "before").await;

    // Less than the window of silence, which is 9 s.
    other.freeze(Duration::from_secs(5));
    sleep(Duration::from_secs(7)).await;
    they_hear_without_leaving(&mut room_a, &mut other.room, "after 5 s").await;
    // More.
    other.freeze(Duration::from_secs(14));
    assert_eq!(until(&mut room_a, left).await, (id, LeftReason::Timeout));
    assert_eq!(until(&mut room_a, joined).await.id, id);
    // Whoever stood still takes nobody for gone.
    they_hear_without_leaving(&mut room_a, &mut other.room, "after 14 s").await;
    tokio::task::spawn_blocking(move || other.kill())
        .await
        .expect("it ends");
    a.close().await;
}

/// Of those who are gone a newcomer hears from others at most that they said goodbye.
#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_does_not_hear_of_those_who_have_vanished() {
    let relay = Relay::on_free_port().await;
    let a = relay.live().await;
    let mut room_a = enter(&a, &RoomTicket::generate(), "Ada").await;
    let topic = room_a.handle().id();
    let ticket = room_a.ticket().await.expect("open");
    let mut vanishing = apart(&relay, &secret(1), ticket).await;
    let vanished = vanishing.live.endpoint_id();
    they_talk([&mut room_a, &mut vanishing.room], "hello").await;
    tokio::task::spawn_blocking(move || vanishing.kill())
        .await
        .expect("it ends");
    let gone = until(&mut room_a, left).await;
    assert_eq!(gone, (vanished, LeftReason::Timeout));

    // Two more by way of a stranger, of whom one leaves.
    let stranger = Stranger::at(&relay).await;
    let (sender, _receiver) = stranger.join(topic, &a).await;
    let [here, leaving] = [2, 3].map(secret);
    let mut state = member(&topic, leaving.public());
    for secret in [&leaving, &here] {
        let state = member(&topic, secret.public());
        say(&sender, signed(secret, &state).encode()).await;
        until(&mut room_a, joined).await;
    }
    say(&sender, theirs(&leaving, "Cy", &[])).await;
    state.set_leaving(true);
    say(&sender, signed(&leaving, &state).encode()).await;
    let gone = until(&mut room_a, left).await;
    assert_eq!(gone, (leaving.public(), LeftReason::Left));

    let newcomer = Stranger::at(&relay).await;
    let (_sender, mut receiver) = newcomer.join(topic, &a).await;
    let mut told = Vec::new();
    let mut read_until = async |wanted: EndpointId| {
        soon(async {
            while told.last().is_none_or(|(scope, _)| *scope != wanted) {
                let event = receiver.next().await.expect("joined").expect("joined");
                if let GossipEvent::Received(message) = event {
                    let message = GossipMessage::decode(&message.content).expect("valid");
                    told.push((message.scope, message.key));
                }
            }
        })
        .await;
    };
    read_until(here.public()).await;
    // What else that pass brings comes before what is written afterwards.
    let set = room_a.handle().set_display_name(Some("Eve"));
    set.await.expect("open");
    read_until(a.endpoint_id()).await;
    let of = |peer: EndpointId| -> Vec<_> {
        let of_peer = told.iter().filter(|(scope, _)| *scope == peer);
        of_peer.map(|(_, key)| &key[..]).collect()
    };
    assert_eq!(of(vanished), [] as [&[u8]; 0]);
    assert_eq!(of(leaving.public()), [ROOM_STATE_KEY]);
    a.close().await;
}

/// The second hears the first, and nobody leaves, as both see it.
async fn they_hear_without_leaving(from: &mut Room, to: &mut Room, text: &str) {
    from.send_chat(text).await.expect("open");
    until(to, |event| {
        assert!(!matches!(event, Event::PeerLeft { .. }), "{event:?}");
        said(event).filter(|(_, said)| said == text)
    })
    .await;
    while let Some(event) = from.try_recv() {
        assert!(!matches!(event, Event::PeerLeft { .. }), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_returns_with_its_key_keeps_its_place() {
    let relay = Relay::on_free_port().await;
    let a = relay.live().await;
    let mut room_a = enter(&a, &RoomTicket::generate(), "Ada").await;
    let ticket = room_a.ticket().await.expect("open");
    let mut other = apart(&relay, &secret(1), ticket.clone()).await;
    until(&mut room_a, joined).await;
    they_talk([&mut room_a, &mut other.room], "before").await;
    let joined_at = room_a.handle().peers()[0].joined_at;
    tokio::task::spawn_blocking(move || other.kill())
        .await
        .expect("it ends");
    let mut other = apart(&relay, &secret(1), ticket).await;
    other.room.send_chat("back").await.expect("open");
    until(&mut room_a, |event| {
        let stays = !matches!(event, Event::PeerLeft { .. } | Event::PeerJoined { .. });
        assert!(stays, "{event:?}");
        said(event).filter(|(_, said)| said == "back")
    })
    .await;
    assert_eq!(room_a.handle().peers()[0].joined_at, joined_at);
    room_a.send_chat("welcome").await.expect("open");
    until(&mut other.room, |event| {
        said(event).filter(|(_, said)| said == "welcome")
    })
    .await;
    tokio::task::spawn_blocking(move || other.kill())
        .await
        .expect("it ends");
    a.close().await;
}
