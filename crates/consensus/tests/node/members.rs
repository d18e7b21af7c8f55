//! What members do for their users.

use super::*;

#[test]
fn members_agree_and_everyone_learns_what_became_of_a_change() {
    let (mut room, a) = Room::json();
    let (b, c) = (room.join(a, 2), room.join(a, 3));
    room.change(a, 1, merge(r#"{"x":1}"#));
    room.change(b, 1, merge(r#"{"y":2}"#));
    room.change(c, 1, merge(r#"{"x":null,"z":3.5}"#));
    room.change(c, 2, merge("not json"));
    room.pass(1_000);
    for member in [a, b, c] {
        assert_eq!(room.text(member), r#"{"y":2,"z":3.5}"#);
        assert!(matches!(
            room.outcomes(member)[0],
            (1, Outcome::Committed(_))
        ));
    }
    assert!(matches!(room.outcomes(c)[1], (2, Outcome::Rejected(_))));
    // Three vote in the end, and all the same three.
    room.pass(20_000);
    for member in [a, b, c] {
        assert_eq!(room.nodes[&member].status().conf.voters.len(), 3);
    }
}

#[test]
fn changes_that_come_at_once_and_meanwhile_travel_together() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    let propose = |ticket: u64| Input::Propose {
        ticket,
        payload: Payload::Change(merge(&format!(r#"{{"n{ticket}":1}}"#))),
        base: None,
    };
    room.give_all(b, (1..=20).map(propose).collect());
    assert_eq!(room.queue.len(), 1, "twenty in one message");
    for ticket in 21..=40 {
        room.give(b, propose(ticket));
    }
    assert_eq!(room.queue.len(), 2, "the others wait for an outcome");
    room.settle();
    room.pass(1_000);
    let outcomes = room.outcomes(b);
    let made = outcomes
        .iter()
        .filter(|(_, it)| matches!(it, Outcome::Committed(_)));
    let tickets: Vec<u64> = made.map(|(ticket, _)| *ticket).collect();
    assert_eq!(tickets, (1..=40).collect::<Vec<_>>());
    assert_eq!(room.text(a), room.text(b));
}

#[test]
fn voters_reach_all_and_learners_those_who_vote() {
    let (mut room, a) = Room::json();
    let (b, c) = (room.join(a, 2), room.join(a, 3));
    let peers = |room: &Room, of: Key| room.nodes[&of].peers().into_iter().collect::<Vec<_>>();
    let sorted = |mut keys: Vec<Key>| {
        keys.sort_unstable();
        keys
    };
    // One votes, until the others have kept up for a while.
    assert_eq!(peers(&room, a), sorted(vec![b, c]));
    assert_eq!((peers(&room, b), peers(&room, c)), (vec![a], vec![a]));
    room.pass(20_000);
    for (member, others) in [(a, [b, c]), (b, [a, c]), (c, [a, b])] {
        assert_eq!(peers(&room, member), sorted(others.to_vec()));
    }
    // A fourth one listens; it has heard of who votes before it has the state.
    let fourth = room.ask(a, 4, "p4");
    let welcome = room.welcomes.remove(&fourth).unwrap();
    let config = room.config(4);
    let node = Node::join(config, welcome, room.now).unwrap();
    assert!(!node.status().ready);
    let named: Vec<Key> = node.peers().into_iter().collect();
    assert_eq!(named, sorted(vec![a, b, c]));
    assert!(peers(&room, a).contains(&fourth) && room.nodes[&b].knows(&fourth));
}

#[test]
fn a_learner_is_told_once_of_a_change_and_when_it_is_made() {
    let (mut room, a) = Room::json();
    let (b, c) = (room.join(a, 2), room.join(a, 3));
    room.pass(20_000);
    let d = room.join(a, 4);
    assert_eq!(room.nodes[&a].status().conf.learners.len(), 1);
    // The first one shows where its log is.
    room.change(a, 1, merge(r#"{"w":1}"#));
    room.propose(a, 2, Payload::Change(merge(r#"{"x":1}"#)));
    let mut told = 0;
    while let Some((from, to, bytes)) = room.queue.pop_front() {
        told += usize::from(to == d);
        room.give(to, Input::Receive(from, bytes));
    }
    assert_eq!((told, room.text(d).as_str()), (1, r#"{"w":1,"x":1}"#));
    // What no majority takes is not kept from it for long.
    room.cut = vec![b, c];
    let before = room.nodes[&d].status().last.index;
    room.change(a, 3, merge(r#"{"y":1}"#));
    assert_eq!(room.nodes[&d].status().last.index, before);
    room.pass(100);
    assert_eq!(room.nodes[&d].status().last.index, before + 1);
    assert_eq!(room.text(d), r#"{"w":1,"x":1}"#);
}

#[test]
fn a_signature_that_was_good_once_is_good_for_nothing_else() {
    let (author, other) = (keys(1), keys(2));
    let good = author.sign(b"this");
    for _ in 0..2 {
        assert!(other.verify(&author.key(), b"this", &good));
        assert!(author.verify(&author.key(), b"this", &good));
        let forged = Signature(good.1, good.0);
        for keys in [&author, &other] {
            assert!(!keys.verify(&author.key(), b"that", &good));
            assert!(!keys.verify(&other.key(), b"this", &good));
            assert!(!keys.verify(&author.key(), b"this", &forged));
        }
    }
}

#[test]
fn a_precondition_that_does_not_hold_is_a_rejection() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    let index = room.nodes[&b].machine().index;
    room.change(a, 1, merge(r#"{"turn":"b"}"#));
    let payload = Payload::Change(merge(r#"{"turn":"a"}"#));
    room.give(
        b,
        Input::Propose {
            ticket: 7,
            payload,
            base: Some(index),
        },
    );
    room.pass(1_000);
    assert_eq!(room.outcomes(b), [(7, Outcome::Rejected("stale".into()))]);
    assert_eq!(room.text(b), r#"{"turn":"b"}"#);
}

#[test]
fn the_lead_is_handed_over_and_a_leaver_is_gone_with_its_vote() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    room.pass(10_000);
    assert_eq!(room.nodes[&b].status().conf.voters.len(), 2);
    room.give(a, Input::Leave);
    room.pass(3_000);
    let over = |room: &Room, key| {
        room.events[&key]
            .iter()
            .any(|it| matches!(it, Event::Over(Why::Left, _)))
    };
    assert!(over(&room, a));
    assert!(room.nodes[&b].status().doorman);
    assert_eq!(room.nodes[&b].status().conf.voters.len(), 1);
    room.change(b, 1, merge(r#"{"alone":true}"#));
    assert!(matches!(room.outcomes(b)[0], (1, Outcome::Committed(_))));
    room.give(b, Input::Leave);
    room.pass(200);
    assert!(over(&room, b));
}

#[test]
fn the_door_refuses_a_taken_name_a_locked_room_and_who_was_kicked() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    room.ask(a, 3, "p2");
    assert_eq!(room.refusals.pop().unwrap().1, "participant-id-taken");
    room.ask(b, 3, "other");
    assert_eq!(
        room.refusals.pop().unwrap().1,
        "no-quorum",
        "b does not lead"
    );
    room.ask(a, 3, "");
    assert_eq!(room.refusals.pop().unwrap().1, "bad-id");
    // Only moderators lock and kick; that is the founder.
    room.propose(b, 1, Payload::Lock(true));
    room.pass(500);
    assert_eq!(
        room.outcomes(b),
        [(1, Outcome::Rejected("not a moderator".into()))]
    );
    room.propose(a, 1, Payload::Lock(true));
    room.pass(500);
    room.ask(a, 3, "other");
    assert_eq!(room.refusals.pop().unwrap().1, "denied");
    room.propose(a, 2, Payload::Lock(false));
    room.propose(a, 3, Payload::Kick(b));
    room.pass(2_000);
    assert!(
        room.events[&b]
            .iter()
            .any(|it| matches!(it, Event::Over(..)))
    );
    assert_eq!(room.nodes[&a].machine().members.len(), 1);
    room.ask(a, 2, "p2");
    assert_eq!(room.refusals.pop().unwrap().1, "denied");
}

#[test]
fn a_key_that_comes_back_is_a_new_member_with_a_new_id() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    room.join(a, 3);
    let before = room.nodes[&b].status().id;
    room.nodes.remove(&b);
    let b = room.join(a, 2);
    let after = room.nodes[&b].status().id;
    assert!(after > before);
    assert_eq!(room.nodes[&a].machine().members.len(), 3);
    room.change(b, 1, merge(r#"{"back":1}"#));
    room.pass(500);
    assert!(matches!(room.outcomes(b)[0], (1, Outcome::Committed(_))));
}

#[test]
fn the_application_decides_with_a_reducer_and_all_wait_for_it() {
    let (mut room, a) = Room::new(State::Opaque(b"0".to_vec()), true);
    let b = room.join(a, 2);
    for (ticket, text) in [(1, "3"), (2, "-9"), (3, "4")] {
        room.change(a, ticket, Change::Opaque(text.as_bytes().to_vec()));
    }
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().parse::<i64>().unwrap();
    for _ in 0..8 {
        for member in [a, b] {
            let asked = room
                .events
                .get_mut(&member)
                .map(std::mem::take)
                .unwrap_or_default();
            let (decide, rest): (Vec<_>, Vec<_>) = asked
                .into_iter()
                .partition(|it| matches!(it, Event::Decide { .. }));
            room.events.insert(member, rest);
            for event in decide {
                let Event::Decide { index, change, .. } = event else {
                    continue;
                };
                let sum =
                    number(&room.nodes[&member].machine().state.bytes()) + number(change.bytes());
                let verdict = match sum {
                    sum if sum < 0 => Verdict::Refuse("below zero".into()),
                    sum => Verdict::Accept(Some(sum.to_string().into_bytes())),
                };
                room.give(member, Input::Decided(index, verdict));
            }
        }
        room.pass(300);
    }
    assert_eq!((room.text(a), room.text(b)), ("7".into(), "7".into()));
    assert_eq!(
        room.outcomes(a)[1],
        (2, Outcome::Rejected("below zero".into()))
    );
    // One whose reducer throws does not guess, and votes no more.
    room.change(a, 4, Change::Opaque(b"1".to_vec()));
    room.pass(300);
    let index = room.events[&b].iter().find_map(|it| match it {
        Event::Decide { index, .. } => Some(*index),
        _ => None,
    });
    room.give(b, Input::Decided(index.unwrap(), Verdict::Failed));
    assert!(room.nodes[&b].status().degraded);
    assert_eq!(room.text(b), "7");
}

#[test]
fn one_of_a_pair_goes_on_when_the_other_is_gone_and_not_before() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    room.pass(10_000);
    room.change(b, 1, merge(r#"{"kept":1}"#));
    room.pass(500);
    room.cut.push(b);
    room.pass(20_000);
    assert!(!room.nodes[&a].status().doorman, "b may still be there");
    room.give(a, Input::Gone(b));
    room.pass(3_000);
    assert!(room.nodes[&a].status().doorman);
    assert!(
        room.events[&a]
            .iter()
            .any(|it| matches!(it, Event::Recovered(_, true)))
    );
    assert_eq!(room.text(a), r#"{"kept":1}"#);
    // b finds that the room went on without it.
    room.cut.clear();
    room.change(b, 2, merge(r#"{"late":1}"#));
    room.pass(3_000);
    let orphans = room.events[&b].iter().find_map(|it| match it {
        Event::Over(Why::Lost, orphans) => Some(orphans.clone()),
        _ => None,
    });
    assert_eq!(orphans.unwrap()[0].change, merge(r#"{"late":1}"#));
    assert!(room.outcomes(b).contains(&(2, Outcome::Unknown)));
}

#[test]
fn a_learner_goes_along_with_a_new_epoch() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    room.pass(10_000);
    // A learner: two vote, and a third would need time to be promoted.
    let c = room.join(a, 3);
    let voters = room.nodes[&a].status().conf.voters.len();
    assert_eq!(voters, 2);
    room.change(c, 1, merge(r#"{"kept":1}"#));
    room.pass(300);
    // It proposes, and before anyone has heard of it the room goes on without the leader.
    room.cut.push(a);
    room.change(c, 2, merge(r#"{"late":1}"#));
    room.give(b, Input::Gone(a));
    room.pass(45_000);
    let outcomes = room.outcomes(c);
    assert!(matches!(outcomes[0], (1, Outcome::Committed(_))));
    // That takes longer than anyone waits for an outcome. It is made all the same, once.
    assert_eq!(outcomes[1], (2, Outcome::Unknown));
    assert_eq!(room.text(b), r#"{"kept":1,"late":1}"#);
    assert_eq!(room.text(c), room.text(b));
}

#[test]
fn a_newcomer_believes_a_majority_and_not_the_door() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    room.pass(10_000);
    assert_eq!(room.nodes[&a].status().conf.voters.len(), 2);
    let key = room.ask(a, 3, "p3");
    let welcome = room.welcomes.remove(&key).expect("admitted");
    assert_eq!(welcome.attestation.signatures.len(), 2);
    let config = room.config(3);
    let join = |welcome: &Welcome| Node::join(config.clone(), welcome.clone(), 1).is_some();
    assert!(join(&welcome));
    // One voter alone, another nonce, another term.
    let mut alone = welcome.clone();
    alone.attestation.signatures.pop_last();
    assert!(!join(&alone));
    let mut replayed = welcome.clone();
    replayed.attestation.nonce = [0; 32];
    assert!(!join(&replayed));
    let mut older = welcome.clone();
    older.attestation.term += 1;
    assert!(!join(&older));
    // Someone else's.
    assert!(Node::join(room.config(4), welcome, 1).is_none());
    // Whom the voters do not follow any more gathers nothing.
    room.cut.push(b);
    room.ask(a, 5, "p5");
    room.pass(12_000);
    assert!(room.welcomes.is_empty());
}

#[test]
fn where_consent_is_needed_most_members_decide() {
    let (mut room, a) = Room::founded(State::json(b"{}").unwrap(), |config| Config {
        approval: Approval::Majority,
        ..config
    });
    let (b, c) = (room.join(a, 2), room.join(a, 3));
    let answer = |room: &mut Room, answers: [(Key, bool); 2]| {
        for (member, agrees) in answers {
            let asked = room.events.remove(&member).unwrap_or_default();
            for event in &asked {
                if let Event::Consider { proposal, .. } = event {
                    room.give(member, Input::Considered(*proposal, agrees));
                }
            }
            room.events.insert(member, asked);
        }
        room.settle();
        room.pass(300);
        for member in [a, b, c] {
            let seen = room.events.entry(member).or_default();
            seen.retain(|it| !matches!(it, Event::Consider { .. }));
        }
    };
    room.change(a, 1, merge(r#"{"x":1}"#));
    assert_eq!(room.text(a), "{}", "nobody has answered");
    answer(&mut room, [(b, true), (c, false)]);
    assert_eq!(room.text(c), r#"{"x":1}"#);
    // Its author alone is not enough, and what comes behind it waits for that.
    room.change(b, 1, merge(r#"{"x":2}"#));
    room.change(b, 2, merge(r#"{"y":2}"#));
    answer(&mut room, [(a, false), (c, false)]);
    let refused = Outcome::Rejected("not agreed to".into());
    assert_eq!(room.outcomes(b), [(1, refused.clone()), (2, refused)]);
    // Silence is no consent.
    room.change(c, 1, merge(r#"{"z":3}"#));
    room.pass(20_000);
    assert!(matches!(room.outcomes(c)[0], (1, Outcome::Rejected(_))));
    assert_eq!(room.text(a), r#"{"x":1}"#);
    // What is not about the state is for moderators alone.
    room.propose(a, 2, Payload::Lock(true));
    room.pass(500);
    assert!(room.nodes[&c].machine().locked);
}

#[test]
fn a_room_is_found_under_the_id_that_its_door_was_moved_to() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    let rotate = |room: &mut Room, by, ticket| {
        room.propose(by, ticket, Payload::Rotate([77; 32]));
        room.pass(500);
    };
    rotate(&mut room, b, 1);
    assert!(matches!(room.outcomes(b)[0], (1, Outcome::Rejected(_))));
    rotate(&mut room, a, 1);
    for member in [a, b] {
        assert!(room.events[&member].contains(&Event::Rotated([77; 32])));
    }
    room.door = [77; 32];
    let c = room.join(a, 3);
    assert_eq!(room.nodes[&c].machine().door(), [77; 32]);
    // Under an id that the door never had there is another room.
    room.door = [78; 32];
    let key = room.ask(a, 4, "p4");
    let welcome = room.welcomes.remove(&key).expect("admitted");
    let config = room.config(4);
    let node = Node::join(config, welcome, room.now).expect("its records are good");
    room.nodes.insert(key, node);
    for other in [a, b, c] {
        room.give(other, Input::Link(key, true));
        room.give(key, Input::Link(other, true));
    }
    room.pass(1_000);
    let over = |it: &Event| matches!(it, Event::Over(Why::Lost, _));
    assert!(room.events[&key].iter().any(over));
}

#[test]
fn a_large_state_reaches_a_newcomer_in_chunks() {
    let (mut room, a) = Room::json();
    for at in 0..20 {
        room.change(
            a,
            at,
            merge(&format!(r#"{{"k{at}":"{}"}}"#, "x".repeat(60_000))),
        );
    }
    let b = room.join(a, 2);
    assert_eq!(room.text(a), room.text(b));
    // Beyond the limit a change is refused, and nothing else happens.
    for at in 20..75 {
        room.change(
            a,
            at,
            merge(&format!(r#"{{"k{at}":"{}"}}"#, "x".repeat(60_000))),
        );
    }
    let (_, last) = room.outcomes(a).pop().unwrap();
    assert!(matches!(last, Outcome::Rejected(why) if why.contains("4 MiB")));
}
