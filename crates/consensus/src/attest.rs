//! What a newcomer is shown to know that who let it in leads the room, now: a majority of the voters
//! says so about the nonce that it drew.
//!
//! A stale doorman cannot gather it. Who holds the room's key can make up voters as well; that is
//! found only by who knows a member's key from elsewhere.

use iroh_rooms_sorted::{SortedMap, SortedSet};
use serde::{Deserialize, Serialize};

use crate::conf::Conf;
use crate::keys::{Hash, Key, Keys, Signature, digest};
use crate::machine::Newcomer;

/// What voters sign, and who has. It also says which key a member's id belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// The epoch.
    pub epoch: Hash,
    /// The term,
    pub term: u64,
    /// and who leads it.
    pub leader: u64,
    /// The newcomer's id, which is the index of the configuration that it came with.
    pub id: u64,
    /// Its key.
    pub key: Key,
    /// What it drew.
    pub nonce: Hash,
    /// The configuration.
    pub conf: Conf,
    /// Of its voters.
    pub signatures: SortedMap<u64, Signature>,
}

impl Attestation {
    /// One that nobody has signed.
    pub fn new(
        epoch: Hash,
        (term, leader): (u64, u64),
        id: u64,
        newcomer: &Newcomer,
        conf: Conf,
    ) -> Self {
        Self {
            epoch,
            term,
            leader,
            id,
            key: newcomer.key,
            nonce: newcomer.nonce,
            conf,
            signatures: SortedMap::new(),
        }
    }

    /// What is signed: everything but the signatures.
    pub fn digest(&self) -> Hash {
        let conf = crate::keys::encode(&self.conf);
        let numbers = [self.term, self.leader, self.id].map(u64::to_le_bytes);
        let [term, leader, id] = &numbers;
        digest(
            "iroh-rooms/attest/1",
            &[&self.nonce, &self.epoch, term, leader, id, &self.key, &conf],
        )
    }

    /// Whether a majority of the voters signed, whose keys are `key_of`.
    pub fn is_proven(&self, keys: &dyn Keys, key_of: impl Fn(u64) -> Option<Key>) -> bool {
        let body = self.digest();
        let signed = |(id, signature): (&u64, &Signature)| {
            let known = self.conf.is_voter(*id).then(|| key_of(*id)).flatten();
            known.is_some_and(|key| keys.verify(&key, &body, signature))
        };
        let signers = self.signatures.iter().filter(|it| signed(*it));
        let signers: SortedSet<u64> = signers.map(|(id, _)| *id).collect();
        self.conf.is_valid() && self.conf.is_majority(&signers)
    }
}
