//! Settings that several tools share.

use std::str::FromStr;

use strand_data::WriterOptions;

use crate::ToolsError;

/// Sizes of what is written; what is not given is as [`WriterOptions::new`] has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of a row group, whatever their size.
    pub rows_per_group: Option<usize>,
    /// Bytes from which on a row group is full.
    pub group_bytes: Option<u64>,
    /// Bytes from which on a shard is full.
    pub shard_bytes: Option<u64>,
}

impl Sizes {
    /// Options with these sizes.
    pub fn apply(self, options: WriterOptions) -> WriterOptions {
        WriterOptions {
            rows_per_group: self.rows_per_group,
            group_bytes: self.group_bytes.unwrap_or(options.group_bytes),
            shard_bytes: self.shard_bytes.unwrap_or(options.shard_bytes),
            ..options
        }
    }
}

/// How many items may be passed over before it is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(Option<usize>);

impl Budget {
    /// Nothing is passed over.
    pub const NONE: Budget = Budget(Some(0));

    /// Whether so many are within it.
    pub fn allows(self, count: usize) -> bool {
        self.0.is_none_or(|most| count <= most)
    }
}

impl FromStr for Budget {
    type Err = ToolsError;

    /// Reads a number or `all`.
    fn from_str(text: &str) -> Result<Budget, ToolsError> {
        let refuse = |_| ToolsError::Options(format!("`{text}` is neither a number nor `all`"));
        match text {
            "all" => Ok(Budget(None)),
            _ => Ok(Budget(Some(text.parse().map_err(refuse)?))),
        }
    }
}

impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(most) => write!(f, "{most}"),
            None => f.write_str("all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_read_what_they_write() {
        for text in ["0", "3", "all"] {
            assert_eq!(text.parse::<Budget>().unwrap().to_string(), text);
        }
        assert!("-1".parse::<Budget>().is_err() && "".parse::<Budget>().is_err());
        let three: Budget = "3".parse().unwrap();
        assert!(three.allows(3) && !three.allows(4) && !Budget::NONE.allows(1));
    }
}
