//! The store: properties, and one test for each rule.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use iroh_base::{PublicKey, SecretKey};
use iroh_rooms_kv::{
    Refusal,
    store::{
        Input, KEYS_MAX, Lifetimes, Now, Output, RESIGN_GAP, SCOPES_MAX, SKEW_MAX, STEP_MAX,
        STORE_BYTES_MAX, Store, StoreError, TOMBSTONE_LIFE, TOMBSTONES_MAX,
    },
    wire::{GossipMessage, KEY_MAX, VALUE_MAX},
};
use proptest::{collection::vec, prelude::*};

const WALL: u64 = 1_795_219_200_000_000_000;
const SECOND: Duration = Duration::from_secs(1);
const LIFETIMES: Lifetimes = Lifetimes {
    expiry: Duration::from_secs(120),
    repeat: Duration::from_secs(45),
};

/// A clock whose two hands go together.
fn at(elapsed: Duration) -> Now {
    let wall = WALL + nanos(elapsed);
    Now { wall, elapsed }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}

const START: Duration = Duration::ZERO;

fn secret(number: u64) -> SecretKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_bytes(&bytes)
}

/// The own scope is number 0.
fn store() -> Store {
    Store::new(secret(0), LIFETIMES, at(START))
}

fn message(scope: u64, key: &str, timestamp: u64, value: &str) -> Bytes {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    GossipMessage::sign(&secret(scope), key, timestamp, value).encode()
}

fn receive(store: &mut Store, bytes: &[u8], elapsed: Duration) -> Result<Vec<Output>, StoreError> {
    store.handle(Input::Received(bytes), at(elapsed))
}

fn refused(refusal: Refusal) -> Result<Vec<Output>, StoreError> {
    Err(StoreError::Refused(refusal))
}

fn value(scope: u64, key: &str, timestamp: u64, value: &str) -> Result<Vec<Output>, StoreError> {
    Ok(vec![Output::Value {
        scope: secret(scope).public(),
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        timestamp,
        repeated: false,
    }])
}

/// Ticks every second from `from` until `to`, and returns what comes of it.
fn ticks(store: &mut Store, from: Duration, to: Duration) -> Vec<Output> {
    let mut outputs = Vec::new();
    let mut now = from;
    while now <= to {
        outputs.extend(store.handle(Input::Tick, at(now)).unwrap());
        now += SECOND;
    }
    outputs
}

/// The messages that a store wants to be broadcast.
fn broadcasts(outputs: Vec<Output>) -> Vec<GossipMessage> {
    outputs
        .into_iter()
        .map(|output| match output {
            Output::Broadcast(bytes) => {
                let message = GossipMessage::decode(&bytes).unwrap();
                message.verify().unwrap();
                message
            }
            other => panic!("not a broadcast: {other:?}"),
        })
        .collect()
}

fn put(store: &mut Store, key: &str, value: &str, now: Now) -> GossipMessage {
    let (key, value) = (key.as_bytes(), value.as_bytes());
    let outputs = store.handle(Input::Put { key, value }, now).unwrap();
    broadcasts(outputs).remove(0)
}

type Contents = BTreeMap<(PublicKey, Bytes), (u64, Bytes)>;

fn contents(store: &Store) -> Contents {
    store
        .values()
        .map(|(scope, key, entry)| {
            let value = &entry.value;
            ((scope, key.clone()), (value.timestamp, value.value.clone()))
        })
        .collect()
}

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(48)
    }
}

