//! A member with a valid key says what it may not.

use super::*;

/// A leader with two followers; the second is the liar.
pub(super) fn with_a_liar() -> (Room, Key, Key, Key) {
    let (mut room, a) = Room::json();
    let (b, c) = (room.join(a, 2), room.join(a, 3));
    room.pass(15_000);
    (room, a, b, c)
}

pub(super) fn lie(room: &mut Room, liar: Key, to: Key, body: &Body) {
    let status = room.nodes[&liar].status();
    let to_id = room.nodes[&to].status().id;
    let envelope = Envelope::new(status.epoch, status.id, to_id, body);
    room.give(to, Input::Receive(liar, Frame::Envelope(envelope).encode()));
}

#[test]
fn nobody_speaks_or_proposes_for_another() {
    let (mut room, a, b, c) = with_a_liar();
    let epoch = room.nodes[&a].status().epoch;
    let keys = room.signers[&c].clone();
    // In the name of b, signed by c.
    let ids = (room.nodes[&b].status().id, room.nodes[&a].status().id);
    let unsigned = Envelope::new(epoch, ids.0, ids.1, &Body::Leave);
    let signed = unsigned.clone().by_another(&*keys);
    for envelope in [unsigned, signed] {
        room.give(a, Input::Receive(c, Frame::Envelope(envelope).encode()));
    }
    assert_eq!(room.nodes[&a].refused().get("forged"), Some(&2));
    // A change of b's session, signed by c.
    let session = room.nodes[&b].session().unwrap();
    let payload = Payload::Change(merge(r#"{"forged":1}"#));
    let mut proposal = Proposal {
        session,
        sequence: 1,
        base: None,
        payload,
        signature: Signature::default(),
    };
    proposal.sign(&*keys, &ROOM, &epoch);
    lie(&mut room, c, a, &Body::Propose(vec![proposal]));
    room.pass(1_000);
    assert_eq!(room.nodes[&a].refused().get("forged"), Some(&3));
    assert_eq!(room.text(b), "{}");
    assert_eq!(room.nodes[&a].machine().members.len(), 3);
}

#[test]
fn a_change_that_is_sent_again_counts_once() {
    let (mut room, a, b, c) = with_a_liar();
    let epoch = room.nodes[&a].status().epoch;
    let session = room.nodes[&c].session().unwrap();
    let payload = Payload::Change(Change::Patch(
        br#"[{"op":"add","path":"/n","value":1}]"#.to_vec(),
    ));
    let mut proposal = Proposal {
        session,
        sequence: 1,
        base: None,
        payload,
        signature: Signature::default(),
    };
    let keys = room.signers[&c].clone();
    proposal.sign(&*keys, &ROOM, &epoch);
    for _ in 0..5 {
        lie(&mut room, c, a, &Body::Propose(vec![proposal.clone(); 3]));
        room.pass(200);
    }
    let made = room.events[&b]
        .iter()
        .filter(|it| matches!(it, Event::Changed { .. }))
        .count();
    assert_eq!(made, 1);
}

/// How often something was refused for this reason.
fn refused(room: &Room, by: Key, why: &str) -> u64 {
    room.nodes[&by].refused().get(why).copied().unwrap_or(0)
}

#[test]
fn what_no_member_may_say_changes_nothing() {
    let (mut room, a, b, c) = with_a_liar();
    // With four one listens.
    let d = room.join(a, 4);
    room.pass(15_000);
    let status = room.nodes[&b].status();
    let (ids, term) = (
        [a, b, c, d].map(|it| room.nodes[&it].status().id),
        status.term,
    );
    assert_eq!(
        (status.leader, status.conf.is_voter(ids[3])),
        (ids[0], false)
    );
    let raft = |term, kind| Body::Raft(Message { term, kind });
    let beat = |acknowledged| Kind::Heartbeat {
        commit: 0,
        acknowledged,
    };
    let append = |data: Vec<u8>| Kind::Append {
        previous: status.last,
        commit: status.last.index,
        entries: vec![Entry {
            term,
            config: false,
            data,
        }],
        acknowledged: u64::MAX,
    };
    let vote = Kind::Vote {
        pre: false,
        last: status.last,
        token: None,
    };
    let granted = |pre| Kind::VoteReply { pre, reject: false };
    let gone = Kind::TimeoutNow { token: None };
    let large = Change::Merge(vec![b' '; 64 * 1024 + 1]);
    let mut proposal = Proposal {
        session: room.nodes[&c].session().unwrap(),
        sequence: 1,
        base: None,
        payload: Payload::Change(large),
        signature: Signature::default(),
    };
    proposal.sign(&*room.signers[&c].clone(), &ROOM, &status.epoch);
    let lies = [
        (c, raft(1 << 63, beat(0)), "impossible term"),
        (c, raft(1 << 63, vote.clone()), "impossible term"),
        (c, raft(1 << 63, append(Vec::new())), "impossible term"),
        (c, raft(u64::MAX, granted(false)), "impossible term"),
        (c, raft(0, vote), "impossible term"),
        // Whoever speaks as the leader of this term is another.
        (c, raft(term, beat(u64::MAX)), "not the leader"),
        (c, raft(term, append(b"forged".to_vec())), "not the leader"),
        (c, raft(term, gone), "not the leader"),
        (d, raft(term, granted(true)), "not a voter"),
        (d, raft(term, granted(false)), "not a voter"),
        (d, Body::Removed, "not a voter"),
        (
            c,
            raft(term + 1, append(vec![0; 512 * 1024 + 1])),
            "too many entries",
        ),
    ];
    for (liar, body, why) in lies {
        let before = refused(&room, b, why);
        lie(&mut room, liar, b, &body);
        room.settle();
        assert_eq!(refused(&room, b, why), before + 1, "{why}: {body:?}");
    }
    // Longer than a frame may be, and a change that is too large.
    room.give(b, Input::Receive(c, vec![0; 1024 * 1024 + 1]));
    assert_eq!(refused(&room, b, "malformed"), 1);
    lie(&mut room, c, a, &Body::Propose(vec![proposal]));
    // Of another epoch, and signed: there is no such epoch here.
    let keys = room.signers[&c].clone();
    let elsewhere = Envelope::new([1; 32], ids[2], ids[1], &Body::Removed).by_another(&*keys);
    room.give(b, Input::Receive(c, Frame::Envelope(elsewhere).encode()));
    room.pass(1_000);
    let after = room.nodes[&b].status();
    assert_eq!((after.term, after.leader), (term, ids[0]));
    assert_eq!((after.epoch, after.last), (status.epoch, status.last));
    assert!(room.nodes.values().all(|it| it.status().ready));
    room.change(b, 1, merge(r#"{"true":1}"#));
    room.pass(1_000);
    for key in [a, b, c, d] {
        assert_eq!(room.text(key), r#"{"true":1}"#);
    }
}

#[test]
fn nobody_ends_the_elections_with_a_term_far_ahead() {
    let (mut room, a, b, c) = with_a_liar();
    let term = room.nodes[&a].status().term;
    let kinds = || {
        let last = Position { term: 1, index: 1 };
        let vote = |pre| Kind::Vote {
            pre,
            last,
            token: None,
        };
        let heartbeat = Kind::Heartbeat {
            commit: 1,
            acknowledged: 0,
        };
        let reply = Kind::HeartbeatReply { commit: 1 };
        [vote(true), vote(false), heartbeat, reply]
    };
    for far in [term + TERM_STEP + 1, TERM - 1] {
        for to in [a, b] {
            for kind in kinds() {
                lie(&mut room, c, to, &Body::Raft(Message { term: far, kind }));
            }
        }
    }
    room.pass(5_000);
    for key in [a, b] {
        assert_eq!(room.nodes[&key].status().term, term);
        assert_eq!(refused(&room, key, "a term too far ahead"), 8);
    }
    // As far as it may: there are elections after it, and changes.
    for kind in kinds() {
        let term = term + TERM_STEP;
        lie(&mut room, c, b, &Body::Raft(Message { term, kind }));
    }
    room.pass(20_000);
    assert!(room.nodes[&a].status().term > term + TERM_STEP);
    room.change(b, 1, merge(r#"{"after":1}"#));
    room.pass(1_000);
    assert_eq!(room.text(a), room.text(b));
    assert!(room.text(a).contains("after"));
}

/// What travels in chunks, as a member writes it.
#[derive(serde::Serialize)]
enum Blob {
    Snapshot(u64, Snapshot),
}

#[test]
fn a_snapshot_that_is_none_is_not_taken_in() {
    let (mut room, a, b, c) = with_a_liar();
    room.change(a, 1, merge(r#"{"true":1}"#));
    room.pass(1_000);
    let status = room.nodes[&b].status();
    let forged = {
        let mut machine = room.nodes[&c].machine().clone();
        machine.index += 1_000;
        machine.state = State::json(br#"{"forged":1}"#).unwrap();
        machine
    };
    let position = |index| Position {
        term: status.term,
        index,
    };
    let snapshot = |index, conf: &Conf, data: Vec<u8>| Snapshot {
        position: position(index),
        conf: conf.clone(),
        data,
    };
    let (conf, data) = (&status.conf, forged.store());
    let mut elsewhere = forged.clone();
    elsewhere.room = [1; 32];
    let mut without = conf.clone();
    without.voters.retain(|it| *it != status.id);
    let term = status.term;
    let fakes = [
        (
            term,
            snapshot(forged.index, conf, data.clone()),
            "not the leader",
        ),
        (
            term,
            snapshot(forged.index + 1, conf, data.clone()),
            "not a snapshot",
        ),
        (
            term,
            snapshot(forged.index, conf, elsewhere.store()),
            "not a snapshot",
        ),
        (
            term,
            snapshot(forged.index, conf, b"garbage".to_vec()),
            "not a snapshot",
        ),
        (
            1 << 63,
            snapshot(forged.index, conf, data.clone()),
            "impossible term",
        ),
        (
            term + 1,
            snapshot(forged.index, &without, data.clone()),
            "not for me",
        ),
        (
            term + 1,
            snapshot(forged.index, &Conf::default(), data),
            "impossible configuration",
        ),
    ];
    let chunk = |data: Vec<u8>, hash, length, offset| {
        Body::Chunk(Chunk {
            hash,
            length,
            offset,
            data,
        })
    };
    for (term, snapshot, why) in fakes {
        let whole = postcard::to_stdvec(&Blob::Snapshot(term, snapshot)).unwrap();
        let length = whole.len() as u64;
        for (at, why) in [
            ([7; 32], "not a chunk"),
            (digest("iroh-rooms/blob/1", &[&whole]), why),
        ] {
            let before = refused(&room, b, why);
            lie(&mut room, c, b, &chunk(whole.clone(), at, length, 0));
            room.settle();
            assert_eq!(refused(&room, b, why), before + 1, "{why}");
        }
    }
    let message = Message {
        term: term + 1,
        kind: Kind::Snapshot(snapshot(forged.index, conf, forged.store())),
    };
    lie(&mut room, c, b, &Body::Raft(message));
    assert_eq!(refused(&room, b, "a snapshot in one piece"), 1);
    for (length, offset) in [(u64::MAX, 0), (9, u64::MAX), (9, 1), (16 << 20, 0), (0, 0)] {
        let before = refused(&room, b, "not a chunk");
        lie(&mut room, c, b, &chunk(vec![0; 9], [7; 32], length, offset));
        assert_eq!(
            refused(&room, b, "not a chunk"),
            before + 1,
            "{length} {offset}"
        );
    }
    room.pass(1_000);
    assert_eq!(room.nodes[&b].status().term, status.term);
    room.change(b, 2, merge(r#"{"still":1}"#));
    room.pass(1_000);
    for key in [a, b, c] {
        assert_eq!(room.text(key), r#"{"still":1,"true":1}"#);
    }
}
