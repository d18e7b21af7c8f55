//! The map itself: no clock, no randomness, no network.
//!
//! [`Store::handle`] takes an input and the time and returns what is to be done. Of two values
//! of one key the newer wins, and of two with one timestamp the one with the greater bytes, so
//! that all stores that have heard the same end up the same, whatever the order.
//!
//! Two clocks are in use. The wall clock dates and judges timestamps; the elapsed time, which
//! never jumps, decides how long ago something was heard.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    time::Duration,
};

use bytes::Bytes;
use iroh_base::{PublicKey, SecretKey};
use iroh_rooms_sorted::SortedMap;
use thiserror::Error;

use crate::{
    Refusal, Refused,
    wire::{GossipMessage, KEY_MAX, REPEAT_TAIL, SignedValue, VALUE_MAX},
};

/// Keys of one scope, one's own included; more are refused.
pub const KEYS_MAX: usize = 16;
/// Scopes of others in one topic; more are refused until one has expired.
pub const SCOPES_MAX: usize = 1024;
/// Bytes of keys and values of others, each entry with [`ENTRY_BYTES`] on top. Two full values
/// for each of [`SCOPES_MAX`] scopes fit; more is refused.
pub const STORE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What an entry costs beside its key and value.
pub const ENTRY_BYTES: usize = 192;
/// How far a writer's clock may be from this one's, either way; beyond it values are refused.
pub const SKEW_MAX: Duration = Duration::from_secs(600);
/// How long the timestamp of an expired value is remembered, so that a repeat does not bring it
/// back: it was at most [`SKEW_MAX`] ahead, and when it is forgotten it is refused as too old.
pub const TOMBSTONE_LIFE: Duration = Duration::from_secs(1200);
/// Tombstones kept; the oldest is dropped first.
pub const TOMBSTONES_MAX: usize = 4096;
/// Own values are signed again at most this often because someone holds newer ones: with one
/// secret in two places the two would otherwise never stop.
pub const RESIGN_GAP: Duration = Duration::from_secs(1);
/// Time between two calls counts for at most this much. A process that slept, or a page that
/// was frozen, heard nothing: that is no sign that the others are gone.
pub const STEP_MAX: Duration = Duration::from_secs(5);

/// Time, told by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds since 1970 by the wall clock; may jump.
    pub wall: u64,
    /// Time since some fixed moment; never goes back.
    pub elapsed: Duration,
}

/// What can happen to a store.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// This peer writes a value.
    Put {
        /// The key in its own scope.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Gossip delivered a message.
    Received(&'a [u8]),
    /// Own values are to be signed again: someone may not have them.
    Refresh,
    /// Whoever wrote this is known to be gone: it is no longer passed on, until its writer writes
    /// again.
    Withhold {
        /// Whose value it is.
        scope: &'a PublicKey,
        /// Its key.
        key: &'a [u8],
    },
    /// Time has passed. To be sent about every second.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Give these bytes to gossip, for the whole topic.
    Broadcast(Bytes),
    /// Someone else's value is new, or newer, or won a tie.
    Value {
        /// Whose value it is.
        scope: PublicKey,
        /// Its key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// When it was written, by the writer's clock.
        timestamp: u64,
        /// Whether someone passed it on, and not its writer sent it.
        repeated: bool,
    },
    /// Someone else's value was not written again in time, and is gone.
    Expired {
        /// Whose value it was.
        scope: PublicKey,
        /// Its key.
        key: Bytes,
    },
}

/// Why an input had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A message was refused; it is counted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An own key is too long.
    #[error("a key has at most {KEY_MAX} bytes")]
    KeyTooLong,
    /// An own value is too long.
    #[error("a value has at most {VALUE_MAX} bytes")]
    ValueTooLong,
    /// There are too many own keys.
    #[error("a scope has at most {KEYS_MAX} keys")]
    TooManyKeys,
}

/// How long things live in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Without a newer timestamp for this long a value is gone.
    pub expiry: Duration,
    /// Without a newer timestamp for this long a value is no longer passed on to newcomers.
    pub repeat: Duration,
}

/// What a store has seen and holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Messages received, of whatever kind.
    pub received: u64,
    /// Messages that changed something.
    pub accepted: u64,
    /// Messages that repeated exactly what was known: anti-entropy.
    pub known: u64,
    /// Messages refused, by reason.
    pub refused: Refused,
    /// Scopes of others.
    pub scopes: usize,
    /// Values of others.
    pub entries: usize,
    /// Bytes held for others, see [`STORE_BYTES_MAX`].
    pub bytes: usize,
    /// Expired values remembered.
    pub tombstones: usize,
}

