//! Flags for the sizes of what is written.

use std::str::FromStr;

use clap::Args;
use strand_data_tools::Sizes;

use crate::failure::Failure;

/// Sizes of shards and row groups.
#[derive(Debug, Default, Clone, Args)]
pub struct SizeArgs {
    /// Size of a shard in MB (10⁶ bytes); it is held in memory until it is full [default: 268]
    #[arg(long, value_name = "MB")]
    shard_mb: Option<Megabytes>,
    /// Size from which on a row group, the unit of reading, is full [default: 6]
    #[arg(long, value_name = "MB", conflicts_with = "rows_per_group")]
    row_group_mb: Option<Megabytes>,
    /// Rows of a row group, whatever their size
    #[arg(long, value_name = "N")]
    rows_per_group: Option<usize>,
}

impl SizeArgs {
    pub fn sizes(&self) -> Sizes {
        Sizes {
            rows_per_group: self.rows_per_group,
            group_bytes: self.row_group_mb.map(|size| size.0),
            shard_bytes: self.shard_mb.map(|size| size.0),
        }
    }
}

/// A number of bytes, given in 10⁶.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Megabytes(u64);

impl FromStr for Megabytes {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Megabytes, Failure> {
        let size = text.parse().ok().filter(|size: &f64| size.is_finite() && *size > 0.0);
        let size = size.ok_or_else(|| Failure::usage(format!("`{text}` is not a size in MB")))?;
        Ok(Megabytes((size * 1e6).ceil() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_ten() {
        assert_eq!("256".parse::<Megabytes>().unwrap(), Megabytes(256_000_000));
        assert_eq!("0.5".parse::<Megabytes>().unwrap(), Megabytes(500_000));
        for text in ["0", "-1", "inf", "NaN", "x", ""] {
            assert!(text.parse::<Megabytes>().is_err(), "{text}");
        }
    }
}
