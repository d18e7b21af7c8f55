//! Whole rooms in one process. One seed is one run: who is there, what they propose, what the
//! network and the machines do to them, and when. After the chaos everything heals, and the room has
//! to come together again.
//!
//! [`run`] returns what happened, or the first invariant that did not hold; the same seed always
//! gives the same answer.

pub mod check;
pub mod model;
pub mod world;

pub use check::{Rule, Violation};
pub use world::{Options, Report, run};

/// Seeds that once failed. What they show changes with the simulator, so they are kept for what they
/// cost, which is little.
pub const KNOWN: &[u64] = &[
    29, 279, 407, 466, 1_351, 2_078, 162_469, 176_568, 1_000_616, 1_001_833,
];

/// A small random generator (splitmix64): the same numbers for the same seed, everywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// A number in a range.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len().max(1) as u64) as usize)
    }
}
