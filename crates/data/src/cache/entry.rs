//! What is kept: a range of bytes that the manifest vouches for.

use bytes::Bytes;
use strand_store::xxh3;

use crate::manifest::{Group, Manifest, Shard};

/// A range of bytes, by its checksum and its place in a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    name: String,
    bytes: u64,
    /// So many bytes from the start have this XXH3-64.
    hashed: u64,
    xxh3: u64,
}

impl CacheEntry {
    /// A row group of a data set.
    pub fn group(manifest: &Manifest, shard: usize, index: usize, group: &Group) -> CacheEntry {
        let place = format!("{}/{shard}/{index}", manifest.id);
        CacheEntry::new(&place, group.bytes, group.bytes, group.xxh3.0)
    }

    /// The footer of a shard and the 8 bytes behind it.
    pub fn footer(manifest: &Manifest, index: usize, shard: &Shard) -> CacheEntry {
        let range = shard.footer_range();
        let place = format!("{}/{index}/footer", manifest.id);
        CacheEntry::new(&place, range.end - range.start, shard.footer_bytes, shard.footer_xxh3.0)
    }

    /// The place goes into the name beside the checksum: two ranges of one checksum are no more one file than they
    /// are one range.
    fn new(place: &str, bytes: u64, hashed: u64, sum: u64) -> CacheEntry {
        let name = format!("{sum:016x}-{:016x}", xxh3(place.as_bytes()));
        CacheEntry { name, bytes, hashed, xxh3: sum }
    }

    /// Name of its file.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether these are its bytes.
    pub(crate) fn is_of(&self, found: &Bytes) -> bool {
        let hashed = found.get(..self.hashed as usize);
        found.len() as u64 == self.bytes && hashed.is_some_and(|bytes| xxh3(bytes) == self.xxh3)
    }
}

/// Whether a file has a name that this module gives.
pub(super) fn is_entry_name(name: &str) -> bool {
    let is_hex = |part: &str| {
        part.len() == 16 && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    name.split_once('-').is_some_and(|(sum, place)| is_hex(sum) && is_hex(place))
}
