//! How much of what a track wrote is still under way to its readers.
//!
//! moq-net takes whatever is written and sends it as fast as the connections allow. What it does
//! show is whether anybody holds a group: a session takes each new group as soon as it runs, and
//! lets go of it when the peer has acknowledged the last byte, or when the group is given up.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use moq_net::group;
use n0_future::time::{self, Instant};

/// Whole groups under way at which a writer should wait.
pub const MAX_UNDER_WAY_GROUPS: usize = 256;
/// Bytes of whole groups under way at which a writer should wait.
pub const MAX_UNDER_WAY_BYTES: u64 = 2 * 1024 * 1024;
/// How long a writer waits for readers that take nothing at all; then what is under way counts no
/// longer, and they keep what the maximum age of the track leaves them.
pub const READY_PATIENCE: Duration = Duration::from_secs(2);
/// The same for the end of a track, which is told when its last groups have been taken.
pub const END_PATIENCE: Duration = Duration::from_secs(10);
/// How long a session that runs may take to notice a new group. One that does not want the group
/// never takes it.
const NOTICE: Duration = Duration::from_millis(50);
/// How often a writer looks again whether anybody has noticed what it waits for.
const GLANCE: Duration = Duration::from_millis(5);
/// Groups that are remembered when the writer does not wait; the oldest are forgotten beyond.
const REMEMBERED: usize = 2 * MAX_UNDER_WAY_GROUPS;

/// The groups of one track that readers may still be taking.
#[derive(Default)]
pub(crate) struct Flow(Mutex<UnderWay>);

#[derive(Default)]
struct UnderWay {
    groups: VecDeque<Written>,
    bytes: u64,
    /// Groups that have been taken or forgotten since the start.
    taken: u64,
}

struct Written {
    group: group::Producer,
    bytes: u64,
    at: Instant,
    /// A reader was seen to hold it.
    noticed: bool,
}

impl Written {
    fn is_taken(&self, now: Instant) -> bool {
        ready_now(self.group.unused()) && (self.noticed || now.duration_since(self.at) >= NOTICE)
    }
}

impl UnderWay {
    fn pop(&mut self) {
        if let Some(written) = self.groups.pop_front() {
            self.forget(&written);
        }
    }

    fn forget(&mut self, written: &Written) {
        self.bytes -= written.bytes;
        self.taken += 1;
    }

    fn is_full(&self) -> bool {
        self.groups.len() >= MAX_UNDER_WAY_GROUPS || self.bytes >= MAX_UNDER_WAY_BYTES
    }

    /// A reader holds this group, or did. Readers come to groups in the order in which they are
    /// written, so they have come to those before it as well.
    fn noticed(&mut self, number: u64) {
        for written in &mut self.groups {
            written.noticed |= written.group.sequence <= number;
        }
    }

    /// Forgets what was taken.
    fn sweep(&mut self) {
        let now = Instant::now();
        let newest = self.groups.iter().rev();
        let mut held = newest.filter(|written| ready_now(written.group.used()));
        if let Some(number) = held.next().map(|written| written.group.sequence) {
            self.noticed(number);
        }
        for written in std::mem::take(&mut self.groups) {
            if written.is_taken(now) {
                self.forget(&written);
            } else {
                self.groups.push_back(written);
            }
        }
    }
}

impl Flow {
    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A whole group was written.
    pub(crate) fn wrote(&self, group: group::Producer, bytes: u64) {
        let mut under_way = self.lock();
        let at = Instant::now();
        while let Some(oldest) = under_way.groups.front()
            && oldest.is_taken(at)
        {
            under_way.pop();
        }
        if under_way.groups.len() >= REMEMBERED {
            under_way.pop();
        }
        under_way.bytes += bytes;
        under_way.groups.push_back(Written {
            group,
            bytes,
            at,
            noticed: false,
        });
    }

    /// Whether the writer should wait.
    pub(crate) fn is_full(&self) -> bool {
        let mut under_way = self.lock();
        if under_way.is_full() {
            under_way.sweep();
        }
        under_way.is_full()
    }

    /// Waits until the writer should go on. When too much was under way, about an eighth of it is gone
    /// then, so that a writer that waits each time does not look through all of it each time.
    pub(crate) async fn ready(&self) {
        while self.is_full() {
            let (older, newer, taken) = {
                let under_way = self.lock();
                let groups = &under_way.groups;
                let step = groups.len() / 8;
                let older = groups.get(step).map(|it| it.group.clone());
                let newer = groups.iter().rev().nth(step).map(|it| it.group.clone());
                (older, newer, under_way.taken)
            };
            // They go oldest first or newest first.
            tokio::select! {
                () = self.wait_for(older, taken, READY_PATIENCE) => {}
                () = self.wait_for(newer, taken, READY_PATIENCE) => {}
            }
        }
    }

    /// Waits until nothing is under way.
    pub(crate) async fn drained(&self) {
        loop {
            let (oldest, taken) = {
                let mut under_way = self.lock();
                under_way.sweep();
                let oldest = under_way.groups.front();
                (oldest.map(|written| written.group.clone()), under_way.taken)
            };
            if oldest.is_none() {
                return;
            }
            self.wait_for(oldest, taken, END_PATIENCE).await;
        }
    }

    /// Waits for one group, or to look again, and forgets all if none was `taken` for too long.
    async fn wait_for(&self, group: Option<group::Producer>, taken: u64, patience: Duration) {
        let Some(group) = group else { return };
        if time::timeout(GLANCE, group.used()).await.is_err() {
            return;
        }
        self.lock().noticed(group.sequence);
        if time::timeout(patience, group.unused()).await.is_err() {
            let mut under_way = self.lock();
            under_way.sweep();
            if under_way.taken == taken {
                while !under_way.groups.is_empty() {
                    under_way.pop();
                }
            }
        }
    }
}

/// Whether a future is ready, without waiting for it.
fn ready_now(future: impl Future) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(pin!(future).poll(&mut context), Poll::Ready(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_is_at_it_is_not_waited_for_by_the_clock() {
        let broadcast = moq_net::broadcast::Info::new().produce();
        let track = broadcast.create_track("t", None).unwrap();
        let flow = Flow::default();
        let write = || {
            let group = track.append_group().unwrap();
            flow.wrote(group.clone(), 1);
            group
        };
        let groups: Vec<_> = (0..MAX_UNDER_WAY_GROUPS).map(|_| write()).collect();
        assert!(flow.is_full());
        // It takes one after the other. The clock goes on only when nobody has anything to do.
        let start = Instant::now();
        tokio::spawn(async move {
            for group in groups {
                let held = group.consume();
                tokio::task::yield_now().await;
                drop(held);
            }
        });
        flow.ready().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(!flow.is_full());
        flow.drained().await;
        assert!(start.elapsed() <= NOTICE, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_nothing_is_waited_for_so_long() {
        let broadcast = moq_net::broadcast::Info::new().produce();
        let track = broadcast.create_track("t", None).unwrap();
        let flow = Flow::default();
        let mut held = Vec::new();
        for _ in 0..2 * REMEMBERED {
            let group = track.append_group().unwrap();
            held.push(group.consume());
            flow.wrote(group, 1);
        }
        let start = Instant::now();
        flow.ready().await;
        assert_eq!(start.elapsed(), READY_PATIENCE);
        flow.drained().await;
        assert_eq!(
            start.elapsed(),
            READY_PATIENCE,
            "nothing is remembered of them"
        );
    }
}