proptest! {
    #![proptest_config(config())]

    /// Whatever the order, with whatever repeated, the same values remain; and what subscribers
    /// were told last is what is there.
    #[test]
    fn all_orders_end_the_same(
        writes in vec((1..4u64, 0..3u8, 0..4u64, 0..3u8), 1..24),
        orders in vec(vec(any::<prop::sample::Index>(), 0..48), 2),
    ) {
        let writes: Vec<_> = writes
            .iter()
            .map(|(scope, key, time, text)| {
                message(*scope, &key.to_string(), WALL + time, &text.to_string())
            })
            .collect();
        let ends: Vec<_> = orders
            .iter()
            .map(|order| {
                let mut store = store();
                let mut told = Contents::new();
                // A random walk with repeats, and then everything backwards, so that nothing is missed.
                let walk = order.iter().map(|index| index.get(&writes));
                for bytes in walk.chain(writes.iter().rev()) {
                    for output in receive(&mut store, bytes, START).unwrap_or_default() {
                        if let Output::Value { scope, key, value, timestamp, .. } = output {
                            told.insert((scope, key), (timestamp, value));
                        }
                    }
                }
                assert_eq!(told, contents(&store));
                told
            })
            .collect();
        prop_assert_eq!(&ends[0], &ends[1]);
        let mut expected = Contents::new();
        for bytes in &writes {
            let message = GossipMessage::decode(bytes).unwrap();
            let new = (message.value.timestamp, message.value.value);
            let old = expected.entry((message.scope, message.key)).or_insert_with(|| new.clone());
            *old = old.clone().max(new);
        }
        prop_assert_eq!(&ends[0], &expected);
    }

    /// Stores that send each other what they have become equal, whoever wrote what.
    #[test]
    fn stores_converge_by_repeats(writes in vec((0..3usize, 0..3u8, any::<u8>()), 1..24)) {
        let mut stores: Vec<_> = (0..3)
            .map(|number| Store::new(secret(number), LIFETIMES, at(START)))
            .collect();
        for (number, key, text) in writes {
            put(&mut stores[number], &key.to_string(), &text.to_string(), at(START));
        }
        // A line: 0 and 2 hear of each other only by 1's repeats.
        for (from, to) in [(0, 1), (2, 1), (1, 0), (1, 2)] {
            let own = stores[from].handle(Input::Refresh, at(START)).unwrap();
            let own = broadcasts(own).into_iter().map(|message| message.encode());
            let others: Vec<_> = stores[from]
                .repeatable()
                .map(|(scope, key)| stores[from].repeat(&scope, key, [7; 8]).unwrap())
                .collect();
            for bytes in own.chain(others) {
                receive(&mut stores[to], &bytes, START).unwrap();
            }
        }
        let everything = |store: &Store| {
            let own = store
                .own_values()
                .map(|(key, value)| ((store.scope(), key.clone()), value.clone()));
            let others = contents(store).into_iter().map(|(key, (_, value))| (key, value));
            own.chain(others).collect::<BTreeMap<_, _>>()
        };
        prop_assert_eq!(everything(&stores[0]), everything(&stores[1]));
        prop_assert_eq!(everything(&stores[1]), everything(&stores[2]));
    }

    /// Own timestamps strictly increase, however the wall clock jumps within what others accept
    /// and whatever earlier selves have written.
    #[test]
    fn own_timestamps_increase(
        steps in vec((any::<bool>(), -500i64..500), 1..32),
    ) {
        let mut store = store();
        put(&mut store, "key", "mine", at(START));
        let mut last = 0;
        for (number, (earlier_self, jump)) in steps.into_iter().enumerate() {
            let elapsed = SECOND * number as u32 * 2;
            let wall = WALL.saturating_add_signed(jump * 500_000_000);
            let now = Now { wall, elapsed };
            let outputs = if earlier_self {
                let bytes = message(0, "key", wall + 1_000_000_000, "earlier");
                store.handle(Input::Received(&bytes), now).unwrap_or_default()
            } else {
                store.handle(Input::Put { key: b"key", value: b"mine" }, now).unwrap()
            };
            for message in broadcasts(outputs) {
                prop_assert!(message.value.timestamp > last);
                prop_assert_eq!(&message.value.value[..], b"mine");
                last = message.value.timestamp;
            }
        }
    }

    /// However time passes and whatever comes, nothing grows beyond its limit.
    #[test]
    fn counters_add_up(
        inputs in vec((1..4u64, 0..40u8, 0..3u64, any::<bool>(), 0..90u64), 1..64),
    ) {
        let mut store = store();
        let mut elapsed = START;
        for (scope, key, time, forged, wait) in inputs {
            elapsed += Duration::from_millis(wait * 1000);
            let mut bytes = message(scope, &key.to_string(), at(elapsed).wall - time, "v").to_vec();
            if forged {
                *bytes.last_mut().unwrap() ^= 1;
            }
            receive(&mut store, &bytes, elapsed).ok();
            store.handle(Input::Tick, at(elapsed)).unwrap();
            let stats = store.stats();
            prop_assert_eq!(stats.received, stats.accepted + stats.known + stats.refused.total());
            let bytes: usize = store.values().map(|(_, key, entry)| 192 + key.len() + entry.value.value.len()).sum();
            prop_assert_eq!(stats.bytes, bytes);
            prop_assert_eq!(stats.entries, store.values().count());
        }
    }
}

