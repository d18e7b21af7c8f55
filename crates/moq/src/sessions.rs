//! Which connection carries a session, and who waits for which dial. Sans-IO: no clock, no
//! sockets; the actor in `actor.rs` feeds it inputs and performs its outputs.
//!
//! For each (scope, peer) there is at most one dial in flight and one connection that stands.
//!
//! 1. A caller asks. A connection stands: it gets that. A dial is in flight: it waits with the
//!    others. Else a dial starts.
//! 2. A connection is established, dialled here or accepted. If none stands it stands, and all
//!    waiters have their answer. If one stands already, one of the two retires:
//!    dialled from both sides (glare): the dial of the lower endpoint id stands;
//!    dialled twice by the same side (a reconnect): the newer stands.
//! 3. A retiring connection keeps carrying data until the standing one has shown life, then it is
//!    closed. Should the standing one turn out dead (a peer that restarted dials anew while our
//!    own connection to its former self has not timed out), the retiring one stands again.
//! 4. The standing connection closes: a retiring one takes over, or the dial in flight if it
//!    succeeds, or the session is over. The end of any other connection changes nothing.
//!
//! A dial is never given up because the peer's came first: the peer may stand on it already.

use std::{collections::HashMap, time::Duration};

use iroh::EndpointId;

use crate::close;

/// A scope of this endpoint, by number.
pub(crate) type ScopeId = u64;
/// A connection with its handshake done, by number.
pub(crate) type ConnId = u64;
/// An attempt to connect, by number.
pub(crate) type DialId = u64;
/// A caller of connect, by number.
pub(crate) type WaiterId = u64;

/// Callers that may wait for one dial; the next is refused.
pub(crate) const MAX_WAITERS: usize = 1024;
/// Connections to one peer that may retire at once; the oldest is closed at once for the next.
pub(crate) const MAX_RETIRING: usize = 2;
/// How long a retiring connection carries on before the standing one is asked for a sign of life.
/// It covers the time that the standing one needs to announce its broadcasts.
pub(crate) const RETIRE_AFTER: Duration = Duration::from_millis(1500);
/// Checks without a sign of life after which the standing connection is taken for dead. Peers send
/// keep-alives every 2 to 5 s.
pub(crate) const CHECKS: u32 = 5;

/// One peer in one scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) scope: ScopeId,
    pub(crate) remote: EndpointId,
}

/// Who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Dialled,
    Accepted,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input {
    /// A caller wants a session.
    Connect { key: Key, waiter: WaiterId },
    /// A dial succeeded.
    Dialled {
        key: Key,
        dial: DialId,
        conn: ConnId,
    },
    /// A dial failed.
    DialFailed { key: Key, dial: DialId },
    /// The peer's dial was accepted.
    Accepted { key: Key, conn: ConnId },
    /// A connection is closed.
    Closed { key: Key, conn: ConnId },
    /// The answer to [`Output::Check`].
    Checked {
        key: Key,
        standing: ConnId,
        retiring: ConnId,
        alive: bool,
    },
    /// End the session with this peer, and a dial to it.
    Disconnect { key: Key, code: u32 },
    /// Nothing but time.
    Tick,
}

impl Input {
    fn key(&self) -> Option<Key> {
        match self {
            Input::Connect { key, .. }
            | Input::Dialled { key, .. }
            | Input::DialFailed { key, .. }
            | Input::Accepted { key, .. }
            | Input::Closed { key, .. }
            | Input::Checked { key, .. }
            | Input::Disconnect { key, .. } => Some(*key),
            Input::Tick => None,
        }
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Start dialling.
    Dial { key: Key, dial: DialId },
    /// Stop dialling: its result is not needed.
    CancelDial { key: Key, dial: DialId },
    /// Give the caller the session.
    Resolve { key: Key, waiter: WaiterId },
    /// Give the caller the error of the dial that just failed.
    Fail { key: Key, waiter: WaiterId },
    /// Too many callers wait.
    Refuse { key: Key, waiter: WaiterId },
    /// This connection stands from now on.
    Stand { key: Key, conn: ConnId },
    /// `retiring` was replaced by `standing`: remember what `standing` has received so far.
    Retire {
        key: Key,
        standing: ConnId,
        retiring: ConnId,
    },
    /// Has `standing` received anything since `retiring` was replaced? Answer by `Checked`.
    Check {
        key: Key,
        standing: ConnId,
        retiring: ConnId,
    },
    /// Close this connection.
    Close { key: Key, conn: ConnId, code: u32 },
    /// No connection to this peer is left.
    Over { key: Key },
}

#[derive(Debug, Clone, Copy)]
struct Link {
    conn: ConnId,
    side: Side,
}

#[derive(Debug, Clone, Copy)]
struct Retiring {
    link: Link,
    code: u32,
    due: Duration,
    checks: u32,
}

#[derive(Debug)]
struct Dial {
    id: DialId,
    waiters: Vec<WaiterId>,
}

#[derive(Debug, Default)]
struct Entry {
    /// The session was reported as open. Without a standing connection it waits for the dial.
    open: bool,
    dial: Option<Dial>,
    standing: Option<Link>,
    retiring: Vec<Retiring>,
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.dial.is_none() && self.standing.is_none() && self.retiring.is_empty()
    }
}

