//! `vectors/presence.json`: signed values and what a reader must make of them. Written with
//! `UPDATE_VECTORS=1`, compared otherwise.

use std::{env, fs, path::Path, time::Duration};

use data_encoding::HEXLOWER;
use iroh_base::SecretKey;
use iroh_rooms_kv::{
    store::{Input, KEYS_MAX, Lifetimes, Now, Output, SKEW_MAX, Store, StoreError},
    wire::{GossipMessage, KEY_MAX, TRAILING_MAX, VALUE_MAX},
};
use serde_json::{Value, json};

/// The reader's clock: 2026-11-21T00:00:00Z.
const NOW: u64 = 1_795_219_200_000_000_000;

fn hex(bytes: impl AsRef<[u8]>) -> String {
    HEXLOWER.encode(bytes.as_ref())
}

struct Case {
    name: &'static str,
    secret: SecretKey,
    key: Vec<u8>,
    timestamp: u64,
    value: Vec<u8>,
    /// What is done to the encoded message.
    change: fn(Vec<u8>) -> Vec<u8>,
    /// The reason of the refusal.
    refused: Option<&'static str>,
}

impl Case {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            secret: SecretKey::from_bytes(&[7; 32]),
            key: b"r".to_vec(),
            timestamp: NOW,
            value: b"hello".to_vec(),
            change: |bytes| bytes,
            refused: None,
        }
    }

    fn refused(self, reason: &'static str) -> Self {
        let refused = Some(reason);
        Self { refused, ..self }
    }

    fn encoded(&self) -> Vec<u8> {
        let (key, value) = (self.key.clone().into(), self.value.clone().into());
        let message = GossipMessage::sign(&self.secret, key, self.timestamp, value);
        (self.change)(message.encode().to_vec())
    }

    fn json(&self) -> Value {
        let mut json = json!({
            "name": self.name,
            "secret": hex(self.secret.to_bytes()),
            "scope": hex(self.secret.public().as_bytes()),
            "key": hex(&self.key),
            // Nanoseconds do not fit into a JSON reader's double.
            "timestamp": self.timestamp.to_string(),
            "value": hex(&self.value),
            "encoded": hex(self.encoded()),
        });
        if let Some(reason) = self.refused {
            json["refused"] = reason.into();
        }
        json
    }
}

fn cases() -> Vec<Case> {
    let skew = u64::try_from(SKEW_MAX.as_nanos()).unwrap();
    let case = Case::new;
    vec![
        case("plain"),
        Case {
            secret: SecretKey::from_bytes(&[0; 32]),
            ..case("another scope")
        },
        Case {
            key: vec![],
            value: vec![],
            ..case("empty key and value")
        },
        Case {
            key: vec![b'k'; KEY_MAX],
            value: (0..VALUE_MAX).map(|at| at as u8).collect(),
            ..case("largest key and value")
        },
        Case {
            key: b"s".to_vec(),
            value: vec![0xff; 200],
            ..case("two-byte length")
        },
        Case {
            timestamp: NOW + skew,
            ..case("as far ahead as allowed")
        },
        Case {
            timestamp: NOW - skew,
            ..case("as far behind as allowed")
        },
        Case {
            change: |bytes| [bytes, vec![0xa5; 8]].concat(),
            ..case("a repeat")
        },
        Case {
            change: |bytes| [bytes, vec![0; TRAILING_MAX]].concat(),
            ..case("as many trailing bytes as allowed")
        },
        Case {
            timestamp: NOW + skew + 1,
            ..case("too far ahead")
        }
        .refused("future"),
        Case {
            timestamp: u64::MAX,
            ..case("the end of time")
        }
        .refused("future"),
        Case {
            timestamp: NOW - skew - 1,
            ..case("too far behind")
        }
        .refused("past"),
        Case {
            timestamp: 0,
            ..case("the beginning of time")
        }
        .refused("past"),
        Case {
            key: vec![b'k'; KEY_MAX + 1],
            ..case("key too long")
        }
        .refused("key"),
        Case {
            value: vec![b'v'; VALUE_MAX + 1],
            ..case("value too long")
        }
        .refused("value"),
        Case {
            value: vec![b'v'; 4096],
            ..case("message too long")
        }
        .refused("oversize"),
        Case {
            change: |bytes| [bytes, vec![0; TRAILING_MAX + 1]].concat(),
            ..case("too many trailing bytes")
        }
        .refused("trailing"),
        Case {
            change: |_| vec![],
            ..case("nothing")
        }
        .refused("malformed"),
        Case {
            change: |bytes| bytes[..bytes.len() - 1].to_vec(),
            ..case("cut off")
        }
        .refused("malformed"),
        Case {
            change: |bytes| changed(bytes, 0),
            ..case("unknown kind")
        }
        .refused("malformed"),
        Case {
            change: |bytes| changed(bytes, 34),
            ..case("another key")
        }
        .refused("signature"),
        Case {
            change: |bytes| changed(bytes, 36),
            ..case("another timestamp")
        }
        .refused("signature"),
        Case {
            change: |bytes| changed(bytes, 46),
            ..case("another value")
        }
        .refused("signature"),
        Case {
            change: |bytes| {
                let last = bytes.len() - 1;
                changed(bytes, last)
            },
            ..case("another signature")
        }
        .refused("signature"),
        Case {
            change: |mut bytes| {
                bytes[1..33].copy_from_slice(SecretKey::from_bytes(&[8; 32]).public().as_bytes());
                bytes
            },
            ..case("signed by another scope")
        }
        .refused("signature"),
    ]
}