#[test]
fn the_newest_wins() {
    let mut store = store();
    let new = message(1, "key", WALL, "new");
    let old = message(1, "key", WALL - 1, "old");
    assert_eq!(
        receive(&mut store, &new, START),
        value(1, "key", WALL, "new")
    );
    assert_eq!(receive(&mut store, &old, START), refused(Refusal::Stale));
    assert_eq!(receive(&mut store, &new, START), Ok(vec![]));
    let stats = store.stats();
    assert_eq!((stats.received, stats.accepted, stats.known), (3, 1, 1));
    assert_eq!((stats.refused.stale, stats.refused.total()), (1, 1));
}

#[test]
fn a_heartbeat_is_told_though_the_value_is_the_same() {
    let mut store = store();
    for timestamp in WALL..WALL + 3 {
        let bytes = message(1, "key", timestamp, "same");
        let told = receive(&mut store, &bytes, START);
        assert_eq!(told, value(1, "key", timestamp, "same"));
    }
}

#[test]
fn of_two_with_one_timestamp_the_greater_wins() {
    let mut store = store();
    let [less, more] = ["a", "b"].map(|text| message(1, "key", WALL, text));
    assert_eq!(
        receive(&mut store, &less, START),
        value(1, "key", WALL, "a")
    );
    assert_eq!(
        receive(&mut store, &more, START),
        value(1, "key", WALL, "b")
    );
    assert_eq!(receive(&mut store, &less, START), refused(Refusal::Stale));
}

#[test]
fn a_value_expires_without_a_newer_one() {
    let mut store = store();
    let bytes = message(1, "key", WALL, "v");
    receive(&mut store, &bytes, START).unwrap();
    assert_eq!(ticks(&mut store, START, SECOND * 60), []);
    // A repeat is no sign of life.
    receive(&mut store, &bytes, SECOND * 60).unwrap();
    assert_eq!(ticks(&mut store, SECOND * 60, LIFETIMES.expiry), []);
    let expired = Output::Expired {
        scope: secret(1).public(),
        key: "key".into(),
    };
    let outputs = ticks(&mut store, LIFETIMES.expiry, LIFETIMES.expiry + SECOND);
    assert_eq!(outputs, [expired]);
    let stats = store.stats();
    assert_eq!((stats.scopes, stats.entries, stats.bytes), (0, 0, 0));
    assert_eq!(stats.tombstones, 1);
}

