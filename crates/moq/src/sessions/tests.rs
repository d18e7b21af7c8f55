use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{
    world::{Step, World, ids},
    *,
};

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Connect),
        2 => any::<usize>().prop_map(Step::GiveUp),
        2 => Just(Step::Dialled),
        1 => Just(Step::DialFailed),
        3 => Just(Step::Accepted),
        3 => any::<usize>().prop_map(Step::CloseAny),
        1 => any::<usize>().prop_map(Step::Deafen),
        1 => Just(Step::Disconnect),
        3 => (100..4000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn everybody_gets_one_answer_and_one_connection_stands(
        lower: bool,
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut world = World::new(lower);
        for step in steps {
            world.step(step);
        }
        world.rest();
    }

    /// Two tables and the messages between them, which arrive in any order that keeps each
    /// connection's own order.
    #[test]
    fn both_sides_agree_on_the_lower_ids_dial(order in proptest::collection::vec(any::<u8>(), 64)) {
        let (low, high) = ids();
        let mut tables = [Table::new(low), Table::new(high)];
        let keys = [Key { scope: 0, remote: high }, Key { scope: 0, remote: low }];
        let mut now = Duration::ZERO;
        // Connection 0 is dialled by the lower id, 1 by the higher. Each is established at its
        // listener, then at its dialler; both may be closed by either side.
        let mut queues: [Vec<(usize, Input)>; 2] = [Vec::new(), Vec::new()];
        for side in 0..2 {
            let outputs = tables[side].handle(Input::Connect { key: keys[side], waiter: 0 }, now);
            assert!(matches!(outputs[..], [Output::Dial { dial: 0, .. }]));
            let conn = side as ConnId;
            let other = 1 - side;
            queues[side].push((other, Input::Accepted { key: keys[other], conn }));
            queues[side].push((side, Input::Dialled { key: keys[side], dial: 0, conn }));
        }
        let mut closed = BTreeSet::new();
        let mut order = order.into_iter();
        loop {
            let pick = usize::from(order.next().unwrap_or(0));
            let (side, input) = match (queues[0].is_empty(), queues[1].is_empty()) {
                (true, true) => {
                    let due = tables.iter().filter_map(Table::deadline).min();
                    let Some(due) = due else { break };
                    now = now.max(due);
                    (pick % 2, Input::Tick)
                }
                (false, true) => queues[0].remove(0),
                (true, false) => queues[1].remove(0),
                (false, false) => queues[pick % 2].remove(0),
            };
            for side in if matches!(input, Input::Tick) { vec![0, 1] } else { vec![side] } {
                let mut outputs = tables[side].handle(input, now);
                while let Some(output) = outputs.pop() {
                    match output {
                        Output::Check { key, standing, retiring } => {
                            let alive = !closed.contains(&standing);
                            outputs.extend(tables[side].handle(
                                Input::Checked { key, standing, retiring, alive },
                                now,
                            ));
                        }
                        Output::Close { conn, code, .. } => {
                            prop_assert_eq!((conn, code), (1, close::GLARE), "the wrong one");
                            if closed.insert(conn) {
                                let queue = &mut queues[usize::try_from(conn).unwrap()];
                                queue.push((0, Input::Closed { key: keys[0], conn }));
                                queue.push((1, Input::Closed { key: keys[1], conn }));
                            }
                        }
                        Output::Over { .. } => prop_assert!(false, "the session ended"),
                        _ => {}
                    }
                }
            }
        }
        for side in 0..2 {
            let entry = tables[side].entries.get(&keys[side]).unwrap();
            prop_assert_eq!(entry.standing.map(|link| link.conn), Some(0));
            prop_assert!(entry.retiring.is_empty() && entry.dial.is_none());
        }
    }
}

#[test]
fn a_dead_winner_gives_way() {
    let (low, high) = ids();
    let mut table = Table::new(low);
    let key = Key {
        scope: 0,
        remote: high,
    };
    table.handle(Input::Connect { key, waiter: 0 }, Duration::ZERO);
    table.handle(
        Input::Dialled {
            key,
            dial: 0,
            conn: 10,
        },
        Duration::ZERO,
    );
    // The peer has restarted and dials: by the rule of glare it would lose.
    table.handle(Input::Accepted { key, conn: 11 }, Duration::ZERO);
    let mut stood = Vec::new();
    let mut closed = Vec::new();
    while let Some(now) = table.deadline() {
        for output in table.handle(Input::Tick, now) {
            let Output::Check {
                key,
                standing,
                retiring,
            } = output
            else {
                panic!("{output:?}")
            };
            let input = Input::Checked {
                key,
                standing,
                retiring,
                alive: false,
            };
            for output in table.handle(input, now) {
                match output {
                    Output::Stand { conn, .. } => stood.push(conn),
                    Output::Close { conn, code, .. } => closed.push((conn, code)),
                    output => panic!("{output:?}"),
                }
            }
        }
        assert!(now < Duration::from_secs(10), "takes too long");
    }
    assert_eq!((stood, closed), (vec![11], vec![(10, close::REPLACED)]));
}

#[test]
fn a_crowd_is_refused_in_the_end() {
    let (low, high) = ids();
    let mut table = Table::new(low);
    let key = Key {
        scope: 0,
        remote: high,
    };
    for waiter in 0..=MAX_WAITERS as u64 {
        let outputs = table.handle(Input::Connect { key, waiter }, Duration::ZERO);
        let refused = outputs.contains(&Output::Refuse { key, waiter });
        assert_eq!(refused, waiter == MAX_WAITERS as u64);
    }
}
