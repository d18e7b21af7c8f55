//! The bridge between a room and a program that only speaks MoQ.
#![cfg(unix)]

mod common;

use std::{future::Future, time::Duration};

use common::{PATIENCE, Running, run, text};
use iroh_rooms::{
    Live, Relays,
    moq::{Announced, Broadcast, RemoteBroadcast, TrackConfig, TrackOptions},
};

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(PATIENCE, future).await;
    result.unwrap_or_else(|_| panic!("no {what} in time"))
}

async fn first_text(broadcast: &RemoteBroadcast, track: &str) -> String {
    let reader = within("track", broadcast.track(track, TrackOptions::default()));
    let mut reader = reader.await.expect("the track is there");
    let frame = within("frame", reader.next_frame()).await;
    text(&frame.expect("no error").expect("not the end").data)
}

async fn announced(announced: &mut Announced, name: &str, active: bool) {
    within("announcement", async {
        while let Some(announce) = announced.next().await {
            if announce.name == name && announce.active == active {
                return;
            }
        }
        panic!("MoQ ended");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broadcasts_are_carried_both_ways() {
    // The program: an endpoint without relay, with a broadcast that is there before anybody asks.
    let program = Live::builder().relays(Relays::Disabled).spawn().await;
    let program = program.expect("an endpoint");
    let moq = program.moq();
    let (news, later) = (Broadcast::new(), Broadcast::new());
    let kept = TrackConfig {
        max_age: Duration::from_secs(60),
        ..TrackConfig::default()
    };
    let mut writer = news.track("text", kept).expect("a track");
    writer.write("first".into(), None).expect("written");
    moq.publish("world/news", &news).expect("published");
    let mut heard = moq.own().announced();

    let relay = Running::start(&["relay", "--bind", "127.0.0.1:0"]);
    let ready = relay.line("ready");
    let url = ready["url"].as_str().expect("a URL");
    let ticket = text(&run(&["ticket", "new", "--relay", url]).stdout);
    let port = program.addr().ip_addrs().map(|addr| addr.port()).next();
    let peer = format!(
        "{}@127.0.0.1:{}",
        program.endpoint_id(),
        port.expect("it is bound")
    );
    let bridge = Running::start(&["bridge", ticket.trim(), "--peer", &peer]);
    let ready = bridge.line("ready");
    let ticket = ready["ticket"].as_str().expect("a ticket");
    assert_eq!(bridge.line("session-opened")["version"], "moq-lite-06");

    // From the program into the room.
    let read = ["--read", "bridge/world:news/text"];
    let join = ["join", ticket, "--name", "Ada", "--publish", "clock"];
    let mut ada = Running::start(&[&join[..], &read[..]].concat());
    let ready = ada.line("ready");
    assert_eq!(ada.line("frame")["text"], "first");
    writer.write("second".into(), None).expect("written");
    assert_eq!(ada.line("frame")["text"], "second");

    // And back.
    let ada_id = ready["endpointId"].as_str().expect("an id");
    let name = format!("{ada_id}/clock");
    announced(&mut heard, &name, true).await;
    let bridge_id = moq.own().sessions().next().await;
    let Some(iroh_rooms::moq::SessionEvent::Opened(session)) = bridge_id else {
        panic!("{bridge_id:?}");
    };
    let clock = within("clock", session.subscribe(&name)).await;
    let time = first_text(&clock.expect("announced"), "clock").await;
    assert!(time.ends_with("UTC"), "{time}");

    // What ends on one side ends on the other, and what comes later comes.
    assert!(moq.own().unpublish("world/news"));
    assert_eq!(ada.line("broadcast-ended")["name"], "world:news");
    moq.publish("later", &later).expect("published");
    assert_eq!(ada.line("broadcast-subscribed")["name"], "later");
    ada.say("/quit");
    announced(&mut heard, &name, false).await;

    // The bridge finds its program again.
    session.close(1, "go away");
    bridge.line("session-closed");
    bridge.line("session-opened");
    assert_eq!(bridge.terminate(), Some(0));
    program.close().await;
}

#[test]
fn a_wrong_peer_is_wrong_use() {
    let bridge = run(&["bridge", "x", "--peer", "nobody@127.0.0.1:1"]);
    assert_eq!(bridge.status.code(), Some(2));
    assert!(text(&bridge.stderr).contains("--peer"));
}
