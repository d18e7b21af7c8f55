//! Which groups a reader misses. Sans-IO: time comes in.
//!
//! Groups are counted up and each travels in a stream of its own, so later ones overtake. A number
//! below the highest that has not come is missing: it may be under way, or be given up by its
//! writer, which nobody is told. What is given up here is counted, once.

use std::time::Duration;

use iroh_rooms_sorted::SortedMap;
use n0_future::time::Instant;

/// Separate runs of missing numbers; beyond, the lowest is given up.
const MAX_RUNS: usize = 256;

/// The groups that a reader has not seen.
#[derive(Debug)]
pub(crate) struct Gaps {
    /// One past the highest number seen; before that, where to start.
    next: Option<u64>,
    /// By first number.
    missing: SortedMap<u64, Run>,
    started: bool,
    /// Numbers may belong to datagrams, which get lost.
    datagrams: bool,
    lagged: u64,
}

/// Missing numbers in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    /// Exclusive.
    end: u64,
    /// When the run was noticed, or when the last number next to it came.
    since: Instant,
    /// What lies before the first group that came may never have been there for this reader.
    pub(crate) promised: bool,
}

impl Gaps {
    /// `start` is the lowest number wanted; without, that of the first to come.
    pub(crate) fn new(start: Option<u64>) -> Self {
        Self {
            next: start,
            missing: SortedMap::new(),
            started: false,
            datagrams: false,
            lagged: 0,
        }
    }

    /// How many were given up.
    pub(crate) fn lagged(&self) -> u64 {
        self.lagged
    }

    /// A group came that cannot be read whole.
    pub(crate) fn lost_one(&mut self) {
        self.lagged = self.lagged.saturating_add(1);
    }

    /// A datagram took the number.
    pub(crate) fn datagram(&mut self, number: u64, now: Instant) {
        self.datagrams = true;
        self.arrived(number, now);
    }

    /// Whether datagrams are counted together with the groups.
    pub(crate) fn has_datagrams(&self) -> bool {
        self.datagrams
    }

    /// A group came. False if it was given up before, or came before.
    pub(crate) fn arrived(&mut self, number: u64, now: Instant) -> bool {
        let promised = std::mem::replace(&mut self.started, true);
        let next = self.next.unwrap_or(number);
        if number >= next {
            self.insert(next, number, now, promised);
            self.next = Some(number.saturating_add(1));
            return true;
        }
        let run = self.missing.range(..=number).next_back();
        let Some(run) = run.map(|(_, run)| *run).filter(|run| number < run.end) else {
            return false;
        };
        self.missing.remove(&run.first);
        self.insert(run.first, number, now, run.promised);
        self.insert(number.saturating_add(1), run.end, now, run.promised);
        true
    }

    fn insert(&mut self, first: u64, end: u64, since: Instant, promised: bool) {
        if first >= end {
            return;
        }
        let run = Run {
            first,
            end,
            since,
            promised,
        };
        self.missing.insert(first, run);
        if self.missing.len() > MAX_RUNS {
            self.give_up_first();
        }
    }

    /// The lowest missing numbers.
    pub(crate) fn first(&self) -> Option<Run> {
        self.missing.values().next().copied()
    }

    /// Gives up the lowest missing numbers.
    pub(crate) fn give_up_first(&mut self) {
        if let Some((_, run)) = self.missing.pop_first()
            && run.promised
            && !self.datagrams
        {
            self.lagged = self.lagged.saturating_add(run.end - run.first);
        }
    }

    /// Gives up what is missing below `number`.
    pub(crate) fn give_up_below(&mut self, number: u64) {
        while self.first().is_some_and(|run| run.first < number) {
            self.give_up_first();
        }
    }

    /// Gives up what has been missing for `patience`.
    pub(crate) fn expire(&mut self, now: Instant, patience: Duration) {
        while self.first().is_some_and(|run| run.due(patience) <= now) {
            self.give_up_first();
        }
    }

