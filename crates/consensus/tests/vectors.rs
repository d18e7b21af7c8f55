//! `vectors/consensus.json`: frames and canonical JSON. Written with `UPDATE_VECTORS=1`, compared
//! otherwise.

use std::{env, fs, path::Path};

use data_encoding::HEXLOWER;
use iroh_rooms_consensus::keys::{Ed25519, Keys, Signature};
use iroh_rooms_consensus::machine::{Command, Newcomer, Why};
use iroh_rooms_consensus::raft::{Entry, Kind, Message, Position};
use iroh_rooms_consensus::recovery::Record;
use iroh_rooms_consensus::session::{Payload, Proposal, SessionId};
use iroh_rooms_consensus::state::{Change, canonical};
use iroh_rooms_consensus::wire::{Body, Check, Chunk, Envelope, Frame, Lineage};
use iroh_rooms_sorted::SortedMap;
use serde_json::{Value, json};

fn hex(bytes: impl AsRef<[u8]>) -> String {
    HEXLOWER.encode(bytes.as_ref())
}

fn frames() -> Vec<(&'static str, Frame)> {
    let keys = Ed25519::new(iroh_base::SecretKey::from_bytes(&[7; 32]));
    let epoch = [2; 32];
    let raft = |kind| Body::Raft(Message { term: 3, kind });
    let position = Position { term: 2, index: 40 };
    let mut proposal = Proposal {
        session: SessionId { epoch, id: 12 },
        sequence: 5,
        base: Some(39),
        payload: Payload::Change(Change::Merge(b"{\"a\":1}".to_vec())),
        signature: Signature::default(),
    };
    proposal.sign(&keys, &[1; 32], &epoch);
    let newcomer = Newcomer {
        key: [3; 32],
        participant: "ada".into(),
        priority: 2,
        nonce: [4; 32],
        replaces: Some(12),
    };
    let entry = |config, command: &Command| Entry {
        term: 3,
        config,
        data: postcard::to_stdvec(command).unwrap(),
    };
    let entries = vec![
        entry(
            false,
            &Command::Propose(1_795_219_200_000, proposal.clone(), Vec::new()),
        ),
        entry(true, &Command::Join(newcomer)),
        entry(true, &Command::Remove(vec![12], Why::Silent)),
        Entry {
            term: 3,
            config: true,
            data: Vec::new(),
        },
    ];
    let mut record = Record {
        room: [1; 32],
        number: 1,
        parent: epoch,
        base: position,
        settled: 38,
        base_hash: [5; 32],
        survivors: SortedMap::from([(12, keys.key())]),
        lossless: true,
        nonce: [6; 32],
        signatures: SortedMap::new(),
    };
    record.signatures.insert(12, keys.sign(&record.body()));
    let bodies = [
        (
            "vote",
            raft(Kind::Vote {
                pre: true,
                last: position,
                token: None,
            }),
        ),
        (
            "vote reply",
            raft(Kind::VoteReply {
                pre: true,
                reject: false,
            }),
        ),
        (
            "append",
            raft(Kind::Append {
                previous: position,
                commit: 40,
                entries,
                acknowledged: 39,
            }),
        ),
        (
            "append reply",
            raft(Kind::AppendReply {
                index: 44,
                reject: Some(position),
                commit: 40,
            }),
        ),
        (
            "heartbeat",
            raft(Kind::Heartbeat {
                commit: 40,
                acknowledged: 39,
            }),
        ),
        ("propose", Body::Propose(vec![proposal])),
        (
            "chunk",
            Body::Chunk(Chunk {
                hash: [8; 32],
                length: 3,
                offset: 0,
                data: vec![1, 2, 3],
            }),
        ),
        (
            "check",
            Body::Check(Check {
                index: 64,
                chain: [1; 32],
                state: [2; 32],
            }),
        ),
        ("leave", Body::Leave),
        ("offer", Body::Offer(record.clone())),
    ];
    let envelope = |body: &Body| Frame::Envelope(Envelope::new(epoch, 12, 1, body));
    let mut frames: Vec<_> = bodies
        .iter()
        .map(|(name, body)| (*name, envelope(body)))
        .collect();
    let by_another = Envelope::new(epoch, 12, 1, &Body::Leave).by_another(&keys);
    frames.push(("leave, by another", Frame::Envelope(by_another)));
    frames.push((
        "lineage",
        Frame::Lineage(Lineage {
            records: vec![record],
            active: true,
        }),
    ));
    frames
}

fn vectors() -> Value {
    let frames: Vec<Value> = frames()
        .into_iter()
        .map(|(name, frame)| json!({ "name": name, "encoded": hex(frame.encode()) }))
        .collect();
    let texts = [
        r#"{"b":[1.0,-0,1e-7,0.1],"a":{"é":null,"\u0001":"\/"}}"#,
        r#"{"\ud83d\ude00":1,"\ufb33":2}"#,
        "9007199254740992",
        "9007199254740993",
        r#"{"a":1,"a":2}"#,
        r#""\ud800""#,
    ];
    let json: Vec<Value> = texts
        .into_iter()
        .map(|text| {
            let value = canonical::parse(text.as_bytes()).ok();
            let text_of = |value| String::from_utf8(canonical::write(&value)).unwrap();
            json!({ "text": text, "canonical": value.map(text_of) })
        })
        .collect();
    json!({
        "about": "Frames between members, and canonical JSON. Made by crates/consensus/tests/vectors.rs with UPDATE_VECTORS=1. Bytes are hex; `canonical` is null where the text is refused.",
        "frames": frames,
        "json": json,
    })
}

#[test]
fn vectors_are_as_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/consensus.json");
    let made = vectors();
    if env::var_os("UPDATE_VECTORS").is_some() {
        fs::write(&path, serde_json::to_string_pretty(&made).unwrap() + "\n").unwrap();
    }
    let kept: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(made, kept);
}

#[test]
fn frames_come_back_and_shorter_or_longer_ones_do_not() {
    for (name, frame) in frames() {
        let bytes = frame.encode();
        assert_eq!(Frame::decode(&bytes), Some(frame), "{name}");
        assert_eq!(Frame::decode(&[&bytes[..], &[0]].concat()), None, "{name}");
        for end in 0..bytes.len() {
            assert_eq!(Frame::decode(&bytes[..end]), None, "{name} cut at {end}");
        }
    }
}