/// The map. See the module's documentation.
#[derive(Debug)]
pub struct Store {
    secret: SecretKey,
    scope: PublicKey,
    lifetimes: Lifetimes,
    own: SortedMap<Bytes, Own>,
    /// The newest timestamp ever given or adopted.
    stamp: u64,
    others: HashMap<PublicKey, SortedMap<Bytes, Entry>>,
    tombstones: Tombstones,
    /// Keys whose own values someone holds newer ones of.
    outdated: bool,
    resigned: Option<Duration>,
    /// The caller's elapsed time at the last call, and the sum of the steps that counted.
    elapsed: Duration,
    age: Duration,
    bytes: usize,
    received: u64,
    accepted: u64,
    known: u64,
    refused: Refused,
}

#[derive(Debug)]
struct Own {
    value: Bytes,
    timestamp: u64,
}

/// A value of another.
#[derive(Debug)]
pub struct Entry {
    /// The value.
    pub value: SignedValue,
    /// Whether someone passed it on, and not its writer sent it.
    pub repeated: bool,
    /// When a strictly newer timestamp was last heard.
    heard: Duration,
    /// Whether it is kept from newcomers, see [`Input::Withhold`].
    withheld: bool,
}

impl Store {
    /// An empty store of the scope that `secret` belongs to.
    pub fn new(secret: SecretKey, lifetimes: Lifetimes, now: Now) -> Self {
        Self {
            scope: secret.public(),
            secret,
            lifetimes,
            own: SortedMap::new(),
            stamp: 0,
            others: HashMap::new(),
            tombstones: Tombstones::default(),
            outdated: false,
            resigned: None,
            elapsed: now.elapsed,
            age: Duration::ZERO,
            bytes: 0,
            received: 0,
            accepted: 0,
            known: 0,
            refused: Refused::default(),
        }
    }

    /// One's own scope.
    pub fn scope(&self) -> PublicKey {
        self.scope
    }

    /// Takes one input and returns what follows from it.
    pub fn handle(&mut self, input: Input<'_>, now: Now) -> Result<Vec<Output>, StoreError> {
        self.age += now.elapsed.saturating_sub(self.elapsed).min(STEP_MAX);
        self.elapsed = self.elapsed.max(now.elapsed);
        match input {
            Input::Put { key, value } => self.put(key, value, now),
            Input::Received(content) => {
                self.received = self.received.saturating_add(1);
                let outputs = self.receive(content, now);
                if let Err(refusal) = outputs {
                    self.refused.count(refusal);
                }
                Ok(outputs?)
            }
            Input::Refresh => Ok(self.refresh(now)),
            Input::Tick => {
                let mut outputs = self.expire();
                if self.outdated {
                    outputs.extend(self.resign(now));
                }
                Ok(outputs)
            }
            Input::Withhold { scope, key } => {
                let keys = self.others.get_mut(scope);
                if let Some(entry) = keys.and_then(|keys| keys.get_mut(key)) {
                    entry.withheld = true;
                }
                Ok(Vec::new())
            }
        }
    }

    /// All values of others, in no order.
    pub fn values(&self) -> impl Iterator<Item = (PublicKey, &Bytes, &Entry)> {
        self.others
            .iter()
            .flat_map(|(scope, keys)| keys.iter().map(|(key, entry)| (*scope, key, entry)))
    }

    /// One's own values, by key.
    pub fn own_values(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.own.iter().map(|(key, own)| (key, &own.value))
    }

    /// What a newcomer should be told: the values of others that were heard of lately, and whose
    /// writers are not known to be gone.
    pub fn repeatable(&self) -> impl Iterator<Item = (PublicKey, &Bytes)> {
        self.values()
            .filter(|(_, _, entry)| {
                !entry.withheld && self.since(entry.heard) <= self.lifetimes.repeat
            })
            .map(|(scope, key, _)| (scope, key))
    }

    /// The message that repeats one value of another, if it is still here.
    pub fn repeat(&self, scope: &PublicKey, key: &Bytes, tail: [u8; REPEAT_TAIL]) -> Option<Bytes> {
        let entry = self.others.get(scope)?.get(key)?;
        let message = GossipMessage {
            scope: *scope,
            key: key.clone(),
            value: entry.value.clone(),
        };
        Some(message.repeat(tail))
    }

    /// How many others there are values of.
    pub fn scopes(&self) -> usize {
        self.others.len()
    }

