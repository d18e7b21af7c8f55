//! Who someone is: ed25519 keys, behind a trait so that the simulator can run without the arithmetic.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

/// An endpoint's public key.
pub type Key = [u8; 32];
/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// An ed25519 signature, in its two halves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signature(pub [u8; 32], pub [u8; 32]);

/// Signs as one member and verifies for all.
pub trait Keys: Send + Sync {
    /// The own public key.
    fn key(&self) -> Key;
    /// Signs with the own key.
    fn sign(&self, bytes: &[u8]) -> Signature;
    /// Whether `key` signed `bytes`.
    fn verify(&self, key: &Key, bytes: &[u8], signature: &Signature) -> bool;
}

/// Signatures that are remembered as good, at the least and half of the most. The older half is
/// forgotten when there are more, and those are checked again.
const KNOWN: usize = 1_024;

/// The real thing: the endpoint's own key. A leader meets each proposal twice, when it takes it and
/// when it applies it, and an author its own: what was good once is not checked again.
pub struct Ed25519 {
    key: iroh_base::SecretKey,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    newer: HashSet<Hash>,
    older: HashSet<Hash>,
}

impl Known {
    fn add(&mut self, what: Hash) {
        if self.newer.len() >= KNOWN {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(what);
    }
}

impl Ed25519 {
    /// Signs with this key.
    pub fn new(key: iroh_base::SecretKey) -> Self {
        Self {
            key,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that makes a signature good.
fn checked(key: &Key, bytes: &[u8], signature: &Signature) -> Hash {
    digest(
        "iroh-rooms/checked/1",
        &[key, bytes, &signature.0, &signature.1],
    )
}

impl Keys for Ed25519 {
    fn key(&self) -> Key {
        *self.key.public().as_bytes()
    }

    fn sign(&self, bytes: &[u8]) -> Signature {
        let whole = self.key.sign(bytes).to_bytes();
        let mut signature = Signature::default();
        let (first, second) = whole.split_at(32);
        signature.0.copy_from_slice(first);
        signature.1.copy_from_slice(second);
        let known = checked(&self.key(), bytes, &signature);
        self.known().add(known);
        signature
    }

    fn verify(&self, key: &Key, bytes: &[u8], signature: &Signature) -> bool {
        let known = checked(key, bytes, signature);
        {
            let all = self.known();
            if all.newer.contains(&known) || all.older.contains(&known) {
                return true;
            }
        }
        let mut whole = [0; 64];
        let (first, second) = whole.split_at_mut(32);
        first.copy_from_slice(&signature.0);
        second.copy_from_slice(&signature.1);
        let good = iroh_base::PublicKey::from_bytes(key).is_ok_and(|key| {
            key.verify(bytes, &iroh_base::Signature::from_bytes(&whole))
                .is_ok()
        });
        if good {
            self.known().add(known);
        }
        good
    }
}

/// A hash of parts, each with its length, under a name that says what is hashed.
pub fn digest(name: &str, parts: &[&[u8]]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for part in [name.as_bytes()].iter().chain(parts) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// Postcard of anything here: these types cannot fail to encode into memory.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).unwrap_or_default()
}

/// The opposite, without bytes left over.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}
