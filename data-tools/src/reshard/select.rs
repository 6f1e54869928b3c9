//! Which rows go where: decided by each row alone, so that it stays the same however the rows are laid out.

use std::str::FromStr;

use rand::Rng;
use regex::Regex;
use strand_data::{Media, Row, draw};

use crate::ToolsError;

/// What a row must be like to be taken; what is not given holds for all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Kinds of questions; pairs of other kinds are left out, and rows that have none left.
    pub kinds: Vec<String>,
    /// Video or image.
    pub media: Option<Media>,
    /// Number of frames.
    pub frames: Option<Between>,
    /// What the id has to match somewhere.
    pub id: Option<Regex>,
    /// What the name of the video has to match somewhere.
    pub video: Option<Regex>,
}

impl Filter {
    /// The row as it is taken; `None` where it is not.
    pub fn take(&self, mut row: Row) -> Option<Row> {
        let matches = |pattern: &Option<Regex>, text: &str| {
            pattern.as_ref().is_none_or(|pattern| pattern.is_match(text))
        };
        let wanted = self.media.is_none_or(|media| media == row.media)
            && self.frames.is_none_or(|frames| frames.contains(row.frames))
            && matches(&self.id, &row.id)
            && matches(&self.video, &row.video);
        if !self.kinds.is_empty() {
            row.qa.retain(|pair| self.kinds.contains(&pair.kind));
        }
        (wanted && !row.qa.is_empty()).then_some(row)
    }
}

/// A least and a greatest number, both allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between {
    least: usize,
    most: usize,
}

impl Between {
    fn contains(self, number: usize) -> bool {
        (self.least..=self.most).contains(&number)
    }
}

impl FromStr for Between {
    type Err = ToolsError;

    /// Reads `8`, `8..64`, `8..` or `..64`.
    fn from_str(text: &str) -> Result<Between, ToolsError> {
        let bound = |text: &str, open: usize| match text {
            "" => Some(open),
            _ => text.parse().ok(),
        };
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let bounds = bound(least, 0).zip(bound(most, usize::MAX));
        match bounds {
            Some((least, most)) if least <= most && !text.is_empty() => Ok(Between { least, most }),
            _ => Err(ToolsError::Options(format!(
                "`{text}` is not a range such as 8..64, 8.. or ..64"
            ))),
        }
    }
}

/// A part of the rows, chosen by a hash of their ids: smaller subsets of one seed lie within larger ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Subset {
    /// So many rows.
    Rows(u64),
    /// About this share of them.
    Share(f64),
}

impl FromStr for Subset {
    type Err = ToolsError;

    /// Reads `1000`, `0.1` or `10%`.
    fn from_str(text: &str) -> Result<Subset, ToolsError> {
        let share = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().map(|percent: f64| percent / 100.0),
            None => text.parse().ok().filter(|_| text.contains('.')),
        };
        match (text.parse(), share) {
            (Ok(rows @ 1..), _) => Ok(Subset::Rows(rows)),
            (_, Some(share)) if share > 0.0 && share <= 1.0 => Ok(Subset::Share(share)),
            _ => Err(ToolsError::Options(format!(
                "`{text}` is neither a number of rows nor a share such as 0.1 or 10%"
            ))),
        }
    }
}

/// Shares of the rows by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Split(Vec<(String, f64)>);

impl Split {
    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The number of the part that a row belongs to.
    pub fn part(&self, seed: u64, id: &str) -> usize {
        let place = unit(seed, id, "split");
        let mut end = 0.0;
        let ends = self.0.iter().map(|(_, share)| {
            end += share;
            end
        });
        // Rounding may leave a gap before 1: it belongs to the last part.
        ends.take(self.0.len() - 1).filter(|&end| place >= end).count()
    }
}

impl FromStr for Split {
    type Err = ToolsError;

    /// Reads `train=0.95,held_out=0.05`.
    fn from_str(text: &str) -> Result<Split, ToolsError> {
        let refuse = |reason: String| ToolsError::Options(format!("split `{text}`: {reason}"));
        let mut parts: Vec<(String, f64)> = Vec::new();
        for part in text.split(',') {
            let (name, share) = part.split_once('=').unwrap_or((part, ""));
            let share = share.parse().ok().filter(|share: &f64| *share > 0.0 && *share <= 1.0);
            let share = share.ok_or_else(|| refuse(format!("`{part}` is not NAME=SHARE")))?;
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            if name.is_empty() || !name.bytes().all(plain) {
                return Err(refuse(format!("`{name}` is not a plain name")));
            }
            if parts.iter().any(|(known, _)| known == name) {
                return Err(refuse(format!("`{name}` is there twice")));
            }
            parts.push((name.to_owned(), share));
        }
        let sum: f64 = parts.iter().map(|(_, share)| share).sum();
        match (sum - 1.0).abs() < 1e-6 {
            true => Ok(Split(parts)),
            false => {
                Err(refuse(format!("the shares add up to {sum}, not to 1: use --subset for less")))
            }
        }
    }
}

/// A number in 0..1 for an id.
pub fn unit(seed: u64, id: &str, purpose: &str) -> f64 {
    (draw(seed, 0, id, purpose).next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Where an id stands among all ids of a subset: 128 bits, so that no two are the same in vain.
pub fn rank(seed: u64, id: &str) -> u128 {
    let mut rng = draw(seed, 0, id, "subset");
    u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_subsets_and_splits_are_read() {
        let between = |text: &str| text.parse::<Between>().ok();
        assert_eq!(between("8"), Some(Between { least: 8, most: 8 }));
        assert_eq!(between("..8"), Some(Between { least: 0, most: 8 }));
        assert!(between("2..").is_some_and(|range| range.contains(99) && !range.contains(1)));
        for text in ["", "9..8", "a", "1..b", "-1"] {
            assert_eq!(between(text), None, "{text}");
        }
        assert_eq!("1000".parse::<Subset>().unwrap(), Subset::Rows(1000));
        assert_eq!("0.5".parse::<Subset>().unwrap(), Subset::Share(0.5));
        assert_eq!("10%".parse::<Subset>().unwrap(), Subset::Share(0.1));
        assert_eq!("1.0".parse::<Subset>().unwrap(), Subset::Share(1.0));
        for text in ["0", "0.0", "1.5", "101%", "-1", "x", ""] {
            assert!(text.parse::<Subset>().is_err(), "{text}");
        }
        for (text, reason) in [
            ("a=0.5", "add up to 0.5"),
            ("a=0.5,a=0.5", "there twice"),
            ("a=0.5,../b=0.5", "not a plain name"),
            ("a", "not NAME=SHARE"),
            ("a=2", "not NAME=SHARE"),
        ] {
            let error = text.parse::<Split>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn parts_have_their_shares_and_never_change() {
        let split: Split = "train=0.9,held_out=0.1".parse().unwrap();
        let parts: Vec<usize> =
            (0..10_000).map(|id| split.part(3, &format!("clip-{id}"))).collect();
        let held_out = parts.iter().filter(|&&part| part == 1).count();
        assert!((900..1100).contains(&held_out), "{held_out}");
        assert_eq!(parts[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!((0..1000).any(|id| split.part(4, &format!("clip-{id}")) != parts[id]));
    }
}