    /// What was seen and is held.
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            received: self.received,
            accepted: self.accepted,
            known: self.known,
            refused: self.refused,
            scopes: self.scopes(),
            entries: self.others.values().map(SortedMap::len).sum(),
            bytes: self.bytes,
            tombstones: self.tombstones.len(),
        }
    }

    fn since(&self, age: Duration) -> Duration {
        self.age.saturating_sub(age)
    }

    fn put(&mut self, key: &[u8], value: &[u8], now: Now) -> Result<Vec<Output>, StoreError> {
        if key.len() > KEY_MAX {
            return Err(StoreError::KeyTooLong);
        }
        if value.len() > VALUE_MAX {
            return Err(StoreError::ValueTooLong);
        }
        if self.own.len() >= KEYS_MAX && !self.own.contains_key(key) {
            return Err(StoreError::TooManyKeys);
        }
        let key = Bytes::copy_from_slice(key);
        let value = Bytes::copy_from_slice(value);
        Ok(vec![self.sign(key, value, now)])
    }

    /// Signs all own values again.
    fn refresh(&mut self, now: Now) -> Vec<Output> {
        self.outdated = false;
        let own: Vec<_> = self
            .own
            .iter()
            .map(|(key, own)| (key.clone(), own.value.clone()))
            .collect();
        own.into_iter()
            .map(|(key, value)| self.sign(key, value, now))
            .collect()
    }

    /// Signs own values again because someone holds newer ones, but not too often.
    fn resign(&mut self, now: Now) -> Vec<Output> {
        if self
            .resigned
            .is_some_and(|resigned| self.since(resigned) < RESIGN_GAP)
        {
            return Vec::new();
        }
        self.resigned = Some(self.age);
        self.refresh(now)
    }

    fn sign(&mut self, key: Bytes, value: Bytes, now: Now) -> Output {
        let next = self.stamp.saturating_add(1).max(now.wall);
        // Strictly increasing, unless the wall clock was set back by more than others put up
        // with: going on from there would be refused by all until it has caught up. The second
        // is for a timestamp adopted at the very edge.
        let edge = now
            .wall
            .saturating_add(nanos(SKEW_MAX + Duration::from_secs(1)));
        let timestamp = if next > edge { now.wall } else { next };
        self.stamp = timestamp;
        let message = GossipMessage::sign(&self.secret, key.clone(), timestamp, value.clone());
        self.own.insert(key, Own { value, timestamp });
        Output::Broadcast(message.encode())
    }

    /// The signature is looked at last: it costs more than all the rest.
    fn receive(&mut self, content: &[u8], now: Now) -> Result<Vec<Output>, Refusal> {
        let (message, repeated) = GossipMessage::read(content)?;
        let timestamp = message.value.timestamp;
        if timestamp > now.wall.saturating_add(nanos(SKEW_MAX)) {
            return Err(Refusal::Future);
        }
        if timestamp < now.wall.saturating_sub(nanos(SKEW_MAX)) {
            return Err(Refusal::Past);
        }
        if message.scope == self.scope {
            self.receive_own(&message, now)
        } else {
            self.receive_other(message, repeated)
        }
    }

    /// Only an earlier self, on a faster clock, can have signed what is newer than one's own.
    fn receive_own(&mut self, message: &GossipMessage, now: Now) -> Result<Vec<Output>, Refusal> {
        let timestamp = message.value.timestamp;
        let newest = self.own.get(&message.key).map(|own| own.timestamp);
        if newest.is_some_and(|newest| timestamp <= newest) {
            self.known = self.known.saturating_add(1);
            return Ok(Vec::new());
        }
        message.verify()?;
        self.accepted = self.accepted.saturating_add(1);
        self.stamp = self.stamp.max(timestamp);
        if newest.is_none() {
            return Ok(Vec::new());
        }
        self.outdated = true;
        Ok(self.resign(now))
    }

    fn receive_other(
        &mut self,
        message: GossipMessage,
        repeated: bool,
    ) -> Result<Vec<Output>, Refusal> {
        let GossipMessage { scope, key, value } = &message;
        let keys = self.others.get(scope);
        let old = keys.and_then(|keys| keys.get(key));
        let newer = match old {
            Some(old) if value.timestamp == old.value.timestamp => {
                if value.value == old.value.value {
                    self.known = self.known.saturating_add(1);
                    return Ok(Vec::new());
                }
                if value.value < old.value.value {
                    return Err(Refusal::Stale);
                }
                false
            }
            Some(old) if value.timestamp < old.value.timestamp => return Err(Refusal::Stale),
            Some(_) => true,
            None => {
                if self
                    .tombstones
                    .get(scope, key)
                    .is_some_and(|timestamp| value.timestamp <= timestamp)
                {
                    return Err(Refusal::Stale);
                }
                match keys {
                    Some(keys) if keys.len() >= KEYS_MAX => return Err(Refusal::Keys),
                    None if self.others.len() >= SCOPES_MAX => return Err(Refusal::Scopes),
                    _ => true,
                }
            }
        };
        let freed = old.map_or(0, |old| cost(key, &old.value.value));
        let bytes = self.bytes.saturating_sub(freed) + cost(key, &value.value);
        if bytes > STORE_BYTES_MAX && bytes > self.bytes {
            return Err(Refusal::Full);
        }
        message.verify()?;

        self.accepted = self.accepted.saturating_add(1);
        self.bytes = bytes;
        // A tie is not a sign of life: whoever repeats it may be long gone.
        let (repeated, heard, withheld) = match old {
            Some(old) if !newer => (old.repeated, old.heard, old.withheld),
            _ => (repeated, self.age, false),
        };
        let GossipMessage { scope, key, value } = message;
        self.tombstones.remove(&scope, &key);
        let output = Output::Value {
            scope,
            key: key.clone(),
            value: value.value.clone(),
            timestamp: value.timestamp,
            repeated,
        };
        let entry = Entry {
            value,
            repeated,
            heard,
            withheld,
        };
        self.others.entry(scope).or_default().insert(key, entry);
        Ok(vec![output])
    }

    fn expire(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        let horizon = self.age.checked_sub(self.lifetimes.expiry);
        if let Some(horizon) = horizon {
            let (bytes, age, tombstones) = (&mut self.bytes, self.age, &mut self.tombstones);
            self.others.retain(|scope, keys| {
                keys.retain(|key, entry| {
                    if entry.heard >= horizon {
                        return true;
                    }
                    *bytes = bytes.saturating_sub(cost(key, &entry.value.value));
                    tombstones.insert(*scope, key.clone(), entry.value.timestamp, age);
                    outputs.push(Output::Expired {
                        scope: *scope,
                        key: key.clone(),
                    });
                    false
                });
                !keys.is_empty()
            });
        }
        if let Some(horizon) = self.age.checked_sub(TOMBSTONE_LIFE) {
            self.tombstones.forget(horizon);
        }
        outputs
    }
}

