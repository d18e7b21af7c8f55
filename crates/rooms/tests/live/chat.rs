//! Presence and chat with more than two, and more of it than anyone says.

use std::{collections::BTreeMap, time::Duration};

use iroh_rooms::{
    Event, Live, Room, RoomTicket,
    event::Changed,
    kv::{Config, Event as KvEvent, Kv},
    moq::close,
    presence::ROOM_STATE_KEY,
};
use n0_future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    hostile::{Stranger, holds},
    net::{Relay, enter, joined, pair, said, soon, until},
};

async fn three(relay: &Relay) -> (Vec<Live>, Vec<Room>) {
    let (mut lives, mut rooms): (Vec<Live>, Vec<Room>) = (Vec::new(), Vec::new());
    for name in ["0", "1", "2"] {
        let live = relay.live().await;
        let ticket = match rooms.first() {
            Some(room) => room.ticket().await.expect("open"),
            None => RoomTicket::generate(),
        };
        rooms.push(enter(&live, &ticket, name).await);
        lives.push(live);
    }
    for room in &mut rooms {
        for _ in 0..2 {
            until(room, joined).await;
        }
    }
    (lives, rooms)
}

/// What a room knows to have been said, by whom, in its order.
fn texts(room: &Room) -> BTreeMap<String, Vec<String>> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for message in room.handle().chat_history() {
        let name = message.peer.display_name.unwrap_or_default();
        texts.entry(name).or_default().push(message.text);
    }
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_at_once_all_arrive_once_and_in_order() {
    // Most from one: more than its readers hold back at once.
    const EACH: [usize; 3] = [900, 50, 50];
    let relay = Relay::on_free_port().await;
    let (lives, rooms) = three(&relay).await;
    let burst = rooms.iter().zip(EACH).map(|(room, count)| {
        let handle = room.handle().clone();
        tokio::spawn(async move {
            for n in 0..count {
                handle.send_chat(&n.to_string()).await.expect("open");
            }
        })
    });
    for sender in burst.collect::<Vec<_>>() {
        sender.await.expect("it sends");
    }
    let wanted: BTreeMap<String, Vec<String>> = EACH
        .iter()
        .enumerate()
        .map(|(who, count)| {
            (
                who.to_string(),
                (0..*count).map(|n| n.to_string()).collect(),
            )
        })
        .collect();
    for room in &rooms {
        holds("all that was said", async || {
            room.handle().chat_history().len() == 1000
        })
        .await;
        assert_eq!(texts(room), wanted);
    }
    for live in lives {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_around_a_reconnect_comes_once() {
    let relay = Relay::on_free_port().await;
    let (lives, mut room_a, mut room_b) = pair(&relay).await;
    until(&mut room_a, joined).await;
    until(&mut room_b, joined).await;
    let mut wanted = Vec::new();
    let mut heard = Vec::new();
    for round in 0..4 {
        for n in 0..25 {
            let text = format!("{round}.{n}");
            room_a.send_chat(&text).await.expect("open");
            wanted.push(text);
            if n == 12 {
                // Everything is read anew by the next session.
                let peer = lives[1 - round % 2].endpoint_id();
                let room = if round % 2 == 0 { &room_a } else { &room_b };
                let session = room.handle().scope().session(peer).expect("it stands");
                session.close(close::NORMAL, "cut");
            }
        }
        let last = wanted.last().expect("said").clone();
        until(&mut room_b, |event| {
            assert!(!matches!(event, Event::PeerLeft { .. }), "{event:?}");
            let (_, text) = said(event)?;
            heard.push(text.clone());
            (text == last).then_some(())
        })
        .await;
    }
    sleep(Duration::from_secs(1)).await;
    while let Some(event) = room_b.try_recv() {
        heard.extend(said(&event).map(|(_, text)| text));
    }
    assert_eq!(heard, wanted);
    for live in lives {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_is_signed_ten_times_a_second_at_most_and_the_latest_wins() {
    let relay = Relay::on_free_port().await;
    let ([a, b], mut room_a, room_b) = pair(&relay).await;
    until(&mut room_a, joined).await;
    // Who listens to the topic sees each value that is signed.
    let listener = Stranger::at(&relay).await;
    listener.know(&b);
    let secret = listener.endpoint.secret_key().clone();
    let topic = room_b.handle().id();
    let peers = vec![b.endpoint_id()];
    let kv = Kv::join(&listener.gossip, topic, secret, peers, Config::default());
    let kv = kv.await.expect("it joins");
    let mut values = kv.subscribe().await.expect("open");
    let mut count = 0;
    let mut is_of_b = |event: Option<KvEvent>| {
        let value = matches!(event, Some(KvEvent::Value { scope, key, .. })
            if scope == b.endpoint_id() && key == ROOM_STATE_KEY);
        count += usize::from(value);
        value
    };
    soon(async { while !is_of_b(values.recv().await) {} }).await;

    let began = Instant::now();
    let mut n = 0;
    while began.elapsed() < Duration::from_secs(3) {
        // Several at once, so that it is tried on a busy machine, too.
        let sets =
            (n + 1..=n + 10).map(|at| room_b.handle().set_presence(Some(json!({ "at": at }))));
        let set: Result<Vec<()>, _> = join_all(sets).await.into_iter().collect();
        set.expect("open");
        n += 10;
        sleep(Duration::from_millis(1)).await;
    }
    until(&mut room_a, |event| match event {
        Event::PeerUpdated { peer, changed } => {
            assert_eq!(changed[..], [Changed::Presence]);
            (peer.presence == Some(json!({ "at": n }))).then_some(())
        }
        Event::PeerLeft { .. } => panic!("updating is not leaving"),
        _ => None,
    })
    .await;
    while let Some(event) = values.try_recv() {
        is_of_b(Some(event));
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{n} were set, {count} were signed in {seconds} s");
    // And a few that are signed anew for neighbours, which are no updates.
    assert!((count as f64) < seconds * 10.0 + 8.0, "{count}");
    assert!(n > 2 * count, "{n} and {count}: it was not tried");
    let full = json!("x".repeat(2046));
    let set = room_b.handle().set_presence(Some(full.clone()));
    set.await.expect("2 KiB fit");
    holds("all of it", async || {
        let peers = room_a.handle().peers();
        let peer = peers.iter().find(|peer| peer.id == b.endpoint_id());
        peer.is_some_and(|peer| peer.presence.as_ref() == Some(&full))
    })
    .await;
    for live in [a, b] {
        live.close().await;
    }
}
