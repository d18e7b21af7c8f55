//! The fuzz targets of all crates. Each crate has its own in `src/fuzz.rs`, next to what they
//! test, and compiles them only for this one.

/// All targets. Each takes any bytes, and panics when it has found something.
#[cfg(fuzzing)]
pub fn targets() -> impl Iterator<Item = &'static (&'static str, fn(&[u8]))> {
    [
        iroh_rooms_consensus::fuzz::TARGETS,
        iroh_rooms_kv::fuzz::TARGETS,
        iroh_rooms_moq::fuzz::TARGETS,
        iroh_rooms::fuzz::TARGETS,
    ]
    .into_iter()
    .flatten()
}
