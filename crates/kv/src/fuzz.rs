//! Targets of `npm run fuzz`: what reads gossip messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    time::Duration,
};

use bytes::Bytes;
use iroh_base::{PublicKey, SecretKey};

use crate::{
    store::{
        ENTRY_BYTES, Input, KEYS_MAX, Lifetimes, Now, Output, SCOPES_MAX, STORE_BYTES_MAX, Store,
        StoreError, TOMBSTONES_MAX,
    },
    wire::{GossipMessage, KEY_MAX, MESSAGE_MAX, VALUE_MAX},
};

/// A name, and what takes any bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of this crate.
pub const TARGETS: &[Target] = &[("gossip-message", message), ("gossip-store", store)];

/// What is read is within the limits, and is read again from what it is written as.
fn message(data: &[u8]) {
    let Ok(message) = GossipMessage::decode(data) else {
        return;
    };
    assert!(message.key.len() <= KEY_MAX && message.value.value.len() <= VALUE_MAX);
    for bytes in [message.encode(), message.repeat([7; 8])] {
        assert!(bytes.len() <= MESSAGE_MAX);
        assert_eq!(GossipMessage::decode(&bytes).as_ref(), Ok(&message));
    }
    // Reading a value that was not signed is no crime, only taking it for signed.
    let _ = message.verify();
}

const START: u64 = 1_800_000_000_000_000_000;

/// The first is the store's own key, in another place.
static SECRETS: LazyLock<[SecretKey; 4]> =
    LazyLock::new(|| std::array::from_fn(|at| SecretKey::from_bytes(&[at as u8 + 1; 32])));

/// Any sequence of inputs, four bytes each: the counters add up, the limits hold, no value goes
/// back in time, and what is told is what is held.
fn store(data: &[u8]) {
    let mut now = Now {
        wall: START,
        elapsed: Duration::ZERO,
    };
    let lifetimes = Lifetimes {
        expiry: Duration::from_secs(120),
        repeat: Duration::from_secs(45),
    };
    let mut store = Store::new(SECRETS[0].clone(), lifetimes, now);
    let mut told = BTreeMap::new();
    let mut last = Bytes::new();
    let (chunks, rest) = data.as_chunks::<4>();
    for &[kind, who, key, arg] in chunks.iter().take(256) {
        let secret = &SECRETS[usize::from(who % 4)];
        let key = Bytes::from(vec![b'k'; usize::from(key % 20)]);
        let value = vec![
            arg;
            if arg > 250 {
                VALUE_MAX
            } else {
                usize::from(arg % 8)
            }
        ];
        let outputs = match kind % 8 {
            0 => store.handle(
                Input::Put {
                    key: &key,
                    value: &value,
                },
                now,
            ),
            1 => {
                now.elapsed += Duration::from_millis(u64::from(arg) * 100);
                now.wall += u64::from(arg) * 100_000_000;
                store.handle(Input::Tick, now)
            }
            2 => {
                // The wall clock jumps, by up to 25 minutes either way.
                now.wall = now
                    .wall
                    .saturating_add_signed(i64::from(arg as i8) * 12_000_000_000);
                store.handle(Input::Refresh, now)
            }
            // A repeat.
            3 => store.handle(Input::Received(&last), now),
            // Anything at all.
            4 if !rest.is_empty() => store.handle(Input::Received(rest), now),
            4 => store.handle(
                Input::Withhold {
                    scope: &secret.public(),
                    key: &key,
                },
                now,
            ),
            _ => {
                let stamp = now
                    .wall
                    .saturating_add_signed(i64::from(arg as i8) * 6_000_000_000);
                let message = GossipMessage::sign(secret, key, stamp, value.into());
                last = message.encode();
                store.handle(Input::Received(&last), now)
            }
        };
        let own = store.scope();
        let Ok(outputs) = outputs.inspect_err(|error| expected(*error)) else {
            continue;
        };
        for output in outputs {
            match output {
                Output::Broadcast(bytes) => {
                    let message = GossipMessage::decode(&bytes).expect("ours is well formed");
                    assert_eq!((message.scope, message.verify()), (own, Ok(())));
                }
                Output::Value {
                    scope,
                    key,
                    value,
                    timestamp,
                    ..
                } => {
                    assert_ne!(scope, own);
                    let old = told.insert((scope, key), (timestamp, value.clone()));
                    assert!(old.is_none_or(|old| old < (timestamp, value)));
                }
                Output::Expired { scope, key } => {
                    assert!(told.remove(&(scope, key)).is_some());
                }
            }
        }
        check(&store, &told);
    }
}

fn expected(error: StoreError) {
    match error {
        StoreError::Refused(_) | StoreError::TooManyKeys => {}
        StoreError::KeyTooLong | StoreError::ValueTooLong => panic!("{error}"),
    }
}

fn check(store: &Store, told: &BTreeMap<(PublicKey, Bytes), (u64, Bytes)>) {
    let held: BTreeMap<_, _> = store
        .values()
        .map(|(scope, key, entry)| {
            let value = &entry.value;
            assert!(value.value.len() <= VALUE_MAX && key.len() <= KEY_MAX);
            ((scope, key.clone()), (value.timestamp, value.value.clone()))
        })
        .collect();
    assert_eq!(held, *told);
    let stats = store.stats();
    let scopes: BTreeSet<_> = held.keys().map(|(scope, _)| scope).collect();
    assert_eq!((stats.entries, stats.scopes), (held.len(), scopes.len()));
    let bytes = held
        .iter()
        .map(|((_, key), (_, value))| ENTRY_BYTES + key.len() + value.len());
    assert_eq!(stats.bytes, bytes.sum::<usize>());
    assert!(stats.scopes <= SCOPES_MAX && stats.bytes <= STORE_BYTES_MAX);
    assert!(stats.tombstones <= TOMBSTONES_MAX && store.own_values().count() <= KEYS_MAX);
    assert_eq!(
        stats.received,
        stats.accepted + stats.known + stats.refused.total()
    );
    for (scope, key) in store.repeatable() {
        let bytes = store.repeat(&scope, key, [1; 8]).expect("it is held");
        let message = GossipMessage::decode(&bytes).expect("a repeat is well formed");
        assert!(told.contains_key(&(message.scope, message.key)));
    }
}
