//! Kinds of questions and how they are mixed.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use strand_data::{below, draw};

use crate::ToolsError;

/// What a question asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Which way the shape moves.
    Direction,
    /// Which of two lights flashes first.
    First,
    /// How often the shape turns back.
    Turns,
    /// The colour of the shape.
    Colour,
    /// What the shape is.
    Shape,
    /// How many lights there are.
    Count,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 6] =
        [Kind::Direction, Kind::First, Kind::Turns, Kind::Colour, Kind::Shape, Kind::Count];

    /// The word in the column `kind`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Direction => "direction",
            Kind::First => "first",
            Kind::Turns => "turns",
            Kind::Colour => "colour",
            Kind::Shape => "shape",
            Kind::Count => "count",
        }
    }

    /// Whether the answer needs the order of the frames; the other kinds are static: one frame answers them.
    pub fn is_order(self) -> bool {
        matches!(self, Kind::Direction | Kind::First | Kind::Turns)
    }

    /// Answers that have the same share of the questions of this kind.
    pub(super) fn num_answers(self) -> u64 {
        match self {
            Kind::First => 2,
            Kind::Turns | Kind::Count => 3,
            Kind::Direction | Kind::Shape => 4,
            Kind::Colour => 6,
        }
    }
}

/// Whether a question of the kind with this name (the column `kind`) needs the order of the frames: `direction`,
/// `first` and `turns` do. All else is static.
pub fn is_order(kind: &str) -> bool {
    Kind::ALL.iter().any(|known| known.is_order() && known.name() == kind)
}

/// Weights of the kinds: of `sum` rows one after the other, each kind has exactly its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix(Vec<(Kind, u64)>);

impl Default for Mix {
    /// `direction=4,first=1,turns=1,colour=2,shape=1,count=1`.
    fn default() -> Self {
        Mix(Kind::ALL.into_iter().zip([4, 1, 1, 2, 1, 1]).collect())
    }
}

impl Mix {
    /// Most parts of one mix, so that a weight is a share and not a number of rows.
    const MOST: u64 = 1000;

    /// The kinds with a weight above 0.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        self.0.iter().map(|&(kind, _)| kind)
    }

    /// What row `index` asks: the kind, and which of its answers is right. Pure, and exactly balanced: of as many
    /// questions of a kind in a row as it has answers, each answer is right once.
    pub(super) fn at(&self, seed: u64, split: &str, index: u64) -> (Kind, u64) {
        let sum: u64 = self.0.iter().map(|&(_, weight)| weight).sum();
        let (block, rest) = (index / sum, index % sum);
        let (mut start, mut found) = (0, self.0[0]);
        for &(kind, weight) in &self.0 {
            if start <= rest {
                found = (kind, weight);
                start += weight;
            }
        }
        let (kind, weight) = found;
        let occurrence = block * weight + (rest + weight - start);
        (kind, answer(seed, split, kind, occurrence))
    }
}

/// The right answer of the question number `occurrence` of its kind.
fn answer(seed: u64, split: &str, kind: Kind, occurrence: u64) -> u64 {
    let count = kind.num_answers();
    let mut answers: Vec<u64> = (0..count).collect();
    let purpose = format!("answers of {}", kind.name());
    let mut rng = draw(seed, occurrence / count, split, &purpose);
    for at in (1..count).rev() {
        answers.swap(at as usize, below(&mut rng, at + 1) as usize);
    }
    answers[(occurrence % count) as usize]
}

impl FromStr for Mix {
    type Err = ToolsError;

    /// Reads `direction=4,colour=2`; kinds that are not named do not occur.
    fn from_str(text: &str) -> Result<Mix, ToolsError> {
        let refuse = |reason: String| Err(ToolsError::Options(format!("kinds `{text}`: {reason}")));
        let mut mix = Vec::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name.trim()) else {
                let names = Kind::ALL.map(Kind::name).join(", ");
                return refuse(format!("unknown kind `{}`, the kinds are {names}", name.trim()));
            };
            if mix.iter().any(|&(known, _)| known == kind) {
                return refuse(format!("`{}` is named twice", kind.name()));
            }
            match weight.trim().parse() {
                Ok(0) => {}
                Ok(weight) if weight <= Self::MOST => mix.push((kind, weight)),
                _ => {
                    return refuse(format!(
                        "the weight `{weight}` is not a whole number up to {}",
                        Self::MOST
                    ));
                }
            }
        }
        if mix.is_empty() {
            return refuse("all weights are 0".to_owned());
        }
        Ok(Mix(mix))
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (kind, weight)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}={weight}", kind.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn kinds_and_answers_are_exactly_balanced() {
        let mix: Mix = "direction=3,turns=1".parse().unwrap();
        let mut counts = HashMap::new();
        for index in 0..480 {
            *counts.entry(mix.at(7, "train", index)).or_insert(0) += 1;
        }
        for answer in 0..4 {
            assert_eq!(counts[&(Kind::Direction, answer)], 90);
        }
        for answer in 0..3 {
            assert_eq!(counts[&(Kind::Turns, answer)], 40);
        }
    }

    #[test]
    fn the_mix_reads_what_it_writes() {
        let mix = Mix::default();
        assert_eq!(mix.to_string().parse::<Mix>().unwrap(), mix);
        let some: Mix = " colour = 2, first, shape=0".parse().unwrap();
        assert_eq!(some.to_string(), "colour=2,first=1");
    }

    #[test]
    fn misspelt_mixes_name_the_part() {
        for (text, named) in [
            ("color=1", "`color`"),
            ("", "``"),
            ("colour=x", "`x`"),
            ("colour=1,colour=2", "twice"),
            ("count=0", "all weights"),
            ("count=-1", "`-1`"),
        ] {
            let error = text.parse::<Mix>().expect_err(text);
            assert!(error.to_string().contains(named), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn order_kinds_are_those_that_need_time() {
        let order: Vec<_> =
            Kind::ALL.into_iter().map(Kind::name).filter(|name| is_order(name)).collect();
        assert_eq!(order, ["direction", "first", "turns"]);
        assert!(!is_order("dense") && !is_order(""));
    }
}
