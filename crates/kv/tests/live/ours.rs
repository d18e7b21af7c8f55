//! Among ourselves, with hostile peers, and when gossip fails.

use std::time::{Duration, Instant};

use crate::net::{Net, Peer, TOPIC, soon, until, value, values};
use bytes::Bytes;
use iroh_base::SecretKey;
use iroh_gossip::{
    Gossip,
    api::{GossipSender, GossipTopic},
};
use iroh_rooms_kv::{
    Config, Error, Event, Kv, Stats,
    store::{KEYS_MAX, SCOPES_MAX},
    wire::GossipMessage,
};
use tokio::time::sleep;

/// Well under a second on an idle machine. What would help otherwise, anti-entropy, takes at
/// least 24 s: this tells the two apart on a busy one as well.
const AT_ONCE: Duration = Duration::from_secs(8);

fn wall() -> u64 {
    std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_nanos() as u64
}

/// A peer that says what it likes.
async fn hostile(net: &Net, victim: &Peer) -> (Peer, GossipTopic) {
    let peer = net.peer().await;
    let bootstrap = vec![victim.id()];
    let topic = soon(peer.gossip.subscribe_and_join(TOPIC, bootstrap))
        .await
        .unwrap();
    (peer, topic)
}

async fn say(sender: &GossipSender, bytes: impl Into<Bytes>) {
    sender.broadcast(bytes.into()).await.unwrap();
}

