//! Sorted maps and sets do what B-trees do, and take encoded bytes with care.

use std::collections::{BTreeMap, BTreeSet};

use iroh_rooms_sorted::{DECODED_MAX, SortedMap, SortedSet};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Insert(u8, u16),
    Remove(u8),
    Add(u8, u16),
    PopFirst,
    PopLast,
    Keep(u8),
    Extract(u16),
    Extend(Vec<(u8, u16)>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<(u8, u16)>().prop_map(|(key, value)| Step::Insert(key, value)),
        3 => any::<u8>().prop_map(Step::Remove),
        3 => any::<(u8, u16)>().prop_map(|(key, value)| Step::Add(key, value)),
        1 => Just(Step::PopFirst),
        1 => Just(Step::PopLast),
        1 => (2u8..5).prop_map(Step::Keep),
        1 => any::<u16>().prop_map(Step::Extract),
        1 => prop::collection::vec(any::<(u8, u16)>(), 0..8).prop_map(Step::Extend),
    ]
}

proptest! {
    #[test]
    fn a_map_is_a_b_tree(steps in prop::collection::vec(step(), 0..200), range in any::<(u8, u8)>()) {
        let mut map = SortedMap::new();
        let mut tree = BTreeMap::new();
        for step in steps {
            match step {
                Step::Insert(key, value) => {
                    prop_assert_eq!(map.insert(key, value), tree.insert(key, value));
                }
                Step::Remove(key) => prop_assert_eq!(map.remove(&key), tree.remove(&key)),
                Step::Add(key, value) => {
                    let sum = map.entry(key).or_default();
                    *sum = u16::wrapping_add(*sum, value);
                    let sum = tree.entry(key).or_default();
                    *sum = u16::wrapping_add(*sum, value);
                }
                Step::PopFirst => prop_assert_eq!(map.pop_first(), tree.pop_first()),
                Step::PopLast => prop_assert_eq!(map.pop_last(), tree.pop_last()),
                Step::Keep(by) => {
                    map.retain(|key, _| key % by == 0);
                    tree.retain(|key, _| key % by == 0);
                }
                Step::Extract(from) => {
                    let taken: Vec<_> = tree.extract_if(.., |_, it| *it >= from).collect();
                    prop_assert!(map.extract_if(|_, it| *it >= from).eq(taken));
                }
                Step::Extend(entries) => {
                    map.extend(entries.clone());
                    tree.extend(entries);
                }
            }
            prop_assert!(map.iter().eq(&tree));
            prop_assert_eq!(map.first_key_value(), tree.first_key_value());
            prop_assert_eq!(map.last_key_value(), tree.last_key_value());
        }
        for key in 0..=u8::MAX {
            prop_assert_eq!(map.get(&key), tree.get(&key));
            prop_assert_eq!(map.contains_key(&key), tree.contains_key(&key));
        }
        let (low, high) = (range.0.min(range.1), range.0.max(range.1));
        prop_assert!(map.range(low..high).eq(tree.range(low..high)));
        prop_assert!(map.range(..=high).rev().eq(tree.range(..=high).rev()));
        prop_assert!(map.range(low..).eq(tree.range(low..)));
    }

    #[test]
    fn a_set_is_a_b_tree(ours: Vec<u8>, theirs: Vec<u8>) {
        let (set, other): (SortedSet<u8>, SortedSet<u8>) =
            (ours.iter().copied().collect(), theirs.iter().copied().collect());
        let (tree, other_tree): (BTreeSet<u8>, BTreeSet<u8>) =
            (ours.into_iter().collect(), theirs.into_iter().collect());
        prop_assert!(set.iter().eq(&tree));
        prop_assert!(set.union(&other).iter().eq(tree.union(&other_tree)));
        prop_assert!(set.intersection(&other).eq(tree.intersection(&other_tree)));
        prop_assert!(set.difference(&other).eq(tree.difference(&other_tree)));
        prop_assert_eq!(set.is_subset(&other), tree.is_subset(&other_tree));
        prop_assert_eq!(set.is_disjoint(&other), tree.is_disjoint(&other_tree));
    }

    #[test]
    fn the_encoding_is_that_of_a_b_tree(tree: BTreeMap<u32, String>, of: BTreeSet<u32>) {
        let map: SortedMap<u32, String> = tree.clone().into_iter().collect();
        let bytes = postcard::to_stdvec(&map).unwrap();
        prop_assert_eq!(&bytes, &postcard::to_stdvec(&tree).unwrap());
        prop_assert_eq!(postcard::from_bytes::<SortedMap<u32, String>>(&bytes).unwrap(), map);
        let set: SortedSet<u32> = of.iter().copied().collect();
        let bytes = postcard::to_stdvec(&set).unwrap();
        prop_assert_eq!(&bytes, &postcard::to_stdvec(&of).unwrap());
        prop_assert_eq!(postcard::from_bytes::<SortedSet<u32>>(&bytes).unwrap(), set);
    }
}

#[test]
fn what_is_not_in_order_is_refused() {
    let bytes = |entries: &[(u32, u8)]| postcard::to_stdvec(entries).unwrap();
    let read = |bytes: &[u8]| postcard::from_bytes::<SortedMap<u32, u8>>(bytes).ok();
    assert!(read(&bytes(&[(1, 0), (2, 0)])).is_some());
    assert!(read(&bytes(&[(2, 0), (1, 0)])).is_none());
    assert!(read(&bytes(&[(1, 0), (1, 1)])).is_none());
    let set = postcard::to_stdvec(&[3u32, 3]).unwrap();
    assert!(postcard::from_bytes::<SortedSet<u32>>(&set[..]).is_err());
}

#[test]
fn no_more_is_decoded_than_the_limit() {
    let most: Vec<u32> = (0..u32::try_from(DECODED_MAX).unwrap()).collect();
    let read = |all: &Vec<u32>| {
        let bytes = postcard::to_stdvec(all).unwrap();
        postcard::from_bytes::<SortedSet<u32>>(&bytes).ok()
    };
    assert_eq!(read(&most).map(|it| it.len()), Some(DECODED_MAX));
    let more: Vec<u32> = (0..=u32::try_from(DECODED_MAX).unwrap()).collect();
    assert!(read(&more).is_none());
}

#[test]
fn a_length_that_is_a_lie_takes_no_memory() {
    let bytes = postcard::to_stdvec(&u64::MAX).unwrap();
    assert!(postcard::from_bytes::<SortedMap<u64, [u8; 32]>>(&bytes).is_err());
    assert!(postcard::from_bytes::<SortedSet<u64>>(&bytes).is_err());
}
