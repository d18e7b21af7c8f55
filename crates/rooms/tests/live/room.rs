//! Rooms on a good day.

use std::time::Duration;

use iroh::RelayUrl;
use iroh_rooms::{
    ChatPublisher, Event, Live, Relays, Room, RoomTicket,
    event::{EndReason, LeftReason, Status},
    moq::{Broadcast, TrackConfig, TrackOptions},
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::net::{PATIENCE, Relay, enter, joined, left, pair, said, until};

#[tokio::test(flavor = "multi_thread")]
async fn two_meet_by_a_ticket_chat_and_part() {
    let relay = Relay::on_free_port().await;
    let ([a, b], mut room_a, mut room_b) = pair(&relay).await;
    let bo = until(&mut room_a, joined).await;
    let ada = until(&mut room_b, joined).await;
    assert_eq!(
        (bo.id, bo.display_name.as_deref()),
        (b.endpoint_id(), Some("Bo"))
    );
    assert_eq!(
        (ada.id, ada.display_name.as_deref()),
        (a.endpoint_id(), Some("Ada"))
    );

    for n in 0..3 {
        room_a.send_chat(&format!("hello {n}")).await.expect("open");
        assert_eq!(
            until(&mut room_b, said).await,
            ("Ada".into(), format!("hello {n}"))
        );
    }
    room_b.send_chat("hello back").await.expect("open");
    assert_eq!(
        until(&mut room_a, said).await,
        ("Bo".into(), "hello back".into())
    );
    assert_eq!(room_a.handle().chat_history().len(), 4);

    let before = Instant::now();
    room_b.handle().leave().await;
    assert_eq!(
        until(&mut room_a, left).await,
        (b.endpoint_id(), LeftReason::Left)
    );
    assert!(
        before.elapsed() < Duration::from_secs(5),
        "a goodbye is not a timeout"
    );
    assert_eq!(
        room_b
            .send_chat("too late")
            .await
            .expect_err("closed")
            .code(),
        "CLOSED"
    );
    let end = timeout(PATIENCE, async { while room_b.recv().await.is_some() {} });
    end.await.expect("the cursor ends");
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_joiner_sees_silent_peers_and_what_was_said() {
    let relay = Relay::on_free_port().await;
    let ([a, b], room_a, mut room_b) = pair(&relay).await;
    until(&mut room_b, joined).await;
    for n in 0..20 {
        room_a.send_chat(&n.to_string()).await.expect("open");
    }
    let c = relay.live().await;
    let mut room_c = enter(&c, &room_a.ticket().await.expect("open"), "Cy").await;
    let mut expected = vec![a.endpoint_id(), b.endpoint_id()];
    expected.sort();
    // What was said by one may come before the other is seen.
    let (mut peers, mut texts) = (Vec::new(), Vec::new());
    until(&mut room_c, |event| {
        peers.extend(joined(event).map(|peer| peer.id));
        texts.extend(said(event).map(|(_, text)| text));
        (peers.len() == 2 && texts.len() == 20).then_some(())
    })
    .await;
    peers.sort();
    assert_eq!(peers, expected);
    let all: Vec<_> = (0..20).map(|n: u32| n.to_string()).collect();
    assert_eq!(texts, all, "all, once, in order");
    let mut events = room_c.handle().events();
    let first = until(&mut events, joined).await;
    assert!(
        expected.contains(&first.id),
        "a later cursor begins with those present"
    );
    for live in [a, b, c] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_is_announced_read_replaced_and_withdrawn() {
    let relay = Relay::on_free_port().await;
    let (lives, mut room_a, room_b) = pair(&relay).await;
    let publish = async |name: &'static str, text: &'static str| {
        let broadcast = Broadcast::new();
        let config = TrackConfig {
            priority: 0,
            max_age: Duration::from_secs(10),
        };
        let mut track = broadcast.track("text", config).expect("a fresh broadcast");
        track.write(text.into(), None).expect("open");
        room_b.publish(name, &broadcast).await.expect("open");
        (broadcast, track)
    };
    let first = publish("notes", "one").await;
    let (peer, broadcast) = until(&mut room_a, |event| match event {
        Event::BroadcastSubscribed {
            peer,
            name,
            broadcast,
            ..
        } if name == "notes" => Some((peer.clone(), broadcast.clone())),
        _ => None,
    })
    .await;
    assert_eq!(peer.broadcasts, ["notes"]);
    let options = TrackOptions {
        start: Some(0),
        ..Default::default()
    };
    let mut reader = broadcast.track("text", options).await.expect("there");
    let frame = timeout(PATIENCE, reader.next_frame())
        .await
        .expect("in time");
    assert_eq!(&frame.expect("open").expect("a frame").data[..], b"one");

    let second = publish("notes", "two").await;
    drop(first);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let again = room_a
        .handle()
        .subscribe(peer.id, "notes")
        .await
        .expect("announced");
    let mut reader = again.track("text", options).await.expect("there");
    let frame = timeout(PATIENCE, reader.next_frame())
        .await
        .expect("in time");
    assert_eq!(
        &frame.expect("open").expect("a frame").data[..],
        b"two",
        "the end of the old one does not end the new"
    );

    assert!(room_b.handle().unpublish("notes").await.expect("open"));
    assert!(!room_b.handle().unpublish("notes").await.expect("open"));
    drop(second);
    let reason = until(&mut room_a, |event| match event {
        Event::BroadcastEnded { name, reason, .. } if name == "notes" => Some(*reason),
        Event::PeerLeft { .. } => panic!("unpublishing is not leaving"),
        _ => None,
    })
    .await;
    // The first instance may have been seen to end as well, never the peer.
    assert_eq!(reason, EndReason::Unpublished);
    let third = publish("more", "three").await;
    until(&mut room_a, |event| {
        matches!(event, Event::BroadcastSubscribed { name, .. } if name == "more").then_some(())
    })
    .await;
    room_b.handle().leave().await;
    drop(third);
    let reason = until(&mut room_a, |event| match event {
        Event::BroadcastEnded { name, reason, .. } if name == "more" => Some(*reason),
        Event::PeerLeft { .. } => panic!("the broadcast ends before its peer leaves"),
        _ => None,
    })
    .await;
    assert_eq!(reason, EndReason::PeerLeft);
    until(&mut room_a, left).await;
    let error = room_a
        .publish("chat", &Broadcast::new())
        .await
        .expect_err("the room's own");
    assert_eq!(error.code(), "INVALID_ARGUMENT");
    for live in lives {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_and_names_change_without_leaving() {
    let relay = Relay::on_free_port().await;
    let (lives, mut room_a, room_b) = pair(&relay).await;
    until(&mut room_a, joined).await;
    room_b
        .handle()
        .set_display_name(Some("Bob"))
        .await
        .expect("open");
    for n in 0..50 {
        room_b
            .handle()
            .set_presence(Some(json!({ "at": n })))
            .await
            .expect("open");
    }
    let last = until(&mut room_a, |event| match event {
        Event::PeerUpdated { peer, .. } => {
            (peer.presence == Some(json!({ "at": 49 }))).then(|| peer.clone())
        }
        Event::PeerLeft { .. } => panic!("updating is not leaving"),
        _ => None,
    })
    .await;
    assert_eq!(last.display_name.as_deref(), Some("Bob"));
    let error = room_b
        .handle()
        .set_presence(Some(json!("x".repeat(2048))))
        .await;
    assert_eq!(error.expect_err("2,050 bytes").code(), "TOO_LARGE");
    for live in lives {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_carry_messages_to_all_and_to_one() {
    let relay = Relay::on_free_port().await;
    let (lives, mut room_a, mut room_b) = pair(&relay).await;
    until(&mut room_a, joined).await;
    until(&mut room_b, joined).await;
    let mut a = room_a.handle().channel("cursors").await.expect("open");
    let mut b = room_b.handle().channel("cursors").await.expect("open");
    a.send(&json!({ "x": 1 }), None, false).await.expect("open");
    let message = timeout(PATIENCE, b.recv())
        .await
        .expect("in time")
        .expect("open");
    assert_eq!(
        (message.from, message.json.as_str()),
        (lives[0].endpoint_id(), r#"{"x":1}"#)
    );
    b.send(&json!("only you"), Some(lives[0].endpoint_id()), false)
        .await
        .expect("present");
    let message = timeout(PATIENCE, a.recv())
        .await
        .expect("in time")
        .expect("open");
    assert_eq!(message.json, r#""only you""#);
    // Loss is allowed, not on this machine.
    for n in 0..5 {
        b.send(&json!(n), None, true).await.expect("open");
    }
    let message = timeout(PATIENCE, a.recv())
        .await
        .expect("in time")
        .expect("open");
    assert_eq!(message.from, lives[1].endpoint_id());
    let nobody = b.send(&json!(1), Some(lives[1].endpoint_id()), false).await;
    assert_eq!(nobody.expect_err("not oneself").code(), "INVALID_ARGUMENT");
    for live in lives {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_on_one_endpoint_are_apart() {
    let relay = Relay::on_free_port().await;
    let (a, b) = (relay.live().await, relay.live().await);
    let (red, blue) = (RoomTicket::generate(), RoomTicket::generate());
    let red_a = enter(&a, &red, "Ada").await;
    let blue_a = enter(&a, &blue, "Ada").await;
    let again = Room::new(&a, red).await.expect_err("twice");
    assert_eq!(again.code(), "INVALID_ARGUMENT");
    assert!(
        again.to_string().contains("in that room already"),
        "{again}"
    );
    let mut red_b = enter(&b, &red_a.ticket().await.expect("open"), "Bo").await;
    let mut blue_b = enter(&b, &blue_a.ticket().await.expect("open"), "Bo").await;
    until(&mut red_b, joined).await;
    until(&mut blue_b, joined).await;
    red_a.send_chat("red").await.expect("open");
    blue_a.send_chat("blue").await.expect("open");
    assert_eq!(until(&mut red_b, said).await.1, "red");
    assert_eq!(until(&mut blue_b, said).await.1, "blue");
    red_a.handle().leave().await;
    until(&mut red_b, left).await;
    blue_a.send_chat("still here").await.expect("open");
    assert_eq!(until(&mut blue_b, said).await.1, "still here");
    for live in [a, b] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_survives_a_restart_of_the_relay() {
    let relay = Relay::on_free_port().await;
    let (lives, mut room_a, mut room_b) = pair(&relay).await;
    until(&mut room_a, joined).await;
    until(&mut room_b, joined).await;
    room_a.send_chat("before").await.expect("open");
    until(&mut room_b, said).await;
    let addr = relay.stop().await;
    let lost = |event: &Event| match event {
        Event::Status { status } => Some(*status),
        Event::PeerLeft { .. } => panic!("an own outage makes nobody else leave"),
        _ => None,
    };
    assert_eq!(until(&mut room_a, lost).await, Status::Reconnecting);
    room_a.send_chat("during").await.expect("open");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let relay = Relay::start(addr).await;
    let heard = timeout(Duration::from_secs(40), async {
        loop {
            match room_b.recv().await.expect("open") {
                Event::ChatMessage(message) => return message.text,
                Event::PeerLeft { .. } => panic!("nobody leaves"),
                _ => {}
            }
        }
    });
    assert_eq!(
        heard.await.expect("the room heals"),
        "during",
        "nothing is said twice"
    );
    for live in lives {
        live.close().await;
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_not_there_is_named() {
    let url: RelayUrl = "http://127.0.0.1:9".parse().expect("a URL");
    let error = Live::builder()
        .relays(Relays::Custom(vec![url]))
        .spawn()
        .await
        .expect_err("none");
    assert_eq!(error.code(), "RELAY_UNREACHABLE");
    assert!(error.to_string().contains("127.0.0.1:9"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_comes_back_with_its_key_is_seen_again() {
    let relay = Relay::on_free_port().await;
    let key = iroh::SecretKey::from_bytes(&[42; 32]);
    let spawn = async || {
        let relays = Relays::Custom(vec![relay.url()]);
        let live = Live::builder().relays(relays).secret_key(key.clone());
        live.spawn().await.expect("the relay answers")
    };
    let mut a = spawn().await;
    let mut room_a = enter(&a, &RoomTicket::generate(), "Ada").await;
    let b = relay.live().await;
    let mut room_b = enter(&b, &room_a.ticket().await.expect("open"), "Bo").await;
    until(&mut room_b, joined).await;
    for _ in 0..3 {
        until(&mut room_a, joined).await;
        // A page that is reloaded: it can say goodbye, and not wait for anything.
        a.leave_now();
        tokio::time::sleep(Duration::from_millis(20)).await;
        tokio::spawn(async move {
            // Gone without a trace, as far as that goes within one process.
            let _silent = (a, room_a);
            std::future::pending::<()>().await;
        });
        assert_eq!(until(&mut room_b, left).await.1, LeftReason::Left);
        a = spawn().await;
        room_a = enter(&a, &room_b.ticket().await.expect("open"), "Ada").await;
        assert_eq!(until(&mut room_b, joined).await.id, key.public());
    }
    room_a.send_chat("back").await.expect("open");
    assert_eq!(until(&mut room_b, said).await.1, "back");
    b.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_can_be_taken_back() {
    let relay = Relay::on_free_port().await;
    let ([a, b], mut room_a, mut room_b) = pair(&relay).await;
    until(&mut room_a, joined).await;
    until(&mut room_b, joined).await;
    for _ in 0..3 {
        a.leave_now();
        assert_eq!(
            until(&mut room_b, left).await,
            (a.endpoint_id(), LeftReason::Left)
        );
        a.resume().await;
        assert_eq!(until(&mut room_b, joined).await.id, a.endpoint_id());
    }
    room_a.send_chat("back").await.expect("open");
    assert_eq!(until(&mut room_b, said).await.1, "back");
    for live in [a, b] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_at_once_has_left() {
    let relay = Relay::on_free_port().await;
    let a = relay.live().await;
    let mut room_a = enter(&a, &RoomTicket::generate(), "Ada").await;
    let ticket = room_a.ticket().await.expect("open");
    let b = relay.live().await;
    for _ in 0..5 {
        let room_b = enter(&b, &ticket, "Bo").await;
        until(&mut room_a, joined).await;
        room_b.handle().leave().await;
        let gone = (b.endpoint_id(), LeftReason::Left);
        assert_eq!(until(&mut room_a, left).await, gone);
    }
    for live in [a, b] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_chat_is_counted_and_the_room_goes_on() {
    let relay = Relay::on_free_port().await;
    let (lives, mut room_a, room_b) = pair(&relay).await;
    until(&mut room_a, joined).await;
    // Past the room's own checks, straight into its MoQ scope.
    let broadcast = Broadcast::new();
    let config = TrackConfig {
        priority: 10,
        max_age: Duration::from_secs(300),
    };
    let mut track = broadcast.track("chat", config).expect("a fresh broadcast");
    room_b
        .handle()
        .scope()
        .publish("chat", &broadcast)
        .expect("open");
    let at = |n: u64| Some(Duration::from_micros(n));
    track.write(vec![b'x'; 4097].into(), at(1)).expect("open");
    track.write(vec![0xff, 0xfe].into(), at(2)).expect("open");
    track.write(Default::default(), at(3)).expect("open");
    let mut group = track.group().expect("open");
    group.write("first".into(), at(4)).expect("open");
    group.write("second frame".into(), at(5)).expect("open");
    group.finish();
    track.write("honest".into(), at(6)).expect("open");
    assert_eq!(until(&mut room_a, said).await.1, "first");
    assert_eq!(until(&mut room_a, said).await.1, "honest");
    let stats = room_a.handle().stats().await.expect("open");
    assert_eq!(stats.refused, 4);
    let about_b = room_a.handle().diagnose().await.expect("open");
    assert_eq!(about_b.first().map(|peer| peer.refused), Some(4));
    for live in lives {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_in_a_broadcast_of_the_application_is_heard() {
    let relay = Relay::on_free_port().await;
    let (lives, mut room_a, room_b) = pair(&relay).await;
    until(&mut room_a, joined).await;
    let broadcast = Broadcast::new();
    let publisher = ChatPublisher::new(&broadcast).expect("a fresh broadcast");
    room_b.publish("camera", &broadcast).await.expect("open");
    room_b.set_chat_publisher(publisher).await.expect("open");
    for text in ["from the camera", "and again"] {
        room_b.send_chat(text).await.expect("open");
        assert_eq!(until(&mut room_a, said).await.1, text);
    }
    for live in lives {
        live.close().await;
    }
}