async fn stats_until(kv: &Kv, wanted: impl Fn(&Stats) -> bool) -> Stats {
    soon(async {
        loop {
            let stats = kv.stats().await.unwrap();
            if wanted(&stats) {
                return stats;
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test]
async fn three_converge_and_a_newcomer_sees_all_at_once() {
    let net = Net::default();
    let [alice, bob, carol] = [net.peer().await, net.peer().await, net.peer().await];
    // A line: each knows only the one before.
    let kvs = [
        alice.kv(&[]).await,
        bob.kv(&[&alice]).await,
        carol.kv(&[&bob]).await,
    ];
    for round in ["first", "changed"] {
        for kv in &kvs {
            kv.put("key", round).await.unwrap();
        }
        for (kv, others) in kvs
            .iter()
            .zip([[&bob, &carol], [&alice, &carol], [&alice, &bob]])
        {
            let mut events = kv.subscribe().await.unwrap();
            values(&mut events, &others.map(|other| (other, "key", round))).await;
        }
    }

    let newcomer = net.peer().await;
    let started = Instant::now();
    let kv = newcomer.kv(&[&carol]).await;
    kv.put("key", "new").await.unwrap();
    let mut events = kv.subscribe().await.unwrap();
    let all = [&alice, &bob, &carol].map(|peer| (peer, "key", "changed"));
    values(&mut events, &all).await;
    for kv in &kvs {
        let mut events = kv.subscribe().await.unwrap();
        value(&mut events, &newcomer, "key", "new").await;
    }
    let took = started.elapsed();
    println!("all was seen after {took:?}");
    assert!(took < AT_ONCE, "{took:?}");
}

#[tokio::test]
async fn a_newcomer_is_not_told_of_those_known_to_be_gone() {
    let net = Net::default();
    let host = net.peer().await;
    let kv = host.kv(&[]).await;
    let (_crowd, topic) = hostile(&net, &host).await;
    let (sender, _receiver) = topic.split();
    let [here, gone] = [1, 2].map(|number| SecretKey::from_bytes(&[number; 32]));
    let write = |secret: &SecretKey, value: &'static str| {
        let message = GossipMessage::sign(secret, "key".into(), wall(), value.into());
        say(&sender, message.encode())
    };
    write(&here, "old").await;
    write(&gone, "old").await;
    stats_until(&kv, |stats| stats.entries == 2).await;
    kv.withhold(gone.public(), "key").await.unwrap();

    let newcomer = net.peer().await;
    let kv = newcomer.kv(&[&host]).await;
    let mut events = kv.subscribe().await.unwrap();
    let mut told = Vec::new();
    let mut read_until = async |wanted: &SecretKey| {
        soon(async {
            loop {
                let event = events.recv().await.expect("the topic is joined");
                if let Event::Value {
                    scope,
                    value,
                    repeated,
                    ..
                } = event
                {
                    told.push((scope, value, repeated));
                    if scope == wanted.public() {
                        return;
                    }
                }
            }
        })
        .await;
    };
    read_until(&here).await;
    // The same pass would have brought it by the time that this has come.
    write(&gone, "new").await;
    read_until(&gone).await;
    let wanted = [(&here, "old", true), (&gone, "new", false)];
    let wanted = wanted.map(|(secret, value, repeated)| (secret.public(), value.into(), repeated));
    assert_eq!(told, wanted);
}

#[tokio::test]
async fn a_newcomer_sees_a_full_room_at_once() {
    let net = Net::default();
    let host = net.peer().await;
    let kv = host.kv(&[]).await;
    let (_crowd, topic) = hostile(&net, &host).await;
    let (sender, _receiver) = topic.split();
    // 100 people with two values each.
    for number in 0..100u8 {
        for key in ["r", "s"] {
            let secret = SecretKey::from_bytes(&[number; 32]);
            let bytes = GossipMessage::sign(&secret, key.into(), wall(), vec![1; 200].into());
            say(&sender, bytes.encode()).await;
        }
    }
    stats_until(&kv, |stats| stats.entries == 200).await;

    let newcomer = net.peer().await;
    let started = Instant::now();
    let kv = newcomer.kv(&[&host]).await;
    stats_until(&kv, |stats| stats.entries >= 200).await;
    let took = started.elapsed();
    println!("all was seen after {took:?}");
    assert!(took < AT_ONCE, "{took:?}");
}

#[tokio::test]
async fn a_value_put_alone_reaches_the_first_neighbour() {
    let net = Net::default();
    let (alice, bob) = (net.peer().await, net.peer().await);
    let kv = alice.kv(&[]).await;
    kv.put("key", "value").await.unwrap();
    let other = bob.kv(&[]).await;
    let mut events = other.subscribe().await.unwrap();
    // Also when one is told later whom to join.
    other.join_peers(vec![alice.id()]).await.unwrap();
    let up = until(&mut events, |event| matches!(event, Event::NeighborUp(_))).await;
    assert_eq!(up, Event::NeighborUp(alice.id()));
    value(&mut events, &alice, "key", "value").await;
    assert_eq!(other.neighbors().await.unwrap(), [alice.id()]);
    // Whoever subscribes later starts with what there is, neighbours first.
    let mut late = other.subscribe().await.unwrap();
    assert_eq!(late.try_recv(), Some(Event::NeighborUp(alice.id())));
    assert!(crate::net::is(
        &late.try_recv().unwrap(),
        &alice,
        "key",
        "value"
    ));
}

#[tokio::test]
async fn heartbeats_are_told_and_own_values_are_not() {
    let net = Net::default();
    let (alice, bob) = (net.peer().await, net.peer().await);
    let kv = alice.kv(&[]).await;
    let other = bob.kv(&[&alice]).await;
    let mut own = kv.subscribe().await.unwrap();
    let mut events = other.subscribe().await.unwrap();
    until(&mut events, |event| matches!(event, Event::NeighborUp(_))).await;
    let mut last = 0;
    for _ in 0..5 {
        kv.put("key", "same").await.unwrap();
        let event = until(
            &mut events,
            |event| matches!(event, Event::Value { timestamp, .. } if *timestamp > last),
        )
        .await;
        if let Event::Value { timestamp, .. } = event {
            last = timestamp;
        }
    }
    while let Some(event) = own.try_recv() {
        assert!(!matches!(event, Event::Value { .. }), "{event:?}");
    }
}

#[tokio::test]
async fn closing_and_dropping_leave_the_topic() {
    let net = Net::default();
    let (alice, bob, carol) = (net.peer().await, net.peer().await, net.peer().await);
    let kv = alice.kv(&[]).await;
    let mut events = kv.subscribe().await.unwrap();

    let closing = bob.kv(&[&alice]).await;
    let mut ending = closing.subscribe().await.unwrap();
    until(&mut events, |event| *event == Event::NeighborUp(bob.id())).await;
    until(&mut ending, |event| *event == Event::NeighborUp(alice.id())).await;
    // The last word is heard.
    closing.put("key", "goodbye").await.unwrap();
    closing.close().await;
    closing.close().await;
    value(&mut events, &bob, "key", "goodbye").await;
    until(&mut events, |event| *event == Event::NeighborDown(bob.id())).await;
    assert_eq!(closing.put("key", "value").await, Err(Error::Closed));
    soon(async { while ending.recv().await.is_some() {} }).await;

    let dropping = carol.kv(&[&alice]).await;
    let clone = dropping.clone();
    until(&mut events, |event| *event == Event::NeighborUp(carol.id())).await;
    let mut ending = dropping.subscribe().await.unwrap();
    until(&mut ending, |event| *event == Event::NeighborUp(alice.id())).await;
    drop(dropping);
    clone.put("key", "still here").await.unwrap();
    value(&mut events, &carol, "key", "still here").await;
    drop(clone);
    until(&mut events, |event| {
        *event == Event::NeighborDown(carol.id())
    })
    .await;
}

#[tokio::test]
async fn values_live_as_long_as_their_writer() {
    let net = Net::default();
    let (alice, bob) = (net.peer().await, net.peer().await);
    let config = Config {
        expiry: Duration::from_secs(2),
        anti_entropy: Duration::from_secs(1),
        ..Config::default()
    };
    let kv = alice.kv(&[]).await;
    let mut events = kv.subscribe().await.unwrap();
    let other = bob.kv_with(&[&alice], config.clone()).await;
    other.put("key", "value").await.unwrap();
    // Written once, it is heard again and again.
    for _ in 0..3 {
        value(&mut events, &bob, "key", "value").await;
    }
    drop(other);

    let carol = net.peer().await;
    let kv = carol.kv_with(&[&alice], config).await;
    let mut events = kv.subscribe().await.unwrap();
    value(&mut events, &bob, "key", "value").await;
    let expired = until(&mut events, |event| matches!(event, Event::Expired { .. })).await;
    let (scope, key) = (bob.id(), "key".into());
    assert_eq!(expired, Event::Expired { scope, key });
    assert_eq!(kv.stats().await.unwrap().entries, 0);
}

#[tokio::test]
async fn own_limits_are_errors() {
    let net = Net::default();
    let kv = net.peer().await.kv(&[]).await;
    let too_large = |result: Result<(), Error>| result.unwrap_err().code();
    assert_eq!(too_large(kv.put(vec![0; 65], "value").await), "TOO_LARGE");
    assert_eq!(too_large(kv.put("key", vec![0; 3073]).await), "TOO_LARGE");
    for key in 0..KEYS_MAX {
        kv.put(key.to_string(), vec![0; 3072]).await.unwrap();
    }
    assert_eq!(too_large(kv.put("one more", "value").await), "TOO_LARGE");
}

#[tokio::test]
async fn hostile_messages_are_counted_and_harm_nobody() {
    let net = Net::default();
    let (alice, friend) = (net.peer().await, net.peer().await);
    let kv = alice.kv(&[]).await;
    let mut events = kv.subscribe().await.unwrap();
    let friends = friend.kv(&[&alice]).await;
    friends.put("key", "before").await.unwrap();
    value(&mut events, &friend, "key", "before").await;

    let (_peer, topic) = hostile(&net, &alice).await;
    let (sender, _receiver) = topic.split();
    let secret = SecretKey::from_bytes(&[1; 32]);
    let sign = |key: &'static str, timestamp| {
        GossipMessage::sign(&secret, key.into(), timestamp, "value".into())
    };
    let valid = sign("valid", wall());
    say(&sender, valid.encode()).await;
    say(&sender, b"garbage".as_slice()).await;
    say(&sender, vec![0xff; 3900]).await;
    say(&sender, vec![]).await;
    say(&sender, [&valid.encode()[..], &[0; 17]].concat()).await;
    let mut forged = sign("forged", wall());
    forged.value.value = "forged".into();
    say(&sender, forged.encode()).await;
    let mut stolen = sign("key", wall());
    stolen.scope = friend.id();
    say(&sender, stolen.encode()).await;
    say(&sender, sign("future", wall() + 601_000_000_000).encode()).await;
    say(&sender, sign("past", wall() - 601_000_000_000).encode()).await;
    say(&sender, valid.repeat([1; 8])).await;
    say(&sender, valid.repeat([2; 8])).await;
    say(&sender, sign("valid", valid.value.timestamp - 1).encode()).await;
    for key in 0..20 {
        let key = key.to_string().into();
        let bytes = GossipMessage::sign(&secret, key, wall(), "value".into()).encode();
        say(&sender, bytes).await;
    }

    let stats = stats_until(&kv, |stats| stats.refused.keys >= 5).await;
    let refused = stats.refused;
    assert_eq!(refused.malformed, 2);
    assert_eq!(refused.oversize, 1);
    assert_eq!(refused.trailing, 1);
    assert_eq!(refused.signature, 2);
    assert_eq!((refused.future, refused.past, refused.stale), (1, 1, 1));
    assert_eq!(refused.keys, 5);
    assert_eq!(refused.total(), 14);
    assert!(stats.known >= 2);
    assert_eq!((stats.scopes, stats.entries), (2, KEYS_MAX + 1));

    friends.put("key", "after").await.unwrap();
    value(&mut events, &friend, "key", "after").await;
}

#[tokio::test]
async fn a_flood_of_scopes_is_bounded_and_harms_nobody() {
    let net = Net::default();
    let (alice, friend) = (net.peer().await, net.peer().await);
    let kv = alice.kv(&[]).await;
    let mut events = kv.subscribe().await.unwrap();
    let friends = friend.kv(&[&alice]).await;
    friends.put("key", "before").await.unwrap();
    value(&mut events, &friend, "key", "before").await;

    let (_peer, topic) = hostile(&net, &alice).await;
    let (sender, _receiver) = topic.split();
    let key_of = |number: u64| {
        let mut secret = [9; 32];
        secret[..8].copy_from_slice(&number.to_le_bytes());
        SecretKey::from_bytes(&secret)
    };
    for number in 1..=1100 {
        let message = GossipMessage::sign(&key_of(number), "key".into(), wall(), "flood".into());
        say(&sender, message.encode()).await;
    }
    // What comes in faster than it is read gossip drops, the oldest first: were the rest sent
    // before these are read, the flood would be bounded by that and not by the limit.
    let full = |stats: &Stats| stats.scopes == SCOPES_MAX && stats.refused.scopes > 0;
    stats_until(&kv, full).await;

    // Signing takes this test the longest: beyond the limit nobody looks at the signature.
    let signed = GossipMessage::sign(&SecretKey::generate(), "key".into(), wall(), "flood".into());
    for number in 1101..=10_000 {
        let message = GossipMessage {
            scope: key_of(number).public(),
            ..signed.clone()
        };
        say(&sender, message.encode()).await;
    }
    let stats = stats_until(&kv, |stats| stats.refused.scopes > 1000).await;
    assert_eq!((stats.scopes, stats.entries), (SCOPES_MAX, SCOPES_MAX));

    let mut events = kv.subscribe().await.unwrap();
    let beating = async {
        loop {
            friends.put("key", "after").await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = beating => {}
        () = value(&mut events, &friend, "key", "after") => {}
    }
    assert!(kv.stats().await.unwrap().scopes <= SCOPES_MAX);
}

#[tokio::test]
async fn a_slow_subscriber_is_told_how_much_it_missed() {
    let net = Net::default();
    let alice = net.peer().await;
    let kv = alice.kv(&[]).await;
    let mut slow = kv.subscribe().await.unwrap();
    let (_peer, topic) = hostile(&net, &alice).await;
    let (sender, _receiver) = topic.split();
    let secret = SecretKey::from_bytes(&[1; 32]);
    let start = wall();
    for number in 0..1500 {
        let bytes = GossipMessage::sign(&secret, "key".into(), start + number, "v".into());
        say(&sender, bytes.encode()).await;
    }
    let mut current = soon(async {
        loop {
            let mut current = kv.subscribe().await.unwrap();
            while let Some(event) = current.try_recv() {
                if matches!(event, Event::Value { timestamp, .. } if timestamp == start + 1499) {
                    return current;
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(current.try_recv(), None);

    let Some(Event::Lagged(missed)) = slow.recv().await else {
        panic!("it is not told");
    };
    let mut left = Vec::new();
    while let Some(event) = slow.try_recv() {
        left.push(event);
    }
    assert!(missed > 0);
    // One neighbour and the values.
    assert_eq!(missed + left.len() as u64, 1501);
    assert!(
        matches!(left.last(), Some(Event::Value { timestamp, .. }) if *timestamp == start + 1499)
    );
}

#[tokio::test]
async fn when_gossip_ends_the_owner_is_told_and_nothing_hangs() {
    let net = Net::default();
    let (alice, bob) = (net.peer().await, net.peer().await);
    let kv = alice.kv(&[]).await;
    let other = bob.kv(&[&alice]).await;
    let mut events = kv.subscribe().await.unwrap();
    let mut others = other.subscribe().await.unwrap();
    until(&mut events, |event| matches!(event, Event::NeighborUp(_))).await;

    alice.shutdown().await;
    let down = until(&mut events, |event| matches!(event, Event::NeighborDown(_))).await;
    assert_eq!(down, Event::NeighborDown(bob.id()));
    until(&mut events, |event| *event == Event::Detached).await;
    soon(kv.put("key", "value")).await.unwrap();
    assert_eq!(soon(kv.neighbors()).await.unwrap(), []);
    assert_eq!(soon(kv.stats()).await.unwrap().detached, 1);
    soon(kv.close()).await;
    assert_eq!(kv.stats().await, Err(Error::Closed));
    until(&mut others, |event| matches!(event, Event::NeighborDown(_))).await;
}

/// What gossip does with a frame of its own limit: it reads it, and ends in silence the links to
/// those whom it was to pass it on to. What is for them fills a queue, and then everything waits.
#[tokio::test]
async fn a_message_of_gossips_limit_is_told_before_gossip_hangs() {
    let net = Net::default();
    let (alice, friend) = (net.peer().await, net.peer().await);
    let kv = alice.kv(&[]).await;
    let friends = friend.kv(&[&alice]).await;
    let mut heard = friends.subscribe().await.unwrap();
    kv.put("key", "before").await.unwrap();
    value(&mut heard, &alice, "key", "before").await;

    let stranger = net
        .peer_with(Gossip::builder().max_message_size(8192))
        .await;
    let joining = stranger.gossip.subscribe_and_join(TOPIC, vec![alice.id()]);
    let (sender, _receiver) = soon(joining).await.unwrap().split();
    let mut events = kv.subscribe().await.unwrap();
    for content in [4057, 4058] {
        say(&sender, vec![0xff; content]).await;
    }
    // Of the first alone nothing is told, and nothing needs to be.
    let told = until(&mut events, |event| matches!(event, Event::Poisoned(_))).await;
    assert_eq!(told, Event::Poisoned(stranger.id()));
    assert_eq!(kv.stats().await.unwrap().refused.oversize, 2);

    // Without a new instance, which is for the owner to make:
    let mut taken = 0;
    let stuck = loop {
        match kv.put("key", "value").await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 1000);
    };
    assert_eq!(stuck, Error::Stalled);
    until(&mut events, |event| *event == Event::Stalled).await;
}

/// Gossip on a runtime of its own that stands still, as gossip does when it is frozen.
#[test]
fn when_gossip_hangs_the_owner_is_told_and_nothing_else_does() {
    let frozen = runtime(false);
    let peer = frozen.block_on(async { Net::default().peer().await });

    let running = runtime(true);
    running.block_on(async {
        let kv = peer.kv(&[]).await;
        let mut events = kv.subscribe().await.unwrap();
        // Gossip takes some more before it blocks.
        let mut taken = 0;
        while kv.put("key", "value").await.is_ok() {
            taken += 1;
            assert!(taken < 200);
        }
        assert_eq!(events.recv().await, Some(Event::Stalled));
        assert_eq!(kv.put("key", "value").await, Err(Error::Stalled));
        assert_eq!(kv.join_peers(vec![]).await, Err(Error::Stalled));
        assert_eq!(events.try_recv(), None);
        assert_eq!(Error::Stalled.code(), "TIMEOUT");

        // While one call hangs, others are answered.
        let hanging = tokio::spawn({
            let kv = kv.clone();
            async move { kv.put("key", "value").await }
        });
        tokio::task::yield_now().await;
        assert_eq!(kv.stats().await.unwrap().stalled, 3);
        assert!(!hanging.is_finished());
        kv.close().await;
        assert_eq!(hanging.await.unwrap(), Err(Error::Closed));
        assert_eq!(events.recv().await, None);
    });
    let _running = running.enter();
    drop(peer);
}

/// Gossip takes 64 calls before it blocks: a quiet room would notice too late.
#[test]
fn when_gossip_hangs_in_silence_the_owner_is_told_too() {
    let frozen = runtime(false);
    let net = Net::default();
    let alice = frozen.block_on(net.peer());
    let bob = frozen.block_on(net.peer());
    let _other = frozen.block_on(bob.kv(&[]));

    let running = runtime(true);
    let kv = running.block_on(alice.kv(&[&bob]));
    let mut events = running.block_on(kv.subscribe()).unwrap();
    let started = Instant::now();
    while running.block_on(kv.neighbors()).unwrap().is_empty() {
        frozen.block_on(pass(Duration::from_millis(10)));
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    // Silence alone is no sign: whoever is asked and answers is well.
    for _ in 0..3 {
        running.block_on(pass(Duration::from_secs(11)));
        frozen.block_on(pass(Duration::from_millis(10)));
        running.block_on(tokio::task::yield_now());
    }
    while let Some(event) = events.try_recv() {
        assert_ne!(event, Event::Stalled);
    }
    // No answer is.
    running.block_on(pass(Duration::from_secs(30)));
    assert_eq!(events.try_recv(), Some(Event::Stalled));

    let _running = running.enter();
    drop((alice, bob));
}

/// A sleep that is made where it is waited for.
async fn pass(time: Duration) {
    sleep(time).await;
}

/// With `paused`, time passes at once whenever nothing else can happen.
fn runtime(paused: bool) -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(paused).build().unwrap()
}