fn changed(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 1;
    bytes
}

#[test]
fn a_reader_takes_and_refuses_what_the_vectors_say() {
    for case in cases() {
        let now = Now {
            wall: NOW,
            elapsed: Duration::ZERO,
        };
        let lifetimes = Lifetimes {
            expiry: Duration::from_secs(120),
            repeat: Duration::from_secs(45),
        };
        let mut store = Store::new(SecretKey::from_bytes(&[9; 32]), lifetimes, now);
        let bytes = case.encoded();
        let result = store.handle(Input::Received(&bytes), now);
        let stats = store.stats();
        match case.refused {
            None => {
                let message = GossipMessage::decode(&bytes).unwrap();
                let value = Output::Value {
                    scope: case.secret.public(),
                    key: case.key.into(),
                    value: case.value.into(),
                    timestamp: case.timestamp,
                    repeated: message.encode().len() < bytes.len(),
                };
                assert_eq!(result, Ok(vec![value]), "{}", case.name);
                assert_eq!(
                    (stats.accepted, stats.refused.total()),
                    (1, 0),
                    "{}",
                    case.name
                );
            }
            Some(reason) => {
                let Err(StoreError::Refused(refusal)) = result else {
                    panic!("{}: {result:?}", case.name);
                };
                assert_eq!(refusal.name(), reason, "{}", case.name);
                let counted: Vec<_> = stats.refused.iter().filter(|(_, n)| *n > 0).collect();
                assert_eq!(counted, [(reason, 1)], "{}", case.name);
                assert_eq!(stats.entries, 0, "{}", case.name);
            }
        }
    }
}

#[test]
fn the_file_is_what_is_generated() {
    let cases: Vec<_> = cases().iter().map(Case::json).collect();
    let vectors = json!({
        "about": "Signed values of presence. Made by crates/kv/tests/vectors.rs with UPDATE_VECTORS=1. Bytes are hex; timestamps are decimal nanoseconds since 1970; `now` is the reader's clock; `refused` is the reason of a refusal.",
        "now": NOW.to_string(),
        "limits": {
            "key": KEY_MAX,
            "value": VALUE_MAX,
            "trailing": TRAILING_MAX,
            "keys": KEYS_MAX,
            "skewSeconds": SKEW_MAX.as_secs(),
        },
        "cases": cases,
    });
    let generated = format!("{}\n", serde_json::to_string_pretty(&vectors).unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/presence.json");
    if env::var_os("UPDATE_VECTORS").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let stored = fs::read_to_string(&path).unwrap();
    assert!(
        stored == generated,
        "run with UPDATE_VECTORS=1 if this change is meant"
    );
}
