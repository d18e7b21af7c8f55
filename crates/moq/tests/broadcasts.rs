//! What one publishes, the others read.

mod common;

use std::time::Duration;

use common::{HISTORY, Peer, bytes, frame, text, until, within};
use iroh_rooms_moq::{
    Announce, Broadcast, Cause, Error, PathKind, RemoteBroadcast, Scope, SubscribeError,
    TrackConfig, TrackOptions, TrackReader, TrackWriter, limits,
};

const KEY: [u8; 32] = [9; 32];

struct Two {
    a: Peer,
    b: Peer,
    ours: Scope,
    theirs: Scope,
}

impl Two {
    async fn new() -> Self {
        Self::of(Peer::pair().await)
    }

    /// Over connections that hold little: what is written waits for what was written before.
    async fn narrow() -> Self {
        Self::of((Peer::narrow(1).await, Peer::narrow(2).await))
    }

    fn of((a, b): (Peer, Peer)) -> Self {
        let (ours, theirs) = (
            a.moq.open_scope(KEY).unwrap(),
            b.moq.open_scope(KEY).unwrap(),
        );
        Self { a, b, ours, theirs }
    }

    async fn connect(&self) {
        within("a session", self.ours.connect(self.b.addr()))
            .await
            .unwrap();
    }

    /// What `b` gets of `a`'s broadcast.
    async fn subscribe(&self, name: &str) -> RemoteBroadcast {
        within("the broadcast", self.theirs.subscribe(self.a.id(), name))
            .await
            .unwrap()
    }
}

fn track(broadcast: &Broadcast, name: &str) -> TrackWriter {
    let config = TrackConfig {
        max_age: Duration::from_secs(300),
        ..TrackConfig::default()
    };
    broadcast.track(name, config).unwrap()
}

#[tokio::test]
async fn published_before_and_after_the_session() {
    let two = Two::new().await;
    let (before, after) = (Broadcast::new(), Broadcast::new());
    two.ours.publish("before", &before).unwrap();
    two.connect().await;
    let mut announced = two.theirs.announced();
    let first = within("before", announced.next()).await.unwrap();
    let expected = Announce {
        remote: two.a.id(),
        name: "before".to_owned(),
        active: true,
    };
    assert_eq!(first, expected);
    two.ours.publish("after/deep", &after).unwrap();
    assert_eq!(
        within("after", announced.next()).await.unwrap().name,
        "after/deep"
    );
    assert_eq!(two.ours.published_broadcasts(), ["after/deep", "before"]);
    for (name, broadcast) in [("before", &before), ("after/deep", &after)] {
        let mut writer = track(broadcast, "t");
        let remote = two.subscribe(name).await;
        let mut reader = within("track", remote.track("t", TrackOptions::default()))
            .await
            .unwrap();
        writer.write(bytes(name), None).unwrap();
        assert_eq!(text(&mut reader).await, name);
    }
}

#[tokio::test]
async fn a_late_joiner_reads_what_was_said() {
    let two = Two::new().await;
    let broadcast = Broadcast::new();
    let mut chat = track(&broadcast, "chat");
    two.ours.publish("room", &broadcast).unwrap();
    for number in 0..50u64 {
        let time = Some(Duration::from_millis(number));
        assert_eq!(
            chat.write(bytes(&number.to_string()), time).unwrap(),
            number
        );
    }
    two.connect().await;
    let remote = two.subscribe("room").await;
    let mut reader = within("chat", remote.track("chat", HISTORY)).await.unwrap();
    for number in 0..50 {
        let frame = frame(&mut reader).await.unwrap();
        assert_eq!((frame.group, frame.index), (number, 0));
        assert_eq!(frame.data, bytes(&number.to_string()));
    }
    chat.write(bytes("now"), Some(Duration::from_micros(100_001)))
        .unwrap();
    let last = frame(&mut reader).await.unwrap();
    assert_eq!(last.timestamp, Duration::from_micros(100_001));

    // One who only wants what is new starts at the newest.
    let fresh = TrackOptions {
        start: None,
        ..HISTORY
    };
    let mut reader = within("chat", remote.track("chat", fresh)).await.unwrap();
    assert_eq!(text(&mut reader).await, "now");
    chat.write(bytes("next"), Some(Duration::from_millis(101)))
        .unwrap();
    assert_eq!(text(&mut reader).await, "next");

    // And an old group can be fetched by number.
    let mut group = within("an old group", reader.fetch(7)).await.unwrap();
    assert_eq!(
        within("it", group.next_frame())
            .await
            .unwrap()
            .unwrap()
            .data,
        bytes("7")
    );

    chat.finish();
    assert!(frame(&mut reader).await.is_none());
}

