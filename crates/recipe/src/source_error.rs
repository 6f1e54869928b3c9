//! Errors of the YAML reader in words that name the place and the way out.

use serde_saphyr::{Error, Location, MessageFormatter, UserMessageFormatter};

use crate::RecipeError;
use crate::suggest;

/// An error of the YAML reader, with the line of `text` that it is about.
pub(crate) fn describe(error: &Error, origin: &str, text: &str) -> RecipeError {
    let error = error.without_snippet();
    let position = error.location().and_then(position);
    let (message, hint) = words(error);
    RecipeError::Syntax {
        origin: origin.to_owned(),
        position,
        message,
        line: position.and_then(|(row, _)| line(text, row)),
        hint,
    }
}

fn position(location: Location) -> Option<(u64, u64)> {
    (location != Location::UNKNOWN).then(|| (location.line(), location.column()))
}

fn line(text: &str, row: u64) -> Option<String> {
    let index = usize::try_from(row).ok()?.checked_sub(1)?;
    text.lines().nth(index).map(|line| line.replace('\t', " "))
}

fn words(error: &Error) -> (String, Option<String>) {
    match error {
        Error::AliasError { error, .. } => words(error),
        Error::SerdeUnknownField { field, expected, .. } => {
            (format!("unknown key `{field}`"), suggest::hint(field, expected.iter().copied()))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            (format!("unknown word `{variant}`"), suggest::hint(variant, expected.iter().copied()))
        }
        Error::SerdeMissingField { field, .. } => {
            (format!("the key `{field}` is missing"), Some(format!("add `{field}:` to this map")))
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            (format!("the key `{key}` stands here twice"), Some("remove one of the two".to_owned()))
        }
        Error::InvalidBooleanStrict { .. } => {
            ("not a truth value".to_owned(), Some("write `true` or `false`".to_owned()))
        }
        Error::InvalidScalar { ty, .. } => (format!("expected {}", kind(ty)), None),
        other => (UserMessageFormatter.format_message(other).into_owned(), None),
    }
}

/// A Rust type in a reader's words.
fn kind(name: &str) -> String {
    let words = match name {
        "bool" => "`true` or `false`",
        _ if name.starts_with(['u', 'i']) && name[1..].parse::<u8>().is_ok() => "a whole number",
        "usize" => "a whole number",
        "f32" | "f64" | "floating point" => "a number",
        _ => name,
    };
    words.to_owned()
}
