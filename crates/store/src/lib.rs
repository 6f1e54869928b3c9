//! Files and objects behind one URL.
//!
//! A [`Location`] is a folder: a local path, a `file://` URL or an `s3://bucket/prefix` URL. Paths given to its
//! methods are relative to it, with `/` between names. Every write is atomic: readers see the old object, the new
//! one or none, never a part of one.

use std::hash::Hasher;

use twox_hash::XxHash3_64;

mod buffers;
#[cfg(test)]
mod conformance;
mod error;
mod local;
mod location;
mod pace;
mod patience;
mod ranges;
mod read;
mod remote;
mod traffic;
mod write;

pub use buffers::{ALIGNMENT, Block, Buffer, Memory, Ordinary, Pool};
pub use error::StoreError;
pub use local::LocalFile;
pub use location::Location;
pub use read::Entry;
pub use traffic::Traffic;

/// XXH3-64 of some bytes (seed 0), the checksum that shards and checkpoints carry.
pub fn xxh3(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// [`xxh3`] of bytes that come in pieces.
#[derive(Clone, Default)]
pub struct Xxh3Hasher(XxHash3_64);

impl Xxh3Hasher {
    /// Takes the next piece in.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.write(piece);
    }

    /// The checksum of all pieces so far.
    pub fn digest(&self) -> u64 {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn xxh3_never_changes() {
        assert_eq!(super::xxh3(b""), 0x2d06_8005_38d3_94c2);
        let bytes: Vec<u8> = (0..3000_u32).map(|at| (at % 7) as u8).collect();
        let mut pieces = super::Xxh3Hasher::default();
        bytes.chunks(999).for_each(|piece| pieces.update(piece));
        assert_eq!(pieces.digest(), super::xxh3(&bytes));
    }
}
