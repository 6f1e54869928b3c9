//! A number of bytes as people write it: `20GiB`, `500MB`, `1048576`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The units, greatest first, so that a size is shown in the greatest that divides it.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size: write a number and a unit, as in 20GiB or 500MB")]
pub struct BadSize(String);

impl FromStr for ByteSize {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<ByteSize, BadSize> {
        let bad = || BadSize(text.to_owned());
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
        let unit = text[digits.len()..].trim();
        let known = |(name, _): &&(&str, u64)| name.eq_ignore_ascii_case(unit);
        let scale = match unit {
            "" => 1,
            _ => UNITS.iter().find(known).ok_or_else(bad)?.1,
        };
        let bytes = match digits.parse::<u64>() {
            Ok(whole) => whole.checked_mul(scale),
            Err(_) => digits
                .parse::<f64>()
                .ok()
                .map(|part| part * scale as f64)
                .filter(|bytes| (0.0..u64::MAX as f64).contains(bytes))
                .map(|bytes| bytes.round() as u64),
        };
        bytes.map(ByteSize).ok_or_else(bad)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, scale)| self.0.is_multiple_of(*scale) && self.0 > 0);
        let (name, scale) = unit.unwrap_or(&("B", 1));
        write!(f, "{}{name}", self.0 / scale)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        let cases = [
            ("20GiB", 20 << 30, "20GiB"),
            ("500 mb", 500_000_000, "500MB"),
            ("1.5GiB", 3 << 29, "1536MiB"),
            ("1048576", 1 << 20, "1MiB"),
            ("7B", 7, "7B"),
            ("0", 0, "0B"),
        ];
        for (text, bytes, shown) in cases {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown));
            assert_eq!(shown.parse(), Ok(size));
        }
        for text in ["", "GiB", "-1GB", "20 parsecs", "1e30TB", "nanGB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