#[tokio::test]
async fn groups_frames_and_timestamps_arrive_as_written() {
    let two = Two::new().await;
    let broadcast = Broadcast::new();
    let mut video = track(&broadcast, "video");
    two.ours.publish("camera", &broadcast).unwrap();
    two.connect().await;
    let remote = two.subscribe("camera").await;
    let mut reader = within("video", remote.track("video", HISTORY))
        .await
        .unwrap();
    // Larger than any window, so that writing is blocked by flow control in between.
    let large = bytes(&"x".repeat(6 * 1024 * 1024));
    for number in 0..3 {
        let mut group = video.group().unwrap();
        assert_eq!(group.sequence(), number);
        for index in 0..4 {
            let time = Duration::from_micros(number * 1000 + index);
            let data = if index == 2 {
                large.clone()
            } else {
                bytes(&index.to_string())
            };
            group.write(data, Some(time)).unwrap();
        }
        group.finish();
    }
    assert!(video.latest() == Some(2));
    for number in 0..3 {
        for index in 0..4 {
            let frame = frame(&mut reader).await.unwrap();
            assert_eq!((frame.group, frame.index), (number, index));
            assert_eq!(
                frame.timestamp,
                Duration::from_micros(number * 1000 + index)
            );
            let size = if index == 2 { large.len() } else { 1 };
            assert_eq!(frame.data.len(), size);
        }
    }
    assert!(within("a reader", video.used()).await);
    drop(reader);
    within("no reader", video.unused()).await;
    assert!(!video.is_used());
}

