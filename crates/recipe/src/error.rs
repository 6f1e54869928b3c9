//! What can go wrong between a recipe file and a run.

use std::fmt;
use std::path::PathBuf;

use crate::Problem;

/// A recipe that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{}: cannot read the recipe", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not YAML, or not a recipe.
    #[error("{}", Excerpt(self))]
    Syntax {
        /// The file, or what the text is.
        origin: String,
        /// Line and column, both from 1; `None` where the whole text is meant.
        position: Option<(u64, u64)>,
        /// What is wrong.
        message: String,
        /// The line of the file.
        line: Option<String>,
        /// What to do about it.
        hint: Option<String>,
    },
    /// An override (`a.b=v`) that does not fit.
    #[error("override `{argument}`: {reason}")]
    Override {
        /// As given.
        argument: String,
        /// What is wrong.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The recipe reads well but cannot work.
    #[error("recipe `{name}`: {}", listing(problems))]
    Invalid {
        /// The recipe's name.
        name: String,
        /// Everything that is wrong.
        problems: Vec<Problem>,
    },
    /// A recipe that cannot be written down.
    #[error("recipe `{name}`: cannot be written as text: {reason}")]
    Serialize {
        /// The recipe's name.
        name: String,
        /// What the serializer said.
        reason: String,
    },
    /// A `config.json` of Hugging Face that describes another model, or one that is not known here.
    #[error("{url}: {}", lines(reasons))]
    Config {
        /// The file.
        url: String,
        /// Everything that is wrong.
        reasons: Vec<String>,
        /// What to do about it.
        hint: Option<String>,
    },
    /// dp × tp does not fill the world.
    #[error("world size {world_size}: {reason}")]
    World {
        /// Ranks.
        world_size: usize,
        /// What does not fit.
        reason: String,
        /// What to do about it.
        hint: String,
    },
}

impl RecipeError {
    /// What to do next, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => {
                Some("give the path of a recipe, for example recipes/demo.yaml".into())
            }
            Self::Syntax { hint, .. } | Self::Override { hint, .. } | Self::Config { hint, .. } => {
                hint.clone()
            }
            Self::Invalid { problems, .. } => match problems.as_slice() {
                [only] => only.hint.clone(),
                _ => None,
            },
            Self::Serialize { .. } => {
                Some("please report this recipe: it is a defect of strand".into())
            }
            Self::World { hint, .. } => Some(hint.clone()),
        }
    }

    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> u8 {
        2
    }
}

/// One problem stands in the same line; several stand in a list, each with its hint.
fn listing(problems: &[Problem]) -> String {
    if let [only] = problems {
        return format!("{}: {}", only.path, only.message);
    }
    let mut text = format!("{} problems", problems.len());
    for problem in problems {
        text.push_str(&format!("\n  {problem}"));
    }
    text
}

/// One reason stands in the same line, several in a list.
fn lines(reasons: &[String]) -> String {
    match reasons {
        [only] => only.clone(),
        _ => format!("{} problems\n  {}", reasons.len(), reasons.join("\n  ")),
    }
}

struct Excerpt<'a>(&'a RecipeError);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecipeError::Syntax { origin, position, message, line, .. } = self.0 else {
            return Ok(());
        };
        let Some((row, column)) = position else {
            return write!(f, "{origin}: {message}");
        };
        write!(f, "{origin}:{row}:{column}: {message}")?;
        let Some(line) = line else { return Ok(()) };
        let number = row.to_string();
        let gutter = " ".repeat(number.len());
        let indent = " ".repeat(column.saturating_sub(1) as usize);
        write!(f, "\n  {number} | {line}\n  {gutter} | {indent}^")
    }
}
