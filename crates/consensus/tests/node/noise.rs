//! Anything that a member could say, and any bytes.

use super::liars::{lie, with_a_liar};
use super::*;

/// Numbers that matter to Raft, and any.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..30u64,
        Just(1 << 48),
        Just(u64::MAX),
        Just(u64::MAX - 1),
        any::<u64>()
    ]
}

fn position() -> impl Strategy<Value = Position> {
    (number(), number()).prop_map(|(term, index)| Position { term, index })
}

fn entry() -> impl Strategy<Value = Entry> {
    let data = proptest::collection::vec(any::<u8>(), 0..20);
    (number(), any::<bool>(), data).prop_map(|(term, config, data)| Entry { term, config, data })
}

fn token() -> impl Strategy<Value = Option<Token>> {
    let signature = Signature::default();
    proptest::option::of(number()).prop_map(move |it| it.map(|leader| Token { leader, signature }))
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (any::<bool>(), position(), token()).prop_map(|(pre, last, token)| Kind::Vote {
            pre,
            last,
            token
        }),
        (any::<bool>(), any::<bool>()).prop_map(|(pre, reject)| Kind::VoteReply { pre, reject }),
        (
            position(),
            number(),
            proptest::collection::vec(entry(), 0..4),
            number()
        )
            .prop_map(|(previous, commit, entries, acknowledged)| Kind::Append {
                previous,
                commit,
                entries,
                acknowledged
            }),
        (number(), proptest::option::of(position()), number()).prop_map(
            |(index, reject, commit)| Kind::AppendReply {
                index,
                reject,
                commit
            }
        ),
        (number(), number()).prop_map(|(commit, acknowledged)| Kind::Heartbeat {
            commit,
            acknowledged
        }),
        number().prop_map(|commit| Kind::HeartbeatReply { commit }),
        token().prop_map(|token| Kind::TimeoutNow { token }),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    let chunk = (
        any::<u8>(),
        number(),
        number(),
        proptest::collection::vec(any::<u8>(), 0..50),
    )
        .prop_map(|(hash, length, offset, data)| {
            Body::Chunk(Chunk {
                hash: [hash; 32],
                length,
                offset,
                data,
            })
        });
    prop_oneof![
        12 => (number(), kind()).prop_map(|(term, kind)| Body::Raft(Message { term, kind })),
        1 => chunk,
        1 => number().prop_map(Body::Who),
        1 => (number(), any::<[u8; 32]>()).prop_map(|(id, key)| Body::Member(id, key)),
        1 => Just(Body::Survey),
        1 => number().prop_map(|index| Body::Check(Check { index, chain: [0; 32], state: [0; 32] })),
        1 => any::<[u8; 32]>().prop_map(|hash| Body::Signed(hash, Signature::default())),
        1 => number().prop_map(|id| Body::Propose(vec![Proposal {
            session: SessionId { epoch: [1; 32], id },
            sequence: id,
            base: None,
            payload: Payload::Lock(true),
            signature: Signature::default(),
        }])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A member with a valid key can say anything. Nobody panics; and a follower that heard lies
    /// still has a room when the truth comes back, or is told to join anew.
    #[test]
    fn no_member_can_make_another_panic(lies in proptest::collection::vec((any::<bool>(), body()), 1..40)) {
        let (mut room, a, b, c) = with_a_liar();
        for (leader, body) in lies {
            lie(&mut room, c, if leader { a } else { b }, &body);
            room.settle();
        }
        room.pass(2_000);
    }

    #[test]
    fn no_bytes_make_anyone_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0..4000usize, bit in 0..8u8) {
        let (mut room, a, _, c) = with_a_liar();
        room.give(a, Input::Receive(c, bytes.clone()));
        // A true frame with one bit turned, at each level.
        let status = room.nodes[&c].status();
        let lineage = Frame::Lineage(Lineage { records: room.nodes[&a].records().to_vec(), active: true });
        let envelope = Envelope::new(status.epoch, status.id, 1, &Body::Survey);
        for frame in [lineage.encode(), Frame::Envelope(envelope).encode()] {
            let mut bent = frame;
            let at = at % bent.len();
            bent[at] ^= 1 << bit;
            room.give(a, Input::Receive(c, bent));
        }
        let body = Envelope { epoch: status.epoch, from: status.id, to: 1, hops: 0, body: bytes, signature: None };
        room.give(a, Input::Receive(c, Frame::Envelope(body).encode()));
        room.pass(300);
    }
}
