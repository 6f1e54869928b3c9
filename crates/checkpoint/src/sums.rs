//! Checksums of blocks, written as 16 hexadecimal digits (64-bit numbers in JSON lose digits in many readers).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use strand_store::xxh3;

/// Bytes that share a checksum: what a reader of a slice fetches at least, so that all it uses is checked.
pub const BLOCK_BYTES: u64 = 4 << 20;

/// An XXH3-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum(pub u64);

impl Sum {
    /// The checksum of some bytes.
    pub fn of(bytes: &[u8]) -> Sum {
        Sum(xxh3(bytes))
    }

    /// One for each block, the last block may be short; none for no bytes.
    pub(crate) fn of_blocks(bytes: &[u8], block: u64) -> Vec<Sum> {
        bytes.chunks(block as usize).map(Sum::of).collect()
    }

    /// 16 digits, lower case.
    pub fn to_hex(self) -> String {
        format!("{:016x}", self.0)
    }

    /// The inverse of [`Sum::to_hex`]; nothing else is accepted.
    pub fn from_hex(text: &str) -> Option<Sum> {
        let plain = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if text.len() != 16 || !text.bytes().all(plain) {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(Sum)
    }
}

impl Serialize for Sum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for Sum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Sum::from_hex(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("`{text}` is not 16 hexadecimal digits"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_one_to_one() {
        assert_eq!(Sum::from_hex(&Sum(0xab).to_hex()), Some(Sum(0xab)));
        for bad in ["", "ab", "00000000000000AB", "+0000000000000ab"] {
            assert_eq!(Sum::from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn blocks_cover_all_bytes() {
        let bytes = [1u8, 2, 3, 4, 5];
        let sums = Sum::of_blocks(&bytes, 2);
        assert_eq!(sums, [Sum::of(&[1, 2]), Sum::of(&[3, 4]), Sum::of(&[5])]);
        assert!(Sum::of_blocks(&[], 2).is_empty());
    }
}
