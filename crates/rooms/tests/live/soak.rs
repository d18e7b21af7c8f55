//! What was opened and closed leaves nothing behind. `SOAK=1` for the long form: 200 rooms one after
//! the other, then twenty at once for ten minutes.

use std::time::{Duration, Instant};

use iroh_rooms::{Live, RoomTicket};
use tokio::{runtime::Handle, time::sleep};

use crate::{
    net::{Relay, enter, joined, said, until},
    state::{create, join, they_agree},
};

/// Connections of gossip are closed when they were silent for half a minute.
const SETTLE: Duration = Duration::from_secs(150);

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Resident memory in KiB, where the system tells.
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Two meet in a new room, talk for so long, and leave.
async fn visit(host: &Live, guest: &Live, time: Duration) {
    let mut theirs = enter(host, &RoomTicket::generate(), "host").await;
    let mut ours = enter(guest, &theirs.ticket().await.expect("open"), "guest").await;
    until(&mut ours, joined).await;
    let end = Instant::now() + time;
    loop {
        ours.send_chat("hello").await.expect("open");
        until(&mut theirs, said).await;
        if Instant::now() >= end {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    ours.handle().leave().await;
    theirs.handle().leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_leave_nothing_behind() {
    let long = std::env::var_os("SOAK").is_some();
    let (rounds, rooms) = if long { (200, 20) } else { (12, 6) };
    let time = Duration::from_secs(if long { 600 } else { 0 });
    let relay = Relay::on_free_port().await;
    let (host, guest) = (relay.live().await, relay.live().await);
    for _ in 0..3 {
        visit(&host, &guest, Duration::ZERO).await;
    }
    // What the first ones leave is the measure: connections of gossip stay for a while.
    let before = settled(usize::MAX).await;
    let began = memory();
    for _ in 0..rounds {
        visit(&host, &guest, Duration::ZERO).await;
    }
    let after_rounds = (tasks(), memory());
    let visits = (0..rooms).map(|_| {
        let (host, guest) = (host.clone(), guest.clone());
        tokio::spawn(async move { visit(&host, &guest, time).await })
    });
    for visit in visits.collect::<Vec<_>>() {
        visit.await.expect("it ends well");
    }
    let after = settled(before).await;
    println!(
        "tasks {before}, after {rounds} rooms {}, in the end {after}; memory {began:?}, {:?}, {:?} KiB",
        after_rounds.0,
        after_rounds.1,
        memory()
    );
    assert!(
        after <= before,
        "{after} tasks are left, there were {before}"
    );
    for live in [&host, &guest] {
        let stats = live.stats();
        assert_eq!((stats.rooms, stats.sessions), (0, 0), "{stats:?}");
        assert_eq!(stats.gossip_restarts, 0, "{stats:?}");
    }
    host.close().await;
    guest.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_with_a_doorman_leave_nothing_behind() {
    let rounds = if std::env::var_os("SOAK").is_some() {
        100
    } else {
        8
    };
    let relay = Relay::on_free_port().await;
    let (host, guest) = (relay.live().await, relay.live().await);
    let visit = async || {
        let theirs = create(&host, "host").await;
        let ours = join(&guest, &theirs, "guest").await;
        they_agree(&[&theirs, &ours], "something").await;
        ours.leave().await;
        theirs.leave().await;
    };
    for _ in 0..2 {
        visit().await;
    }
    let before = settled(usize::MAX).await;
    for _ in 0..rounds {
        visit().await;
    }
    let after = settled(before).await;
    assert!(
        after <= before,
        "{after} tasks are left, there were {before}"
    );
    for live in [host, guest] {
        let stats = live.stats();
        assert_eq!((stats.rooms, stats.sessions), (0, 0), "{stats:?}");
        live.close().await;
    }
}

/// The number of tasks when it is down to what is wanted, or has not become less for a while.
async fn settled(wanted: usize) -> usize {
    let end = Instant::now() + SETTLE;
    let (mut least, mut since) = (tasks(), Instant::now());
    while Instant::now() < end && (least > wanted || wanted == usize::MAX) {
        sleep(Duration::from_millis(100)).await;
        if tasks() < least {
            (least, since) = (tasks(), Instant::now());
        }
        if wanted == usize::MAX && since.elapsed() > Duration::from_secs(3) {
            break;
        }
    }
    least
}
