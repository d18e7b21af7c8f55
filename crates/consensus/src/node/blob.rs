//! What is too large for one frame: it travels in chunks, named by the hash of the whole.

use iroh_rooms_sorted::SortedMap;

use serde::{Deserialize, Serialize};

use crate::keys::{Hash, decode, digest, encode};
use crate::limits;
use crate::raft::Snapshot;
use crate::recovery::Base;
use crate::wire::Chunk;

/// What comes in chunks.
#[derive(Serialize, Deserialize)]
pub(super) enum Blob {
    /// A snapshot from the leader of this term.
    Snapshot(u64, Snapshot),
    /// What an epoch goes on from.
    Base(Base),
}

impl Blob {
    /// One from bytes that were named by this hash; or why not.
    pub(super) fn decode(bytes: &[u8], hash: &Hash) -> Result<Self, &'static str> {
        if hash_of(bytes) != *hash {
            return Err("not a chunk");
        }
        decode(bytes).ok_or("malformed")
    }

    /// The hash that names it.
    pub(super) fn hash(&self) -> Hash {
        hash_of(&encode(self))
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        encode(self).len()
    }

    /// The pieces that it travels in.
    pub(super) fn chunks(&self) -> Vec<Chunk> {
        let bytes = encode(self);
        let hash = hash_of(&bytes);
        let piece = |(at, data): (usize, &[u8])| Chunk {
            hash,
            length: bytes.len() as u64,
            offset: (at * limits::CHUNK_BYTES) as u64,
            data: data.to_vec(),
        };
        let pieces = bytes.chunks(limits::CHUNK_BYTES).enumerate();
        pieces.map(piece).collect()
    }
}

fn hash_of(bytes: &[u8]) -> Hash {
    digest("iroh-rooms/blob/1", &[bytes])
}

/// Whether it can be a piece of something that is not too large.
pub(super) fn is_chunk(chunk: &Chunk) -> bool {
    let size = limits::CHUNK_BYTES as u64;
    let left = chunk.length.saturating_sub(chunk.offset);
    chunk.length <= limits::SNAPSHOT_BYTES as u64
        && chunk.offset.is_multiple_of(size)
        && chunk.data.len() as u64 == left.min(size)
        && left > 0
}

/// Something on its way in.
pub(super) struct Assembly {
    pub(super) hash: Hash,
    length: u64,
    chunks: SortedMap<u64, Vec<u8>>,
}

impl Assembly {
    /// What a piece is of, without that piece.
    pub(super) fn new(chunk: &Chunk) -> Self {
        Self {
            hash: chunk.hash,
            length: chunk.length,
            chunks: SortedMap::new(),
        }
    }

    /// Takes a piece that [`is_chunk`]; the whole, if it was the last one.
    pub(super) fn add(&mut self, chunk: Chunk) -> Option<Vec<u8>> {
        self.chunks.insert(chunk.offset, chunk.data);
        let have: usize = self.chunks.values().map(Vec::len).sum();
        if have as u64 != self.length || self.length != chunk.length {
            return None;
        }
        let chunks = std::mem::take(&mut self.chunks);
        Some(chunks.into_values().flatten().collect())
    }
}
