//! One publisher, many sessions.

mod common;

use std::time::Duration;

use common::{HISTORY, Peer, bytes, frame, until, within};
use iroh_rooms_moq::{Broadcast, TrackConfig};

const SESSIONS: u8 = 50;

/// MiB of this process in memory; none where the system does not say.
fn memory() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0.0) * 4096.0 / 1048576.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_sessions_in_flat_memory() {
    let publisher = Peer::new(100).await;
    let broadcast = Broadcast::new();
    let config = TrackConfig {
        max_age: Duration::from_secs(1),
        ..TrackConfig::default()
    };
    let mut track = broadcast.track("t", config).unwrap();
    publisher.moq.publish("camera", &broadcast).unwrap();
    let mut peers = Vec::new();
    for seed in 0..SESSIONS {
        let peer = Peer::new(seed).await;
        let session = within("a session", peer.moq.connect(publisher.addr()))
            .await
            .unwrap();
        let remote = within("camera", session.subscribe("camera")).await.unwrap();
        let reader = within("track", remote.track("t", HISTORY)).await.unwrap();
        peers.push((peer, reader));
    }
    assert_eq!(publisher.moq.stats().sessions, u64::from(SESSIONS));
    let data = bytes(&"x".repeat(1024));
    let mut round = async |count: u64| {
        for _ in 0..count {
            // A second between them: each makes the one before it too old.
            let time = Duration::from_secs(track.latest().map_or(0, |latest| latest + 1));
            let number = track.write(data.clone(), Some(time)).unwrap();
            for (_, reader) in &mut peers {
                while frame(reader).await.unwrap().group < number {}
            }
        }
    };
    round(20).await;
    let (before, streams) = (memory(), publisher.moq.stats().streams);
    round(60).await;
    let (grown, stats) = (memory() - before, publisher.moq.stats());
    // 60 groups for 50 readers are 3 MiB of payload.
    assert!(grown < 24.0, "memory grew by {grown} MiB");
    assert!(
        stats.streams <= streams + 2 * u64::from(SESSIONS),
        "{stats:?}"
    );

    // All hear of a change, and of the end.
    let late = Broadcast::new();
    publisher.moq.publish("late", &late).unwrap();
    for (peer, _) in &peers {
        let scope = peer.moq.own();
        within("late", scope.subscribe(publisher.id(), "late"))
            .await
            .unwrap();
    }
    broadcast.finish();
    for (_, reader) in &mut peers {
        assert!(frame(reader).await.is_none());
    }
    // An endpoint that is dropped may take its last word with it.
    for (peer, _) in peers {
        within("shutdown", peer.router.shutdown()).await.unwrap();
    }
    until("all have left", || publisher.moq.stats().sessions == 0).await;
}