    /// The track ends before `end`; everything else will not come by itself.
    pub(crate) fn ends(&mut self, end: u64, now: Instant) {
        if self.started
            && let Some(next) = self.next
            && next < end
        {
            self.insert(next, end, now, true);
            self.next = Some(end);
        }
    }
}

impl Run {
    /// When it has been missing for `patience`.
    pub(crate) fn due(&self, patience: Duration) -> Instant {
        self.since + patience
    }
}

#[cfg(test)]
mod tests {
    use iroh_rooms_sorted::SortedSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_overtaken_is_missing_until_it_comes() {
        let now = Instant::now();
        let mut gaps = Gaps::new(None);
        assert!(gaps.arrived(10, now));
        assert!(gaps.arrived(14, now));
        assert_eq!(gaps.first().map(|run| (run.first, run.end)), Some((11, 14)));
        assert!(gaps.arrived(12, now));
        assert!(!gaps.arrived(12, now), "twice");
        assert!(gaps.arrived(11, now));
        assert_eq!(gaps.first().map(|run| (run.first, run.end)), Some((13, 14)));
        gaps.expire(now, Duration::from_secs(1));
        assert_eq!(gaps.lagged(), 0);
        gaps.expire(now + Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!((gaps.lagged(), gaps.first()), (1, None));
        assert!(!gaps.arrived(13, now), "given up");
    }

    #[test]
    fn what_was_never_promised_does_not_count() {
        let now = Instant::now();
        let mut gaps = Gaps::new(Some(0));
        assert!(gaps.arrived(5000, now));
        assert!(gaps.arrived(4999, now), "it may still come");
        gaps.give_up_below(5000);
        assert_eq!(gaps.lagged(), 0);
        gaps.ends(5003, now);
        gaps.give_up_first();
        assert_eq!(gaps.lagged(), 2);
    }

    #[test]
    fn lost_datagrams_do_not_count() {
        let now = Instant::now();
        let mut gaps = Gaps::new(None);
        gaps.arrived(0, now);
        gaps.datagram(1, now);
        gaps.arrived(3, now);
        gaps.give_up_below(3);
        assert_eq!((gaps.lagged(), gaps.first()), (0, None));
    }

    #[test]
    fn absurd_numbers_are_ordinary() {
        let now = Instant::now();
        let mut gaps = Gaps::new(Some(u64::MAX));
        assert!(!gaps.arrived(7, now));
        assert!(gaps.arrived(u64::MAX, now));
        let mut gaps = Gaps::new(Some(0));
        gaps.arrived(0, now);
        for number in 0..10_000 {
            gaps.arrived(number * 1_000_000_000_000, now);
        }
        assert!(gaps.missing.len() <= MAX_RUNS);
        gaps.arrived((1 << 62) - 1, now);
        gaps.give_up_below(u64::MAX);
        assert_eq!(gaps.first(), None);
    }

    proptest! {
        /// Each number below the highest is in one of three states: come, missing, given up.
        #[test]
        fn every_number_is_accounted_for(numbers in prop::collection::vec(0u64..200, 1..100), give_up in 0usize..100) {
            let now = Instant::now();
            let mut gaps = Gaps::new(None);
            let mut come = SortedSet::new();
            let first = numbers[0];
            for (step, number) in numbers.iter().enumerate() {
                if gaps.arrived(*number, now) {
                    prop_assert!(come.insert(*number));
                }
                if step == give_up {
                    gaps.give_up_first();
                }
            }
            let highest = *come.last().unwrap();
            let missing: u64 = gaps.missing.values().map(|run| run.end - run.first).sum();
            let all = highest - first + 1;
            prop_assert_eq!(come.len() as u64 + missing + gaps.lagged(), all);
            gaps.give_up_below(u64::MAX);
            prop_assert_eq!(gaps.lagged(), all - come.len() as u64);
        }
    }
}
