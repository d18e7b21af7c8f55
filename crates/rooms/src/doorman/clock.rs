//! The time that consensus lives by.

use n0_future::time::{Duration, Instant, SystemTime};

/// Milliseconds since 1970 that never go back. What a machine slept through counts, where one of its
/// clocks tells.
pub(super) struct Clock {
    now: Duration,
    wall: Duration,
    steady: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        let wall = wall();
        Self {
            now: wall,
            wall,
            steady: Instant::now(),
        }
    }

    pub(super) fn now(&mut self) -> u64 {
        let (wall, steady) = (wall(), Instant::now());
        // A wall clock that is set back says nothing, and the steady one may stop in a sleep.
        let passed = steady.saturating_duration_since(self.steady);
        self.now += passed.max(wall.saturating_sub(self.wall));
        (self.wall, self.steady) = (wall, steady);
        u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX)
    }
}

fn wall() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}
