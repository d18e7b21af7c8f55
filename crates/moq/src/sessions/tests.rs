use std::collections::{BTreeMap, BTreeSet};

use iroh::SecretKey;
use proptest::prelude::*;

use super::*;

fn id(seed: u8) -> EndpointId {
    SecretKey::from_bytes(&[seed; 32]).public()
}

fn ids() -> (EndpointId, EndpointId) {
    let (a, b) = (id(1), id(2));
    if a < b { (a, b) } else { (b, a) }
}

/// What may happen to a table, with the numbers left open.
#[derive(Debug, Clone, Copy)]
enum Step {
    Connect,
    GiveUp(usize),
    Dialled,
    DialFailed,
    Accepted,
    CloseAny(usize),
    Disconnect,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Connect),
        2 => any::<usize>().prop_map(Step::GiveUp),
        2 => Just(Step::Dialled),
        1 => Just(Step::DialFailed),
        3 => Just(Step::Accepted),
        3 => any::<usize>().prop_map(Step::CloseAny),
        1 => Just(Step::Disconnect),
        3 => (100..4000u64).prop_map(Step::Wait),
    ]
}

/// A table with the world around it, which checks every output.
struct World {
    table: Table,
    key: Key,
    now: Duration,
    dial: Option<DialId>,
    /// Connections that are open, and whether they show life.
    open: BTreeMap<ConnId, bool>,
    standing: Option<ConnId>,
    session: bool,
    waiting: BTreeSet<WaiterId>,
    next: u64,
}

impl World {
    fn new(lower: bool) -> Self {
        let (low, high) = ids();
        let (me, remote) = if lower { (low, high) } else { (high, low) };
        Self {
            table: Table::new(me),
            key: Key { scope: 0, remote },
            now: Duration::ZERO,
            dial: None,
            open: BTreeMap::new(),
            standing: None,
            session: false,
            waiting: BTreeSet::new(),
            next: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn input(&mut self, input: Input) {
        let outputs = self.table.handle(input, self.now);
        for output in outputs {
            match output {
                Output::Dial { dial, .. } => {
                    assert!(self.dial.is_none(), "two dials in flight");
                    assert!(self.standing.is_none(), "dials in spite of a session");
                    self.dial = Some(dial);
                }
                Output::CancelDial { dial, .. } => assert_eq!(self.dial.take(), Some(dial)),
                Output::Resolve { waiter, .. } => {
                    assert!(self.session, "answered without a session");
                    assert!(self.waiting.remove(&waiter), "answered twice");
                }
                Output::Fail { waiter, .. } | Output::Refuse { waiter, .. } => {
                    assert!(self.waiting.remove(&waiter), "answered twice");
                }
                Output::Stand { conn, .. } => {
                    assert!(
                        self.open.contains_key(&conn),
                        "stands on a closed connection"
                    );
                    self.standing = Some(conn);
                    self.session = true;
                }
                Output::Retire {
                    standing, retiring, ..
                } => {
                    assert_eq!(Some(standing), self.standing);
                    assert_ne!(standing, retiring);
                }
                Output::Check {
                    key,
                    standing,
                    retiring,
                } => {
                    let alive = self.open.get(&standing).copied().unwrap_or(false);
                    self.input(Input::Checked {
                        key,
                        standing,
                        retiring,
                        alive,
                    });
                }
                Output::Close { conn, .. } => {
                    assert!(
                        self.standing != Some(conn) || matches!(input, Input::Disconnect { .. }),
                        "closes what stands"
                    );
                    self.open.remove(&conn);
                }
                Output::Over { .. } => {
                    assert!(self.session, "over twice");
                    assert!(
                        self.dial.is_none() || matches!(input, Input::Disconnect { .. }),
                        "over although a dial is in flight"
                    );
                    self.session = false;
                    self.standing = None;
                }
            }
        }
        if !self.session {
            assert!(self.standing.is_none());
        }
    }

    fn step(&mut self, step: Step) {
        let key = self.key;
        match step {
            Step::Connect => {
                let waiter = self.number();
                self.waiting.insert(waiter);
                self.input(Input::Connect { key, waiter });
            }
            Step::GiveUp(index) => {
                let index = index % self.waiting.len().max(1);
                if let Some(waiter) = self.waiting.iter().nth(index).copied() {
                    self.waiting.remove(&waiter);
                    self.input(Input::GiveUp { key, waiter });
                    assert!(
                        self.dial.is_none() || self.session || !self.waiting.is_empty(),
                        "a dial that nobody waits for"
                    );
                }
            }
            Step::Dialled => {
                if let Some(dial) = self.dial.take() {
                    let conn = self.number();
                    self.open.insert(conn, true);
                    self.input(Input::Dialled { key, dial, conn });
                }
            }
            Step::DialFailed => {
                if let Some(dial) = self.dial.take() {
                    self.input(Input::DialFailed { key, dial });
                }
            }
            Step::Accepted => {
                let conn = self.number();
                self.open.insert(conn, true);
                self.input(Input::Accepted { key, conn });
            }
            Step::CloseAny(index) => {
                let Some(conn) = self
                    .open
                    .keys()
                    .nth(index % self.open.len().max(1))
                    .copied()
                else {
                    return;
                };
                self.open.remove(&conn);
                let stood = self.standing == Some(conn);
                if stood {
                    self.standing = None;
                }
                let before = (self.standing, self.session);
                self.input(Input::Closed { key, conn });
                if !stood {
                    assert_eq!(
                        before,
                        (self.standing, self.session),
                        "a bystander's end matters"
                    );
                }
                // Another connection takes over whenever there is one.
                assert_eq!(self.standing.is_some(), !self.open.is_empty());
            }
            Step::Disconnect => {
                self.input(Input::Disconnect {
                    key,
                    code: close::NORMAL,
                });
                assert!(self.open.is_empty() && self.waiting.is_empty() && !self.session);
            }
            Step::Wait(millis) => {
                let until = self.now + Duration::from_millis(millis);
                while let Some(due) = self.table.deadline().filter(|due| *due <= until) {
                    self.now = self.now.max(due);
                    self.input(Input::Tick);
                }
                self.now = until;
            }
        }
        // Whoever waits waits for a dial, and a session means that something carries it.
        assert!(self.waiting.is_empty() || self.dial.is_some());
        assert!(self.waiting.is_empty() || self.standing.is_none());
        assert!(!self.session || self.standing.is_some() || self.dial.is_some());
        assert!(self.open.len() <= 1 + MAX_RETIRING, "connections pile up");
    }
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
        // Left alone, it comes to rest.
        world.step(Step::DialFailed);
        world.step(Step::Wait(60_000));
        prop_assert!(world.waiting.is_empty());
        prop_assert!(world.open.len() <= 1);
        prop_assert_eq!(world.open.keys().next().copied(), world.standing);
        prop_assert_eq!(world.session, world.standing.is_some());
        if world.standing.is_none() {
            prop_assert!(world.table.entries.is_empty(), "something is left");
        }
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
            let entry = &tables[side].entries[&keys[side]];
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