#[test]
fn what_expired_does_not_come_back_but_its_writer_does() {
    let mut store = store();
    // As far ahead as is allowed: this is the timestamp that can be repeated the longest.
    let skew = nanos(SKEW_MAX);
    let old = message(1, "key", WALL + skew, "old");
    receive(&mut store, &old, START).unwrap();
    let mut now = LIFETIMES.expiry + SECOND;
    assert_eq!(ticks(&mut store, START, now).len(), 1);
    while now < TOMBSTONE_LIFE * 2 {
        assert!(receive(&mut store, &old, now).is_err());
        store.handle(Input::Tick, at(now)).unwrap();
        now += SECOND;
    }
    assert_eq!(store.stats().tombstones, 0);
    assert_eq!(receive(&mut store, &old, now), refused(Refusal::Past));
    assert!(store.stats().refused.stale > 0);

    let mut store = self::store();
    receive(&mut store, &old, START).unwrap();
    let now = LIFETIMES.expiry + SECOND;
    ticks(&mut store, START, now);
    let new = message(1, "key", WALL + skew + 1, "new");
    assert_eq!(
        receive(&mut store, &new, now),
        value(1, "key", WALL + skew + 1, "new")
    );
    assert_eq!(store.stats().tombstones, 0);
}

#[test]
fn a_sleeper_forgets_nobody() {
    let mut store = store();
    receive(&mut store, &message(1, "key", WALL, "v"), START).unwrap();
    let now = Duration::from_secs(8 * 3600);
    assert_eq!(ticks(&mut store, now, now), []);
    let left = LIFETIMES.expiry - STEP_MAX;
    assert_eq!(ticks(&mut store, now, now + left), []);
    assert_eq!(ticks(&mut store, now + left, now + left + SECOND).len(), 1);
}

#[test]
fn newcomers_are_told_only_of_the_living() {
    let mut store = store();
    put(&mut store, "own", "v", at(START));
    receive(&mut store, &message(1, "key", WALL, "v"), START).unwrap();
    ticks(&mut store, START, LIFETIMES.repeat);
    assert_eq!(store.repeatable().count(), 1);
    ticks(&mut store, LIFETIMES.repeat, LIFETIMES.repeat + SECOND);
    assert_eq!(store.repeatable().count(), 0);
    assert_eq!(store.values().count(), 1);
}

#[test]
fn what_is_withheld_is_passed_on_again_when_it_is_newer() {
    let repeatable = |store: &Store| {
        let values = store.repeatable();
        let mut keys: Vec<_> = values.map(|(_, key)| key.clone()).collect();
        keys.sort();
        keys
    };
    let mut store = store();
    let (gone, here) = (secret(1).public(), secret(2).public());
    for key in ["a", "b"] {
        receive(&mut store, &message(1, key, WALL, "v"), START).unwrap();
    }
    receive(&mut store, &message(2, "c", WALL, "v"), START).unwrap();
    for (scope, key) in [(&gone, "a"), (&here, "a"), (&secret(3).public(), "a")] {
        let key = key.as_bytes();
        let outputs = store.handle(Input::Withhold { scope, key }, at(START));
        assert_eq!(outputs, Ok(vec![]));
    }
    assert_eq!(repeatable(&store), ["b", "c"]);
    assert_eq!(store.values().count(), 3, "it is not forgotten");

    // The same once more, or another one of the same time, is no sign of life.
    receive(&mut store, &message(1, "a", WALL, "v"), START).unwrap();
    receive(&mut store, &message(1, "a", WALL, "w"), START).unwrap();
    assert_eq!(repeatable(&store), ["b", "c"]);
    receive(&mut store, &message(1, "a", WALL + 1, "v"), START).unwrap();
    assert_eq!(repeatable(&store), ["a", "b", "c"]);
}

#[test]
fn a_repeat_is_told_from_what_its_writer_sends() {
    let mut store = store();
    let repeats = |outputs: Vec<Output>| match outputs[..] {
        [Output::Value { repeated, .. }] => repeated,
        _ => panic!("{outputs:?}"),
    };
    let first = message(1, "key", WALL, "v");
    let repeat = GossipMessage::decode(&first).unwrap().repeat([0; 8]);
    assert!(repeats(receive(&mut store, &repeat, START).unwrap()));
    assert!(store.values().all(|(_, _, entry)| entry.repeated));
    assert_eq!(receive(&mut store, &first, START), Ok(vec![]));
    let second = message(1, "key", WALL + 1, "v");
    assert!(!repeats(receive(&mut store, &second, START).unwrap()));
    assert!(store.values().all(|(_, _, entry)| !entry.repeated));
}