#[tokio::test]
async fn republishing_survives_the_end_of_the_old() {
    let two = Two::new().await;
    let (old, new) = (Broadcast::new(), Broadcast::new());
    let mut old_track = track(&old, "t");
    two.ours.publish("camera", &old).unwrap();
    two.connect().await;
    let mut announced = two.theirs.announced();
    assert!(
        within("the old one", announced.next())
            .await
            .unwrap()
            .active
    );
    let old_remote = two.subscribe("camera").await;
    let mut old_reader = within("track", old_remote.track("t", HISTORY))
        .await
        .unwrap();
    for number in 0..5 {
        old_track
            .write(bytes(&format!("old {number}")), None)
            .unwrap();
        assert_eq!(text(&mut old_reader).await, format!("old {number}"));
    }

    let mut new_track = track(&new, "t");
    two.ours.publish("camera", &new).unwrap();
    assert!(
        !within("the old one's end", announced.next())
            .await
            .unwrap()
            .active
    );
    assert!(
        within("the new one", announced.next())
            .await
            .unwrap()
            .active
    );
    within("the old one's end", old_remote.closed()).await;
    let new_remote = two.subscribe("camera").await;
    let mut reader = within("track", new_remote.track("t", HISTORY))
        .await
        .unwrap();
    new_track.write(bytes("new"), None).unwrap();
    assert_eq!(text(&mut reader).await, "new");

    old_track.finish();
    old.finish();
    drop((old_track, old));
    assert!(
        within("the old reader", async { old_reader.next_frame().await })
            .await
            .unwrap()
            .is_none()
    );
    new_track.write(bytes("still"), None).unwrap();
    assert_eq!(text(&mut reader).await, "still");
    assert!(!new_remote.is_closed());
    assert_eq!(two.ours.published_broadcasts(), ["camera"]);
    let more = tokio::time::timeout(Duration::from_millis(200), announced.next()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn unpublishing_ends_it_for_readers() {
    let two = Two::new().await;
    let broadcast = Broadcast::new();
    let mut writer = track(&broadcast, "t");
    two.ours.publish("camera", &broadcast).unwrap();
    two.connect().await;
    let mut announced = two.theirs.announced();
    assert!(within("it", announced.next()).await.unwrap().active);
    let remote = two.subscribe("camera").await;
    let mut reader = within("track", remote.track("t", HISTORY)).await.unwrap();
    writer.write(bytes("one"), None).unwrap();
    assert_eq!(text(&mut reader).await, "one");

    let mut group = writer.group().unwrap();
    group.write(bytes("half"), None).unwrap();
    let mut half = within("a group", reader.next_group())
        .await
        .unwrap()
        .unwrap();
    let first = within("its frame", half.next_frame()).await.unwrap();
    assert_eq!(first.unwrap().data, bytes("half"));

    assert!(two.ours.unpublish("camera"));
    assert!(!two.ours.unpublish("camera"));
    assert!(
        !within("the withdrawal", announced.next())
            .await
            .unwrap()
            .active
    );
    within("its end", remote.closed()).await;
    // The writer goes on, for other scopes perhaps, but nobody here waits for it for ever.
    assert!(frame(&mut reader).await.is_none());
    let error = within("the group's end", half.next_frame())
        .await
        .unwrap_err();
    assert_eq!(error.code(), "TRACK_CLOSED");
    assert!(!broadcast.is_closed());

    two.ours.publish("camera", &broadcast).unwrap();
    assert!(within("it again", announced.next()).await.unwrap().active);
    let remote = two.subscribe("camera").await;
    let mut reader = within("track", remote.track("t", HISTORY)).await.unwrap();
    assert_eq!(text(&mut reader).await, "one");
    group.finish();
    assert_eq!(text(&mut reader).await, "half");
}

#[tokio::test]
async fn the_last_words_before_the_end_arrive() {
    let two = Two::new().await;
    two.connect().await;
    for round in 0..3 {
        let broadcast = Broadcast::new();
        let mut writer = track(&broadcast, "t");
        let name = format!("b{round}");
        two.ours.publish(&name, &broadcast).unwrap();
        let remote = two.subscribe(&name).await;
        let mut reader = within("track", remote.track("t", HISTORY)).await.unwrap();
        for number in 0..20 {
            writer.write(bytes(&number.to_string()), None).unwrap();
        }
        broadcast.finish();
        for number in 0..20 {
            assert_eq!(text(&mut reader).await, number.to_string());
        }
        assert!(frame(&mut reader).await.is_none());
        within("its end", remote.closed()).await;
        until("it is not published any more", || {
            two.ours.published_broadcasts().is_empty()
        })
        .await;
    }
}

#[tokio::test]
async fn errors_reach_the_reader_with_their_code() {
    let two = Two::new().await;
    let broadcast = Broadcast::new();
    let mut writer = track(&broadcast, "t");
    two.ours.publish("camera", &broadcast).unwrap();
    two.connect().await;
    let remote = two.subscribe("camera").await;
    let error = within("no such track", remote.track("nothing", HISTORY))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "NOT_ANNOUNCED");
    let mut reader = within("track", remote.track("t", HISTORY)).await.unwrap();
    writer.write(bytes("one"), None).unwrap();
    assert_eq!(text(&mut reader).await, "one");
    writer.abort(42);
    let error = within("the end", reader.next_frame()).await.unwrap_err();
    assert!(
        matches!(error, Error::TrackClosed { code: 42, .. }),
        "{error:?}"
    );
    assert_eq!(
        writer.write(bytes("two"), None).unwrap_err().code(),
        "CLOSED"
    );
    // The name is free again.
    let mut writer = track(&broadcast, "t");
    assert_eq!(
        broadcast
            .track("t", TrackConfig::default())
            .unwrap_err()
            .code(),
        "INVALID_ARGUMENT"
    );
    writer.write(bytes("three"), None).unwrap();
    broadcast.abort(7);
    assert_eq!(
        broadcast
            .track("u", TrackConfig::default())
            .unwrap_err()
            .code(),
        "CLOSED"
    );
    assert_eq!(
        two.ours.publish("x", &broadcast).unwrap_err().code(),
        "CLOSED"
    );
    let huge = bytes(&"x".repeat(33 * 1024 * 1024));
    let other = Broadcast::new();
    assert_eq!(
        track(&other, "t").write(huge, None).unwrap_err().code(),
        "TOO_LARGE"
    );
}

#[tokio::test]
async fn giving_up_a_read_loses_nothing() {
    let two = Two::new().await;
    let broadcast = Broadcast::new();
    let mut writer = track(&broadcast, "t");
    two.ours.publish("camera", &broadcast).unwrap();
    two.connect().await;
    let remote = two.subscribe("camera").await;
    let mut reader = within("track", remote.track("t", HISTORY)).await.unwrap();
    let writing = tokio::spawn(async move {
        for number in 0..300u32 {
            writer.write(bytes(&number.to_string()), None).unwrap();
            if number % 3 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let mut next = 0u64;
    within("all", async {
        while next < 300 {
            // Given up after a time that is often too short.
            let patience = Duration::from_micros(next % 7 * 150);
            match tokio::time::timeout(patience, reader.next_frame()).await {
                Ok(frame) => {
                    assert_eq!(frame.unwrap().unwrap().data, bytes(&next.to_string()));
                    next += 1;
                }
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    writing.await.unwrap();
}

#[tokio::test]
async fn datagrams_arrive() {
    let two = Two::new().await;
    let broadcast = Broadcast::new();
    let mut writer = track(&broadcast, "cursor");
    two.ours.publish("room", &broadcast).unwrap();
    two.connect().await;
    let remote = two.subscribe("room").await;
    let mut reader = within("cursor", remote.track("cursor", HISTORY))
        .await
        .unwrap();
    let time = Duration::from_micros(12_345);
    let got = within("a datagram", async {
        loop {
            writer.datagram(bytes("here"), Some(time)).unwrap();
            let wait = Duration::from_millis(100);
            if let Ok(datagram) = tokio::time::timeout(wait, reader.next_datagram()).await {
                return datagram.unwrap().unwrap();
            }
        }
    })
    .await;
    assert_eq!((got.data, got.timestamp), (bytes("here"), time));
    let large = bytes(&"x".repeat(limits::MAX_DATAGRAM_BYTES + 1));
    assert_eq!(
        writer.datagram(large, None).unwrap_err().code(),
        "TOO_LARGE"
    );
}

#[tokio::test]
async fn counters_are_real() {
    let two = Two::new().await;
    let session = within("a session", two.ours.connect(two.b.addr()))
        .await
        .unwrap();
    let broadcast = Broadcast::new();
    let mut writer = track(&broadcast, "t");
    two.ours.publish("camera", &broadcast).unwrap();
    let remote = two.subscribe("camera").await;
    let mut reader = within("track", remote.track("t", HISTORY)).await.unwrap();
    let before = session.stats();
    for _ in 0..20 {
        writer.write(bytes(&"x".repeat(10_000)), None).unwrap();
        frame(&mut reader).await.unwrap();
    }
    let after = session.stats();
    assert!(
        after
            .rtt
            .is_some_and(|rtt| rtt > Duration::ZERO && rtt < Duration::from_secs(1))
    );
    assert!(
        after.packets_received > before.packets_received,
        "{after:?}"
    );
    assert!(after.bytes_sent >= before.bytes_sent + 200_000, "{after:?}");
    assert_eq!(after.path, Some(PathKind::Direct));
}

#[tokio::test]
async fn one_broadcast_in_two_scopes_and_for_many_peers() {
    let publisher = Peer::new(1).await;
    let rooms = [
        publisher.moq.open_scope([1; 32]).unwrap(),
        publisher.moq.open_scope([2; 32]).unwrap(),
    ];
    let broadcast = Broadcast::new();
    let mut writer = track(&broadcast, "t");
    for room in &rooms {
        room.publish("camera", &broadcast).unwrap();
    }
    let mut readers = Vec::new();
    for seed in 2..10u8 {
        let peer = Peer::new(seed).await;
        let room = peer.moq.open_scope([seed % 2 + 1; 32]).unwrap();
        within("a session", room.connect(publisher.addr()))
            .await
            .unwrap();
        let remote = within("camera", room.subscribe(publisher.id(), "camera"))
            .await
            .unwrap();
        let reader = within("track", remote.track("t", HISTORY)).await.unwrap();
        readers.push((peer, room, reader));
    }
    for number in 0..10 {
        writer.write(bytes(&number.to_string()), None).unwrap();
        for (_, _, reader) in &mut readers {
            assert_eq!(text(reader).await, number.to_string());
        }
    }
    assert_eq!(publisher.moq.stats().sessions, 8);
}

#[tokio::test]
async fn a_broadcast_is_passed_on() {
    let two = Two::new().await;
    let reader = Peer::new(3).await;
    two.connect().await;
    let (source, end) = (Broadcast::new(), "the end of it");
    let mut writer = track(&source, "t");
    two.ours.publish("camera", &source).unwrap();
    let carried = Broadcast::carrying(&two.subscribe("camera").await);
    assert_eq!(
        carried
            .track("own", TrackConfig::default())
            .unwrap_err()
            .code(),
        "INVALID_ARGUMENT"
    );
    two.b.moq.publish("from/a", &carried).unwrap();
    within("a session", reader.moq.connect(two.b.addr()))
        .await
        .unwrap();
    assert!(!writer.is_used(), "nothing is read before somebody asks");

    let scope = reader.moq.own();
    let remote = within("it", scope.subscribe(two.b.id(), "from/a"))
        .await
        .unwrap();
    let missing = within("no such track", remote.track("nothing", HISTORY)).await;
    assert_eq!(missing.unwrap_err().code(), "NOT_ANNOUNCED");
    for number in 0..3u64 {
        let time = Duration::from_millis(number);
        writer
            .write(bytes(&number.to_string()), Some(time))
            .unwrap();
    }
    let mut frames = within("track", remote.track("t", HISTORY)).await.unwrap();
    for number in 0..3 {
        let frame = frame(&mut frames).await.unwrap();
        assert_eq!(
            (frame.group, frame.data),
            (number, bytes(&number.to_string()))
        );
        assert_eq!(frame.timestamp, Duration::from_millis(number));
    }
    let mut old = within("an old group", frames.fetch(1)).await.unwrap();
    assert_eq!(
        within("it", old.next_frame()).await.unwrap().unwrap().data,
        bytes("1")
    );
    drop((frames, old));
    within("no reader", writer.unused()).await;

    assert!(!carried.is_closed());
    assert!(two.ours.unpublish("camera"));
    within(end, carried.closed()).await;
    within(end, remote.closed()).await;
    until("it is not published any more", || {
        two.b.moq.published_broadcasts().is_empty()
    })
    .await;
}

#[tokio::test]
async fn waiting_for_a_broadcast_ends_with_the_reason() {
    let two = Two::new().await;
    // A name that cannot be is not waited for.
    let error = two.theirs.subscribe(two.a.id(), "a//b").await.unwrap_err();
    assert!(matches!(error, SubscribeError::NotAnnounced), "{error}");
    let session = within("a session", two.ours.connect(two.b.addr()))
        .await
        .unwrap();
    // By the scope: whoever has a session, or gets one.
    let waiting = |name| {
        let (scope, remote) = (two.theirs.clone(), two.a.id());
        tokio::spawn(async move { scope.subscribe(remote, name).await })
    };
    let (later, never) = (waiting("later"), waiting("never"));
    // By the session, on either side.
    let here = tokio::spawn(async move { (session.subscribe("never").await, session) });
    let broadcast = Broadcast::new();
    two.ours.publish("later", &broadcast).unwrap();
    assert_eq!(
        within("later", later).await.unwrap().unwrap().name(),
        "later"
    );
    two.theirs.disconnect(two.a.id(), 7, "enough");
    let error = within("never", never).await.unwrap().unwrap_err();
    let SubscribeError::SessionClosed(end) = &error else {
        panic!("{error}")
    };
    assert_eq!((end.code, end.cause), (7, Cause::Local));
    let (error, session) = within("here", here).await.unwrap();
    let Err(SubscribeError::SessionClosed(end)) = error else {
        panic!("{error:?}")
    };
    let expected = (7, "enough", Cause::Peer);
    assert_eq!((end.code, &*end.reason, end.cause), expected);
    // Without a session it waits for one, or for the end of the scope.
    until("it is gone", || two.theirs.session(two.a.id()).is_none()).await;
    let never = waiting("never");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!never.is_finished());
    two.theirs.close(0, "").await;
    let error = within("never", never).await.unwrap().unwrap_err();
    assert!(matches!(error, SubscribeError::Closed), "{error}");
    let codes = [
        SubscribeError::NotAnnounced,
        error,
        SubscribeError::SessionClosed(end),
    ]
    .map(|error| error.code());
    assert_eq!(codes, ["NOT_ANNOUNCED", "CLOSED", "SESSION_CLOSED"]);
    drop(session);
}

#[tokio::test]
async fn a_sessions_origins_are_what_is_published_and_announced() {
    let two = Two::new().await;
    let session = within("a session", two.ours.connect(two.b.addr()))
        .await
        .unwrap();
    let broadcast = Broadcast::new();
    session
        .origin_producer()
        .publish("ours", &broadcast)
        .unwrap();
    session.publish("too", &broadcast).unwrap();
    two.theirs.publish("theirs", &broadcast).unwrap();
    let mut heard = session.origin_consumer();
    let theirs = within("theirs", heard.next()).await.unwrap();
    assert_eq!((theirs.remote, &*theirs.name), (two.b.id(), "theirs"));
    let mut heard = two.theirs.announced();
    for name in ["ours", "too"] {
        let ours = within("ours", heard.next()).await.unwrap();
        assert_eq!((ours.remote, &*ours.name), (two.a.id(), name));
    }
    assert_eq!(two.ours.published_broadcasts(), ["ours", "too"]);
}

#[tokio::test]
async fn names_are_checked() {
    let two = Two::new().await;
    let broadcast = Broadcast::new();
    let long = "x".repeat(limits::MAX_NAME_BYTES + 1);
    let deep = ["x"; limits::MAX_NAME_PARTS + 1].join("/");
    for name in [
        "", "/", "a//b", "/a", "a/", "*", "a/**", ".hidden", "a/.b", &long, &deep,
    ] {
        assert_eq!(
            two.ours.publish(name, &broadcast).unwrap_err().code(),
            "INVALID_ARGUMENT",
            "{name}"
        );
    }
    two.ours.publish("größe/1 2", &broadcast).unwrap();
    two.connect().await;
    let mut announced = two.theirs.announced();
    assert_eq!(
        within("it", announced.next()).await.unwrap().name,
        "größe/1 2"
    );
}

#[tokio::test]
async fn as_many_broadcasts_as_are_allowed() {
    let two = Two::new().await;
    two.connect().await;
    let mut announced = two.theirs.announced();
    let broadcast = Broadcast::new();
    for number in 0..limits::MAX_PUBLISHED {
        two.ours.publish(&format!("b{number}"), &broadcast).unwrap();
    }
    let error = two.ours.publish("one more", &broadcast).unwrap_err();
    assert_eq!(error.code(), "INTERNAL");
    for _ in 0..limits::MAX_PUBLISHED {
        assert!(
            within("an announcement", announced.next())
                .await
                .unwrap()
                .active
        );
    }
    assert_eq!(two.b.moq.stats().announcements_ignored, 0);
}

/// Reads to the end and says which groups came.
async fn groups(reader: &mut TrackReader) -> Vec<u64> {
    let mut groups = Vec::new();
    while let Some(frame) = frame(reader).await {
        groups.push(frame.group);
    }
    groups
}

#[tokio::test]
async fn what_is_in_flight_at_the_end_arrives() {
    let data = bytes(&"x".repeat(64 * 1024));
    let all: Vec<_> = (0..100).collect();
    // How the end comes.
    for way in ["finish", "drop", "broadcast"] {
        let two = Two::narrow().await;
        two.connect().await;
        let broadcast = Broadcast::new();
        let mut writer = track(&broadcast, "t");
        two.ours.publish("b", &broadcast).unwrap();
        let remote = two.subscribe("b").await;
        let mut in_order = within("track", remote.track("t", HISTORY)).await.unwrap();
        let options = TrackOptions {
            ordered: false,
            ..HISTORY
        };
        let mut as_it_comes = within("track", remote.track("t", options)).await.unwrap();
        for _ in &all {
            writer.write(data.clone(), None).unwrap();
        }
        match way {
            "finish" => {
                writer.finish();
                assert_eq!(
                    writer.write(data.clone(), None).unwrap_err().code(),
                    "CLOSED"
                );
            }
            "drop" => drop(writer),
            _ => {
                broadcast.finish();
                drop((broadcast, writer));
            }
        }
        let (ordered, mut unordered) = within("all groups", async {
            tokio::join!(groups(&mut in_order), groups(&mut as_it_comes))
        })
        .await;
        assert_eq!(ordered, all, "{way}, in order");
        unordered.sort_unstable();
        assert_eq!(unordered, all, "{way}, as it comes");
        assert_eq!((in_order.lagged(), as_it_comes.lagged()), (0, 0), "{way}");
        if way == "broadcast" {
            within("its end", remote.closed()).await;
        } else {
            // One who comes late gets it as well.
            let mut late = within("track", remote.track("t", HISTORY)).await.unwrap();
            assert_eq!(groups(&mut late).await, all, "{way}, late");
        }
    }
}

#[tokio::test]
async fn an_ended_track_is_read_by_those_who_come_late() {
    const KEPT: u64 = 64;
    let two = Two::new().await;
    let broadcast = Broadcast::new();
    two.ours.publish("b", &broadcast).unwrap();
    for number in 0..KEPT {
        let mut writer = track(&broadcast, &format!("t{number}"));
        for group in 0..3 {
            writer.write(bytes(&format!("{group}")), None).unwrap();
        }
    }
    two.connect().await;
    let remote = two.subscribe("b").await;
    for _twice in 0..2 {
        for number in [0, 1, KEPT - 1] {
            let name = format!("t{number}");
            let newest = TrackOptions::default();
            let mut reader = within("track", remote.track(&name, newest)).await.unwrap();
            assert_eq!(text(&mut reader).await, "2", "{name}");
            assert!(frame(&mut reader).await.is_none(), "{name}");
        }
        let mut reader = within("track", remote.track("t2", HISTORY)).await.unwrap();
        assert_eq!(groups(&mut reader).await, [0, 1, 2]);
    }
    // Over another connection, too.
    let third = Peer::new(3).await;
    let scope = third.moq.open_scope(KEY).unwrap();
    within("a session", scope.connect(two.a.addr()))
        .await
        .unwrap();
    let remote = within("it", scope.subscribe(two.a.id(), "b"))
        .await
        .unwrap();
    let mut reader = within("track", remote.track("t0", TrackOptions::default()))
        .await
        .unwrap();
    assert_eq!(text(&mut reader).await, "2");
    assert!(frame(&mut reader).await.is_none());
}

#[tokio::test]
async fn a_name_is_free_when_its_track_has_ended() {
    let two = Two::new().await;
    two.connect().await;
    let broadcast = Broadcast::new();
    two.ours.publish("b", &broadcast).unwrap();
    let remote = two.subscribe("b").await;
    let mut writer = track(&broadcast, "t");
    writer.write(bytes("0"), None).unwrap();
    let mut reader = within("track", remote.track("t", HISTORY)).await.unwrap();
    assert_eq!(text(&mut reader).await, "0");
    // The reader and the writer are still there.
    writer.finish();
    let mut again = track(&broadcast, "t");
    again.write(bytes("1"), None).unwrap();
    assert_eq!(writer.write(bytes("x"), None).unwrap_err().code(), "CLOSED");
}

#[tokio::test]
async fn a_writer_that_waits_is_as_fast_as_its_reader() {
    let two = Two::narrow().await;
    two.connect().await;
    let broadcast = Broadcast::new();
    let mut writer = track(&broadcast, "t");
    two.ours.publish("b", &broadcast).unwrap();
    // Nobody reads: nobody has to wait.
    for _ in 0..2 * limits::MAX_UNDER_WAY_GROUPS {
        writer.write(bytes("x"), None).unwrap();
        assert!(writer.demand().is_ready());
        assert!(writer.ready().await);
    }
    let first = writer.latest().unwrap() + 1;

    let remote = two.subscribe("b").await;
    let options = TrackOptions {
        start: Some(first),
        ..HISTORY
    };
    let mut reader = within("track", remote.track("t", options)).await.unwrap();
    let data = bytes(&"x".repeat(64 * 1024));
    let window = limits::MAX_UNDER_WAY_BYTES / data.len() as u64;
    let mut got = 0;
    for written in 1..=4 * window {
        writer.write(data.clone(), None).unwrap();
        // Both run: the reader's side takes what comes whether or not it is read.
        assert!(within("room for more", writer.ready()).await);
        assert!(writer.demand().is_ready());
        if written % 8 == 0 {
            for _ in 0..8 {
                assert_eq!(frame(&mut reader).await.unwrap().group, first + got);
                got += 1;
            }
        }
    }
    assert_eq!(reader.lagged(), 0);
    // Without waiting there is soon too much under way.
    for _ in 0..2 * window {
        writer.write(data.clone(), None).unwrap();
    }
    assert!(!writer.demand().is_ready());
    let demand = writer.demand();
    let waiting = tokio::spawn(async move { demand.ready().await });
    drop(reader);
    // It is told when the reader is gone, and when the track ends.
    assert!(within("nobody to wait for", waiting).await.unwrap());
    let demand = writer.demand();
    drop(writer);
    assert!(!within("the end", demand.ready()).await);
}

#[tokio::test]
async fn a_slow_reader_is_told_how_much_it_missed() {
    let two = Two::narrow().await;
    two.connect().await;
    let broadcast = Broadcast::new();
    let mut writer = track(&broadcast, "t");
    two.ours.publish("b", &broadcast).unwrap();
    let remote = two.subscribe("b").await;
    // Newest first: what it overtakes is given up.
    let newest = TrackOptions::default();
    let mut reader = within("track", remote.track("t", newest)).await.unwrap();
    let mut whole = within("track", remote.track("t", HISTORY)).await.unwrap();
    let data = bytes(&"x".repeat(64 * 1024));
    for number in 0..100 {
        let time = Duration::from_secs(number);
        writer.write(data.clone(), Some(time)).unwrap();
    }
    let (got, ()) = tokio::join!(
        async {
            let mut got = Vec::new();
            while got.last() != Some(&99) {
                got.push(frame(&mut reader).await.unwrap().group);
            }
            got
        },
        // The other has everything.
        async {
            for number in 0..100 {
                assert_eq!(frame(&mut whole).await.unwrap().group, number);
            }
        },
    );
    assert!(got.is_sorted() && got.len() < 100, "{got:?}");
    let first = got.first().copied().unwrap();
    // One that was given up after its frame had come, before its end, is not whole either.
    let missed = 100 - first - got.len() as u64;
    assert!(
        (missed..100 - first).contains(&reader.lagged()),
        "{} {got:?}",
        reader.lagged()
    );
    assert_eq!(whole.lagged(), 0);

    // A group that breaks off is one missed, whether its beginning was seen or not.
    let mut broken = writer.group().unwrap();
    broken.write(bytes("half"), None).unwrap();
    writer.write(bytes("next"), None).unwrap();
    broken.abort(5);
    let next = within("the next", async {
        loop {
            let frame = whole.next_frame().await.unwrap().unwrap();
            if frame.group == 101 {
                return frame;
            }
        }
    })
    .await;
    assert_eq!((next.data, whole.lagged()), (bytes("next"), 1));
}

#[tokio::test]
async fn the_more_important_track_goes_first() {
    let two = Two::narrow().await;
    two.connect().await;
    let broadcast = Broadcast::new();
    let (mut low, mut high) = (track(&broadcast, "low"), track(&broadcast, "high"));
    two.ours.publish("b", &broadcast).unwrap();
    let remote = two.subscribe("b").await;
    let options = |priority| TrackOptions {
        priority,
        ..HISTORY
    };
    let mut low_reader = within("low", remote.track("low", options(1)))
        .await
        .unwrap();
    let mut high_reader = within("high", remote.track("high", options(200)))
        .await
        .unwrap();
    let data = bytes(&"x".repeat(64 * 1024));
    for _ in 0..200 {
        low.write(data.clone(), None).unwrap();
    }
    high.write(data, None).unwrap();
    frame(&mut high_reader).await.unwrap();
    // What was written long before it is not there yet.
    let mut came = 0;
    while low_reader.latest().is_some() && came < 200 {
        let Ok(frame) = tokio::time::timeout(Duration::ZERO, low_reader.next_frame()).await else {
            break;
        };
        frame.unwrap().unwrap();
        came += 1;
    }
    assert!(came < 150, "{came} of 200 came before");
}
