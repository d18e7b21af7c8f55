//! The cryptography of an endpoint in WebAssembly: of ring, only what connections between endpoints
//! use, so that the rest is not part of the module.
//!
//! Endpoints prove their keys with Ed25519, which is iroh's own code, and agree on others with
//! X25519, which all of them offer. The certificates of relays are the browser's to check.

use std::sync::Arc;

use rand::{TryRngCore, rngs::OsRng};
use rustls::{
    Error, SupportedCipherSuite,
    crypto::{
        CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, WebPkiSupportedAlgorithms,
        ring::{
            cipher_suite::{
                TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
            },
            kx_group::X25519,
        },
    },
    pki_types::PrivateKeyDer,
    sign::SigningKey,
};

/// The first cipher is the one that is used, unless the other end has an order of its own.
const CHACHA_FIRST: [SupportedCipherSuite; 3] = [
    TLS13_CHACHA20_POLY1305_SHA256,
    TLS13_AES_256_GCM_SHA384,
    TLS13_AES_128_GCM_SHA256,
];
/// Ring's order.
const AES_FIRST: [SupportedCipherSuite; 3] = [
    TLS13_AES_256_GCM_SHA384,
    TLS13_AES_128_GCM_SHA256,
    TLS13_CHACHA20_POLY1305_SHA256,
];

pub(super) fn provider(chacha_first: bool) -> CryptoProvider {
    let suites = if chacha_first {
        CHACHA_FIRST
    } else {
        AES_FIRST
    };
    CryptoProvider {
        cipher_suites: suites.to_vec(),
        kx_groups: vec![X25519],
        // Iroh verifies by itself.
        signature_verification_algorithms: WebPkiSupportedAlgorithms {
            all: &[],
            mapping: &[],
        },
        secure_random: &Browser,
        key_provider: &Browser,
    }
}

#[derive(Debug)]
struct Browser;

impl SecureRandom for Browser {
    fn fill(&self, buf: &mut [u8]) -> Result<(), GetRandomFailed> {
        OsRng.try_fill_bytes(buf).map_err(|_| GetRandomFailed)
    }
}

impl KeyProvider for Browser {
    /// Keys from files are for servers.
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        Err(Error::General("no keys are loaded here".to_owned()))
    }
}