/// The timestamps of what has expired, oldest first.
#[derive(Debug, Default)]
struct Tombstones {
    graves: HashMap<(PublicKey, Bytes), Grave>,
    order: BTreeMap<u64, (PublicKey, Bytes)>,
    next: u64,
}

#[derive(Debug)]
struct Grave {
    timestamp: u64,
    since: Duration,
    number: u64,
}

impl Tombstones {
    fn len(&self) -> usize {
        self.graves.len()
    }

    fn get(&self, scope: &PublicKey, key: &Bytes) -> Option<u64> {
        if self.graves.is_empty() {
            return None;
        }
        let grave = self.graves.get(&(*scope, key.clone()))?;
        Some(grave.timestamp)
    }

    fn insert(&mut self, scope: PublicKey, key: Bytes, timestamp: u64, since: Duration) {
        self.remove(&scope, &key);
        let number = self.next;
        self.next += 1;
        self.order.insert(number, (scope, key.clone()));
        let grave = Grave {
            timestamp,
            since,
            number,
        };
        self.graves.insert((scope, key), grave);
        while self.graves.len() > TOMBSTONES_MAX && self.pop() {}
    }

    fn remove(&mut self, scope: &PublicKey, key: &Bytes) {
        if let hash_map::Entry::Occupied(grave) = self.graves.entry((*scope, key.clone())) {
            self.order.remove(&grave.remove().number);
        }
    }

    /// Forgets what was buried before `horizon`.
    fn forget(&mut self, horizon: Duration) {
        while let Some((_, oldest)) = self.order.first_key_value() {
            let fresh = self
                .graves
                .get(oldest)
                .is_some_and(|grave| grave.since >= horizon);
            if fresh || !self.pop() {
                break;
            }
        }
    }

    fn pop(&mut self) -> bool {
        match self.order.pop_first() {
            Some((_, oldest)) => self.graves.remove(&oldest).is_some(),
            None => false,
        }
    }
}

fn cost(key: &Bytes, value: &Bytes) -> usize {
    ENTRY_BYTES + key.len() + value.len()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
