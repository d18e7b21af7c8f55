//! Counters of all sessions.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use web_transport_trait::MaybeSend;

/// Counters of [`crate::Moq`], since the start except for what says now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Sessions that stand now, in all scopes.
    pub sessions: u64,
    /// Dials started.
    pub dials: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Connections that were closed because the other dial of the two sides stands.
    pub glares: u64,
    /// Connections that were closed because the peer dialled anew.
    pub replaced: u64,
    /// Incoming connections refused, for whatever reason: the sum of those below.
    pub refused: u64,
    /// Incoming connections that named a scope that is not open here.
    pub unknown_scope: u64,
    /// Incoming connections that did not say anything valid in time.
    pub bad_handshakes: u64,
    /// Incoming sessions rejected by decision or for want of one.
    pub rejected: u64,
    /// Incoming connections refused because there were too many.
    pub busy: u64,
    /// Announcements that were ignored because of their name or because of too many.
    pub announcements_ignored: u64,
    /// Sessions closed because of too many announcements.
    pub announcements_flooded: u64,
    /// Tasks that run now. None a moment after [`crate::Moq::shutdown`].
    pub tasks: u64,
    /// Sides of streams that are open now, in all sessions. None a moment after
    /// [`crate::Moq::shutdown`].
    pub streams: u64,
}

/// What [`Stats`] is read from.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sessions: AtomicU64,
    pub(crate) dials: AtomicU64,
    pub(crate) dials_failed: AtomicU64,
    pub(crate) glares: AtomicU64,
    pub(crate) replaced: AtomicU64,
    pub(crate) unknown_scope: AtomicU64,
    pub(crate) bad_handshakes: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) busy: AtomicU64,
    pub(crate) announcements_ignored: AtomicU64,
    pub(crate) announcements_flooded: AtomicU64,
    pub(crate) tasks: AtomicU64,
    pub(crate) streams: AtomicU64,
}

/// Counts something while it lives.
pub(crate) struct Living {
    counters: Arc<Counters>,
    gauge: fn(&Counters) -> &AtomicU64,
}

impl Living {
    pub(crate) fn new(counters: &Arc<Counters>, gauge: fn(&Counters) -> &AtomicU64) -> Self {
        count(gauge(counters));
        Self {
            counters: counters.clone(),
            gauge,
        }
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        (self.gauge)(&self.counters).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a task, and counts it while it runs.
pub(crate) fn spawn(
    counters: &Arc<Counters>,
    task: impl Future<Output = ()> + MaybeSend + 'static,
) {
    let living = Living::new(counters, |counters| &counters.tasks);
    n0_future::task::spawn(async move {
        task.await;
        drop(living);
    });
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn announcement_ignored(&self) {
        count(&self.announcements_ignored);
    }

    pub(crate) fn announcements_flooded(&self) {
        count(&self.announcements_flooded);
    }

    pub(crate) fn read(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut stats = Stats {
            sessions: read(&self.sessions),
            dials: read(&self.dials),
            dials_failed: read(&self.dials_failed),
            glares: read(&self.glares),
            replaced: read(&self.replaced),
            refused: 0,
            unknown_scope: read(&self.unknown_scope),
            bad_handshakes: read(&self.bad_handshakes),
            rejected: read(&self.rejected),
            busy: read(&self.busy),
            announcements_ignored: read(&self.announcements_ignored),
            announcements_flooded: read(&self.announcements_flooded),
            tasks: read(&self.tasks),
            streams: read(&self.streams),
        };
        stats.refused = stats.unknown_scope + stats.bad_handshakes + stats.rejected + stats.busy;
        stats
    }
}
