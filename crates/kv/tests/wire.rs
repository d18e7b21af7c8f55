//! The bytes are those of iroh-smol-kv 0.4, both ways.

use bytes::Bytes;
use iroh_base::{PublicKey, SecretKey, Signature};
use iroh_rooms_kv::{
    Refusal,
    wire::{GossipMessage, KEY_MAX, MESSAGE_MAX, REPEAT_TAIL, TRAILING_MAX, VALUE_MAX},
};
use iroh_smol_kv::proto;
use proptest::{collection::vec, prelude::*};

fn theirs(message: &GossipMessage) -> proto::GossipMessage {
    let value = proto::SignedValue {
        timestamp: message.value.timestamp,
        value: message.value.value.clone(),
        signature: message.value.signature.to_bytes(),
    };
    proto::GossipMessage::SignedValue(message.scope, message.key.clone(), value)
}

fn parts(message: &proto::GossipMessage) -> (PublicKey, Bytes, u64, Bytes, [u8; 64]) {
    let proto::GossipMessage::SignedValue(scope, key, value) = message;
    let (timestamp, signature) = (value.timestamp, value.signature);
    (
        *scope,
        key.clone(),
        timestamp,
        value.value.clone(),
        signature,
    )
}

prop_compose! {
    fn message()(
        secret: [u8; 32],
        key in vec(any::<u8>(), 0..=KEY_MAX),
        timestamp: u64,
        value in vec(any::<u8>(), 0..=VALUE_MAX),
    ) -> GossipMessage {
        let secret = SecretKey::from_bytes(&secret);
        GossipMessage::sign(&secret, key.into(), timestamp, value.into())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn ours_are_read_by_them(message in message()) {
        let bytes = message.encode();
        let read: proto::GossipMessage = postcard::from_bytes(&bytes).unwrap();
        prop_assert_eq!(parts(&read), parts(&theirs(&message)));
        prop_assert_eq!(postcard::to_stdvec(&theirs(&message)).unwrap(), bytes);
    }

    #[test]
    fn theirs_are_read_by_us(message in message()) {
        let bytes = postcard::to_stdvec(&theirs(&message)).unwrap();
        let read = GossipMessage::decode(&bytes).unwrap();
        prop_assert_eq!(read.verify(), Ok(()));
        prop_assert_eq!(read, message);
    }

    #[test]
    fn repeats_are_read_by_both_and_fit(message in message(), tail: [u8; REPEAT_TAIL]) {
        let bytes = message.repeat(tail);
        prop_assert_ne!(&bytes, &message.encode());
        prop_assert!(bytes.len() <= MESSAGE_MAX);
        let read: proto::GossipMessage = postcard::from_bytes(&bytes).unwrap();
        prop_assert_eq!(parts(&read), parts(&theirs(&message)));
        prop_assert_eq!(GossipMessage::decode(&bytes).unwrap(), message);
    }

    #[test]
    fn any_changed_bit_is_noticed(message in message(), at: prop::sample::Index, bit in 0..8u8) {
        let mut bytes = message.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        let read = GossipMessage::decode(&bytes).and_then(|read| read.verify());
        prop_assert!(read.is_err());
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..8192)) {
        if let Ok(read) = GossipMessage::decode(&bytes) {
            prop_assert!(read.verify().is_err());
        }
    }
}

#[test]
fn limits() {
    let secret = SecretKey::from_bytes(&[1; 32]);
    let sign = |key: usize, value: usize| {
        let (key, value) = (vec![b'k'; key].into(), vec![b'v'; value].into());
        GossipMessage::sign(&secret, key, u64::MAX, value).encode()
    };
    let full = sign(KEY_MAX, VALUE_MAX);
    let with_tail = |extra: usize| [full.to_vec(), vec![0; extra]].concat();
    let decode = |bytes: &[u8]| GossipMessage::decode(bytes).err();

    assert_eq!(decode(&full), None);
    assert_eq!(decode(&with_tail(TRAILING_MAX)), None);
    assert_eq!(
        decode(&with_tail(TRAILING_MAX + 1)),
        Some(Refusal::Oversize)
    );
    assert_eq!(decode(&sign(KEY_MAX + 1, 0)), Some(Refusal::Key));
    assert_eq!(decode(&sign(0, VALUE_MAX + 1)), Some(Refusal::Value));
    assert_eq!(decode(&sign(0, 4096)), Some(Refusal::Oversize));
    assert_eq!(decode(&[]), Some(Refusal::Malformed));

    let small = [sign(0, 0).to_vec(), vec![0; TRAILING_MAX + 1]].concat();
    assert_eq!(decode(&small), Some(Refusal::Trailing));
    for length in 0..full.len() {
        assert_eq!(decode(&full[..length]), Some(Refusal::Malformed));
    }
}

#[test]
fn a_signature_covers_scope_key_timestamp_and_value() {
    let secret = SecretKey::from_bytes(&[1; 32]);
    let message = GossipMessage::sign(&secret, "key".into(), 7, "value".into());
    assert_eq!(message.verify(), Ok(()));

    let mut changed = message.clone();
    changed.scope = SecretKey::from_bytes(&[2; 32]).public();
    assert_eq!(changed.verify(), Err(Refusal::Signature));
    let mut changed = message.clone();
    changed.key = "kex".into();
    assert_eq!(changed.verify(), Err(Refusal::Signature));
    let mut changed = message.clone();
    changed.value.timestamp = 8;
    assert_eq!(changed.verify(), Err(Refusal::Signature));
    let mut changed = message.clone();
    changed.value.value = "valux".into();
    assert_eq!(changed.verify(), Err(Refusal::Signature));
    let mut changed = message;
    changed.value.signature = Signature::from_bytes(&[0; 64]);
    assert_eq!(changed.verify(), Err(Refusal::Signature));
}
