//! A table with the world around it: whatever happens, every output is checked. For the tests and for
//! fuzzing.

use std::collections::{BTreeMap, BTreeSet};

use iroh::SecretKey;

use super::*;

fn id(seed: u8) -> EndpointId {
    SecretKey::from_bytes(&[seed; 32]).public()
}

pub(crate) fn ids() -> (EndpointId, EndpointId) {
    let (a, b) = (id(1), id(2));
    if a < b { (a, b) } else { (b, a) }
}

/// What may happen to a table, with the numbers left open.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Connect,
    GiveUp(usize),
    Dialled,
    DialFailed,
    Accepted,
    CloseAny(usize),
    /// A connection receives nothing any more.
    Deafen(usize),
    Disconnect,
    Wait(u64),
}

/// A table with the world around it, which checks every output.
pub(crate) struct World {
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
    pub(crate) fn new(lower: bool) -> Self {
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

    pub(crate) fn step(&mut self, step: Step) {
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
            Step::Deafen(index) => {
                let index = index % self.open.len().max(1);
                if let Some(alive) = self.open.values_mut().nth(index) {
                    *alive = false;
                }
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

    /// Left alone, it comes to rest.
    pub(crate) fn rest(mut self) {
        self.step(Step::DialFailed);
        self.step(Step::Wait(60_000));
        assert!(self.waiting.is_empty());
        assert!(self.open.len() <= 1);
        assert_eq!(self.open.keys().next().copied(), self.standing);
        assert_eq!(self.session, self.standing.is_some());
        if self.standing.is_none() {
            assert!(self.table.entries.is_empty(), "something is left");
        }
    }
}