#[test]
fn clocks_may_be_wrong_by_ten_minutes() {
    let mut store = store();
    let skew = nanos(SKEW_MAX);
    for (key, timestamp, expected) in [
        ("a", WALL + skew, None),
        ("b", WALL + skew + 1, Some(Refusal::Future)),
        ("c", WALL - skew, None),
        ("d", WALL - skew - 1, Some(Refusal::Past)),
        ("e", u64::MAX, Some(Refusal::Future)),
        ("f", 0, Some(Refusal::Past)),
    ] {
        let result = receive(&mut store, &message(1, key, timestamp, "v"), START);
        assert_eq!(result.err(), expected.map(StoreError::Refused), "{key}");
    }
}

#[test]
fn an_earlier_self_is_outdone() {
    let mut store = store();
    let first = put(&mut store, "key", "mine", at(START)).value.timestamp;
    let earlier = WALL + nanos(SKEW_MAX - SECOND);
    assert!(earlier > first);
    let outputs = receive(&mut store, &message(0, "key", earlier, "earlier"), START).unwrap();
    let again = broadcasts(outputs).remove(0);
    assert_eq!(again.value.timestamp, earlier + 1);
    assert_eq!(&again.value.value[..], b"mine");
    // It is adopted for all keys, also by those not yet written.
    assert!(put(&mut store, "other", "mine", at(START)).value.timestamp > earlier);
    // One's own words, coming back, are no news.
    assert_eq!(receive(&mut store, &again.encode(), START), Ok(vec![]));
    // Nobody else can make it do so.
    let mut forged = message(0, "key", earlier + 100, "forged").to_vec();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(
        receive(&mut store, &forged, START),
        refused(Refusal::Signature)
    );
    assert_eq!(store.values().count(), 0);
}

#[test]
fn two_selves_at_once_do_not_chatter() {
    let mut store = store();
    put(&mut store, "key", "mine", at(START));
    let mut signed = 0;
    let mut now = START;
    while now < SECOND * 10 {
        let bytes = message(0, "key", at(now).wall + 1_000_000_000, "other self");
        signed += receive(&mut store, &bytes, now).unwrap().len();
        signed += store.handle(Input::Tick, at(now)).unwrap().len();
        now += Duration::from_millis(10);
    }
    assert_eq!(signed as u128, 10_000 / RESIGN_GAP.as_millis());
    // The last word is its own.
    signed = ticks(&mut store, now + SECOND, now + SECOND * 2).len();
    assert_eq!(signed, 1);
}

#[test]
fn a_clock_set_back_far_does_not_silence_the_writer() {
    let mut store = store();
    let hour = 3_600_000_000_000;
    let now = |wall| Now {
        wall,
        elapsed: START,
    };
    put(&mut store, "key", "v", now(WALL + hour));
    assert_eq!(put(&mut store, "key", "v", now(WALL)).value.timestamp, WALL);
    assert_eq!(
        put(&mut store, "key", "v", now(WALL)).value.timestamp,
        WALL + 1
    );
    // Set back by little, it goes on from where it was.
    let little = WALL - nanos(SKEW_MAX);
    assert_eq!(
        put(&mut store, "key", "v", now(little)).value.timestamp,
        WALL + 2
    );
}

#[test]
fn own_limits() {
    let mut store = store();
    let mut put =
        |key: &[u8], value: &[u8]| store.handle(Input::Put { key, value }, at(START)).map(drop);
    assert_eq!(put(&[0; KEY_MAX + 1], b""), Err(StoreError::KeyTooLong));
    assert_eq!(put(b"", &[0; VALUE_MAX + 1]), Err(StoreError::ValueTooLong));
    for key in 0..KEYS_MAX as u8 {
        assert_eq!(put(&[key], &[0; VALUE_MAX]), Ok(()));
    }
    assert_eq!(put(&[255], b""), Err(StoreError::TooManyKeys));
    assert_eq!(put(&[0], b"changed"), Ok(()));
}

