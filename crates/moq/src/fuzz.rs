//! Targets of `npm run fuzz`: names that peers announce, numbers of groups that they send, and the order in
//! which their connections come and go.

use std::{collections::BTreeSet, time::Duration};

use n0_future::time::Instant;

use crate::{
    announced::split,
    gaps::Gaps,
    scope::{MAX_NAME_BYTES, MAX_NAME_PARTS, check_name},
    sessions::world::{Step, World},
};

/// A name, and what takes any bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of this crate.
pub const TARGETS: &[Target] = &[("moq", announced_and_sent), ("moq-sessions", sessions)];

fn announced_and_sent(data: &[u8]) {
    names(data);
    gaps(data);
}

/// A path as announced: taken apart it is the same, and what is good keeps to the limits.
fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some((_, name)) = split(&text) {
        assert!(text.ends_with(&format!("/{name}")));
    }
    if check_name(&text).is_ok() {
        assert!((1..=MAX_NAME_BYTES).contains(&text.len()));
        assert!(text.split('/').count() <= MAX_NAME_PARTS);
        assert!(!text.contains('*') && !text.starts_with(['.', '/']) && !text.ends_with('/'));
    }
}

/// Numbers in any order: each is handed out once, missing, or given up and counted once.
fn gaps(data: &[u8]) {
    let now = Instant::now();
    let mut gaps = Gaps::new(None);
    let mut come = BTreeSet::new();
    let (mut highest, mut first) = (0, None);
    for &[kind, low, high] in data.as_chunks::<3>().0 {
        let number = u64::from(low) << (high % 56);
        match kind % 8 {
            0 => gaps.give_up_first(),
            1 => gaps.expire(
                now + Duration::from_secs(u64::from(low)),
                Duration::from_secs(9),
            ),
            2 => gaps.give_up_below(number),
            _ => {
                if gaps.arrived(number, now) {
                    assert!(come.insert(number), "{number} twice");
                    first.get_or_insert(number);
                    highest = highest.max(number);
                }
            }
        }
        assert!(gaps.first().is_none_or(|run| run.first < highest));
    }
    gaps.give_up_below(u64::MAX);
    assert_eq!(gaps.first(), None);
    if let Some(first) = first {
        assert_eq!(gaps.lagged() + come.len() as u64, highest - first + 1);
    }
}

/// Two bytes are a step: everybody who asks is answered once, and one connection stands.
fn sessions(data: &[u8]) {
    let Some((lower, steps)) = data.split_first() else {
        return;
    };
    let mut world = World::new(lower % 2 == 0);
    for &[kind, number] in steps.as_chunks::<2>().0 {
        let index = usize::from(number);
        world.step(match kind % 9 {
            0 => Step::Connect,
            1 => Step::GiveUp(index),
            2 => Step::Dialled,
            3 => Step::DialFailed,
            4 => Step::Accepted,
            5 => Step::CloseAny(index),
            6 => Step::Deafen(index),
            7 => Step::Disconnect,
            _ => Step::Wait(u64::from(number) * 16),
        });
    }
    world.rest();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_nothing_in_a_few_tries(data in prop::collection::vec(any::<u8>(), 0..300)) {
            super::announced_and_sent(&data);
            super::sessions(&data);
        }
    }
}
