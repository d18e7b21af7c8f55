//! One topic with iroh-smol-kv's own client in it.

use std::time::{Duration, Instant};

use crate::net::{Net, Peer, TOPIC, soon, value, values};
use iroh_rooms_kv::wire::{KEY_MAX, VALUE_MAX};
use iroh_smol_kv::{Client, Config, ExpiryConfig};
use n0_future::{Stream, StreamExt};
use tokio::time::sleep;

/// As iroh-live configures it, but quicker with newcomers.
fn config() -> Config {
    Config {
        anti_entropy_interval: Duration::from_secs(60),
        fast_anti_entropy_interval: Duration::from_millis(500),
        expiry: Some(ExpiryConfig {
            horizon: Duration::from_secs(120),
            check_interval: Duration::from_secs(10),
        }),
    }
}

async fn client(peer: &Peer, bootstrap: &[&Peer]) -> Client {
    let bootstrap = bootstrap.iter().map(|peer| peer.id()).collect();
    let topic = peer.gossip.subscribe(TOPIC, bootstrap).await.unwrap();
    Client::local(topic, config())
}

/// Waits until their client has a value.
async fn theirs(client: &Client, peer: &Peer, key: &'static str, wanted: &str) {
    soon(async {
        while client
            .get(peer.id(), key)
            .await
            .unwrap()
            .is_none_or(|value| value != wanted)
        {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn both_see_each_other_and_late_joiners_see_both() {
    let net = Net::default();
    let (alice, bob) = (net.peer().await, net.peer().await);
    let ours = alice.kv(&[]).await;
    ours.put("s", "ours, put alone").await.unwrap();
    let mut events = ours.subscribe().await.unwrap();
    let smol = client(&bob, &[&alice]).await;
    let write = smol.write(bob.secret.clone());
    write.put("s", "theirs, put alone").await.unwrap();

    value(&mut events, &bob, "s", "theirs, put alone").await;
    theirs(&smol, &alice, "s", "ours, put alone").await;
    for number in 0..20 {
        let text = format!("number {number}");
        ours.put("s", text.clone()).await.unwrap();
        theirs(&smol, &alice, "s", &text).await;
        write.put("s", text.clone()).await.unwrap();
        value(&mut events, &bob, "s", &text).await;
    }

    // Ours joins late, and knows only theirs.
    let carol = net.peer().await;
    let kv = carol.kv(&[&bob]).await;
    let mut late = kv.subscribe().await.unwrap();
    let started = Instant::now();
    let number = "number 19";
    values(&mut late, &[(&alice, "s", number), (&bob, "s", number)]).await;
    println!("ours saw both after {:?}", started.elapsed());

    // Theirs joins late, and knows only ours.
    let dave = net.peer().await;
    let late = client(&dave, &[&alice]).await;
    let started = Instant::now();
    theirs(&late, &alice, "s", "number 19").await;
    theirs(&late, &bob, "s", "number 19").await;
    println!("theirs saw both after {:?}", started.elapsed());
}

#[tokio::test]
async fn the_largest_values_go_both_ways() {
    let net = Net::default();
    let (alice, bob) = (net.peer().await, net.peer().await);
    let (key, large) = ("k".repeat(KEY_MAX), "v".repeat(VALUE_MAX));
    let ours = alice.kv(&[]).await;
    let mut events = ours.subscribe().await.unwrap();
    let smol = client(&bob, &[&alice]).await;
    ours.put(key.clone(), large.clone()).await.unwrap();
    smol.write(bob.secret.clone())
        .put(key.clone(), large.clone())
        .await
        .unwrap();
    value(&mut events, &bob, &key, &large).await;
    theirs(&smol, &alice, key.leak(), &large).await;
}

#[tokio::test]
async fn their_subscription_hears_our_heartbeats() {
    let net = Net::default();
    let (alice, bob) = (net.peer().await, net.peer().await);
    let ours = alice.kv(&[]).await;
    let smol = client(&bob, &[&alice]).await;
    let mut heard = Box::pin(smol.subscribe().stream());
    let mut last = 0;
    for _ in 0..5 {
        ours.put("s", "same").await.unwrap();
        // Without a neighbour the first comes by anti-entropy.
        let (scope, key, value) = next(&mut heard).await;
        assert_eq!(
            (scope, &key[..], &value.value[..]),
            (alice.id(), &b"s"[..], &b"same"[..])
        );
        assert!(value.timestamp > last);
        last = value.timestamp;
    }
}

async fn next<T, E: std::fmt::Debug>(stream: &mut (impl Stream<Item = Result<T, E>> + Unpin)) -> T {
    soon(stream.next()).await.expect("it goes on").unwrap()
}