/// The state of all sessions of an endpoint.
#[derive(Debug)]
pub(crate) struct Table {
    me: EndpointId,
    entries: HashMap<Key, Entry>,
    next_dial: DialId,
}

impl Table {
    pub(crate) fn new(me: EndpointId) -> Self {
        Self {
            me,
            entries: HashMap::new(),
            next_dial: 0,
        }
    }

    /// Peers with a standing connection.
    pub(crate) fn standing(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.standing.is_some())
            .count()
    }

    /// The peers of a scope that are connected or being dialled.
    pub(crate) fn keys(&self, scope: ScopeId) -> Vec<Key> {
        self.entries
            .keys()
            .filter(|key| key.scope == scope)
            .copied()
            .collect()
    }

    /// When [`Input::Tick`] is due.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.entries
            .values()
            .flat_map(|entry| entry.retiring.iter().map(|retiring| retiring.due))
            .min()
    }

    /// Takes an input at `now` (time since an arbitrary start) and says what to do.
    pub(crate) fn handle(&mut self, input: Input, now: Duration) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Connect { key, waiter } => self.connect(key, waiter, &mut out),
            Input::Dialled { key, dial, conn } => {
                let entry = self.entries.entry(key).or_default();
                match entry.dial.take_if(|pending| pending.id == dial) {
                    Some(done) => {
                        self.established(
                            key,
                            Link {
                                conn,
                                side: Side::Dialled,
                            },
                            now,
                            &mut out,
                        );
                        out.extend(
                            done.waiters
                                .into_iter()
                                .map(|waiter| Output::Resolve { key, waiter }),
                        );
                    }
                    // Cancelled in the meantime: nobody asked for this connection any longer.
                    None => out.push(Output::Close {
                        key,
                        conn,
                        code: close::NORMAL,
                    }),
                }
            }
            Input::DialFailed { key, dial } => {
                if let Some(entry) = self.entries.get_mut(&key)
                    && let Some(failed) = entry.dial.take_if(|pending| pending.id == dial)
                {
                    out.extend(
                        failed
                            .waiters
                            .into_iter()
                            .map(|waiter| Output::Fail { key, waiter }),
                    );
                    if entry.standing.is_none() && std::mem::take(&mut entry.open) {
                        out.push(Output::Over { key });
                    }
                }
            }
            Input::Accepted { key, conn } => {
                self.established(
                    key,
                    Link {
                        conn,
                        side: Side::Accepted,
                    },
                    now,
                    &mut out,
                );
                // Callers have what they wanted, and the dial goes on by itself.
                if let Some(dial) = self
                    .entries
                    .get_mut(&key)
                    .and_then(|entry| entry.dial.as_mut())
                {
                    out.extend(
                        dial.waiters
                            .drain(..)
                            .map(|waiter| Output::Resolve { key, waiter }),
                    );
                }
            }
            Input::Closed { key, conn } => self.closed(key, conn, &mut out),
            Input::Checked {
                key,
                standing,
                retiring,
                alive,
            } => {
                self.checked(key, standing, retiring, alive, now, &mut out);
            }
            Input::Disconnect { key, code } => {
                if let Some(entry) = self.entries.remove(&key) {
                    if let Some(dial) = entry.dial {
                        out.push(Output::CancelDial { key, dial: dial.id });
                        out.extend(
                            dial.waiters
                                .into_iter()
                                .map(|waiter| Output::Fail { key, waiter }),
                        );
                    }
                    for retiring in entry.retiring {
                        out.push(Output::Close {
                            key,
                            conn: retiring.link.conn,
                            code,
                        });
                    }
                    if let Some(link) = entry.standing {
                        out.push(Output::Close {
                            key,
                            conn: link.conn,
                            code,
                        });
                    }
                    if entry.open {
                        out.push(Output::Over { key });
                    }
                }
            }
            Input::Tick => self.tick(now, &mut out),
        }
        if let Some(key) = input.key()
            && self.entries.get(&key).is_some_and(Entry::is_empty)
        {
            self.entries.remove(&key);
        }
        out
    }

    fn connect(&mut self, key: Key, waiter: WaiterId, out: &mut Vec<Output>) {
        let entry = self.entries.entry(key).or_default();
        if entry.standing.is_some() {
            out.push(Output::Resolve { key, waiter });
        } else if let Some(dial) = &mut entry.dial {
            if dial.waiters.len() < MAX_WAITERS {
                dial.waiters.push(waiter);
            } else {
                out.push(Output::Refuse { key, waiter });
            }
        } else {
            let dial = self.next_dial;
            self.next_dial += 1;
            entry.dial = Some(Dial {
                id: dial,
                waiters: vec![waiter],
            });
            out.push(Output::Dial { key, dial });
        }
    }

    fn established(&mut self, key: Key, new: Link, now: Duration, out: &mut Vec<Output>) {
        let me = self.me;
        let entry = self.entries.entry(key).or_default();
        let Some(old) = entry.standing else {
            entry.standing = Some(new);
            entry.open = true;
            out.push(Output::Stand {
                key,
                conn: new.conn,
            });
            return;
        };
        let glare = old.side != new.side;
        let winning_side = if me < key.remote {
            Side::Dialled
        } else {
            Side::Accepted
        };
        let (standing, retiring) = if glare && old.side == winning_side {
            (old, new)
        } else {
            (new, old)
        };
        if entry.retiring.len() >= MAX_RETIRING {
            let oldest = entry.retiring.remove(0);
            out.push(Output::Close {
                key,
                conn: oldest.link.conn,
                code: oldest.code,
            });
        }
        entry.retiring.push(Retiring {
            link: retiring,
            code: if glare { close::GLARE } else { close::REPLACED },
            due: now + RETIRE_AFTER,
            checks: 0,
        });
        entry.standing = Some(standing);
        if standing.conn == new.conn {
            out.push(Output::Stand {
                key,
                conn: new.conn,
            });
        }
        out.push(Output::Retire {
            key,
            standing: standing.conn,
            retiring: retiring.conn,
        });
    }

    fn closed(&mut self, key: Key, conn: ConnId, out: &mut Vec<Output>) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        entry.retiring.retain(|retiring| retiring.link.conn != conn);
        if entry.standing.is_none_or(|link| link.conn != conn) {
            return;
        }
        // The newest of the retiring ones takes over.
        match entry.retiring.pop() {
            Some(heir) => {
                entry.standing = Some(heir.link);
                out.push(Output::Stand {
                    key,
                    conn: heir.link.conn,
                });
            }
            None => {
                entry.standing = None;
                if entry.dial.is_none() {
                    entry.open = false;
                    out.push(Output::Over { key });
                }
            }
        }
    }

    fn tick(&mut self, now: Duration, out: &mut Vec<Output>) {
        for (key, entry) in &mut self.entries {
            let Some(standing) = entry.standing else {
                continue;
            };
            for retiring in &mut entry.retiring {
                if retiring.due <= now {
                    // Due again should no answer come.
                    retiring.due = now + RETIRE_AFTER;
                    out.push(Output::Check {
                        key: *key,
                        standing: standing.conn,
                        retiring: retiring.link.conn,
                    });
                }
            }
        }
    }

    fn checked(
        &mut self,
        key: Key,
        standing: ConnId,
        retiring: ConnId,
        alive: bool,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        let Some(current) = entry.standing.filter(|link| link.conn == standing) else {
            return;
        };
        let Some(index) = entry
            .retiring
            .iter()
            .position(|old| old.link.conn == retiring)
        else {
            return;
        };
        let Some(old) = entry.retiring.get_mut(index) else {
            return;
        };
        if alive {
            let code = old.code;
            entry.retiring.remove(index);
            out.push(Output::Close {
                key,
                conn: retiring,
                code,
            });
            return;
        }
        old.checks += 1;
        if old.checks < CHECKS {
            old.due = now + RETIRE_AFTER;
            return;
        }
        let heir = entry.retiring.remove(index);
        entry.standing = Some(heir.link);
        out.push(Output::Stand {
            key,
            conn: heir.link.conn,
        });
        out.push(Output::Close {
            key,
            conn: current.conn,
            code: close::REPLACED,
        });
    }
}

#[cfg(test)]
mod tests {
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
                            self.standing != Some(conn)
                                || matches!(input, Input::Disconnect { .. }),
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
}