#[test]
fn a_scope_has_few_keys() {
    let mut store = store();
    for key in 0..KEYS_MAX {
        receive(&mut store, &message(1, &key.to_string(), WALL, "v"), START).unwrap();
    }
    let surplus = message(1, "surplus", WALL, "v");
    assert_eq!(receive(&mut store, &surplus, START), refused(Refusal::Keys));
    assert!(receive(&mut store, &message(2, "key", WALL, "v"), START).is_ok());
    assert!(receive(&mut store, &message(1, "0", WALL + 1, "v"), START).is_ok());
}

#[test]
fn a_flood_of_scopes_is_bounded_and_passes() {
    let mut store = store();
    receive(&mut store, &message(1, "key", WALL, "friend"), START).unwrap();
    for scope in 2..3_002 {
        receive(&mut store, &message(scope, "key", WALL, "flood"), START).ok();
    }
    let stats = store.stats();
    assert_eq!((stats.scopes, stats.entries), (SCOPES_MAX, SCOPES_MAX));
    assert_eq!(stats.refused.scopes as usize, 3_001 - SCOPES_MAX);
    // Friends already there go on, and the flood dries up.
    assert!(receive(&mut store, &message(1, "key", WALL + 1, "friend"), SECOND).is_ok());
    let dry = LIFETIMES.expiry + SECOND;
    ticks(&mut store, SECOND, dry);
    let late = message(20_000, "key", WALL, "late friend");
    assert!(receive(&mut store, &late, dry).is_ok());
}

#[test]
fn a_flood_of_bytes_is_bounded() {
    let mut store = store();
    let value = "v".repeat(VALUE_MAX);
    let flood = |store: &mut Store, timestamp| {
        for scope in 1..=161 {
            for key in 0..KEYS_MAX {
                receive(
                    store,
                    &message(scope, &key.to_string(), timestamp, &value),
                    START,
                )
                .ok();
            }
        }
    };
    flood(&mut store, WALL);
    let stats = store.stats();
    assert!(stats.bytes <= STORE_BYTES_MAX && stats.bytes > STORE_BYTES_MAX - 4096);
    assert!(stats.refused.full > 0);
    let (friend, key, _) = store.values().next().unwrap();
    let (friend, key) = (friend, key.clone());
    // Whoever has a place keeps it.
    let number = (1..=161)
        .find(|number| secret(*number).public() == friend)
        .unwrap();
    let key = String::from_utf8(key.to_vec()).unwrap();
    assert!(receive(&mut store, &message(number, &key, WALL + 1, &value), START).is_ok());
}

#[test]
fn tombstones_are_bounded() {
    let mut store = store();
    let mut now = START;
    let mut scope = 1;
    while store.stats().tombstones < TOMBSTONES_MAX {
        for _ in 0..SCOPES_MAX {
            receive(&mut store, &message(scope, "key", at(now).wall, "v"), now).unwrap();
            scope += 1;
        }
        let later = now + LIFETIMES.expiry + SECOND;
        ticks(&mut store, now, later);
        now = later;
    }
    let first = message(scope, "key", at(now).wall, "v");
    receive(&mut store, &first, now).unwrap();
    ticks(&mut store, now, now + LIFETIMES.expiry + SECOND);
    assert_eq!(store.stats().tombstones, TOMBSTONES_MAX);
    now += LIFETIMES.expiry + SECOND;
    assert_eq!(receive(&mut store, &first, now), refused(Refusal::Stale));
    ticks(&mut store, now, now + TOMBSTONE_LIFE + SECOND);
    assert_eq!(store.stats().tombstones, 0);
}
