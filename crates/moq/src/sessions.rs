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
//! A dial is never given up because the peer's came first: the peer may stand on it already. It is
//! when the last who waits for it gives up.

use std::time::Duration;

use iroh::EndpointId;
use iroh_rooms_sorted::SortedMap;

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
    /// A caller waits no longer.
    GiveUp { key: Key, waiter: WaiterId },
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
            | Input::GiveUp { key, .. }
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
    entries: SortedMap<Key, Entry>,
    next_dial: DialId,
}

impl Table {
    pub(crate) fn new(me: EndpointId) -> Self {
        Self {
            me,
            entries: SortedMap::new(),
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
            Input::GiveUp { key, waiter } => self.give_up(key, waiter, &mut out),
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

    fn give_up(&mut self, key: Key, waiter: WaiterId, out: &mut Vec<Output>) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        // One who has his answer is not among those who wait: the dial goes on by itself.
        if let Some(dial) = &mut entry.dial
            && let Some(place) = dial.waiters.iter().position(|other| *other == waiter)
        {
            dial.waiters.swap_remove(place);
            // A session that has lost its connection lives on in the dial.
            if dial.waiters.is_empty() && !entry.open {
                out.push(Output::CancelDial { key, dial: dial.id });
                entry.dial = None;
            }
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
mod tests;
#[cfg(any(test, fuzzing))]
pub(crate) mod world;
