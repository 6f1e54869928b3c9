//! One thing that is wrong in a recipe.

use std::fmt;

use serde::Serialize;

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It runs, but probably not as meant.
    Warning,
    /// It cannot run.
    Error,
}

/// One thing that is wrong in a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Where, as in an override: `stages.base.optimizer.lr`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

/// Collects problems while a recipe is looked through.
#[derive(Debug, Default)]
pub(crate) struct Findings(pub(crate) Vec<Problem>);

impl Findings {
    pub(crate) fn error(
        &mut self,
        path: impl Into<String>,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        self.push(Severity::Error, path.into(), message.into(), hint);
    }

    pub(crate) fn warning(
        &mut self,
        path: impl Into<String>,
        message: impl Into<String>,
        hint: &str,
    ) {
        let hint = Some(hint.to_owned());
        self.push(Severity::Warning, path.into(), message.into(), hint);
    }

    /// A count that must not be zero.
    pub(crate) fn positive(&mut self, path: impl Into<String>, count: usize) {
        if count == 0 {
            self.error(path, "must be at least 1", None);
        }
    }

    /// A number that must be finite and hold to `rule`, which `words` name.
    pub(crate) fn number(
        &mut self,
        path: impl Into<String>,
        value: f64,
        words: &str,
        rule: impl Fn(f64) -> bool,
    ) {
        if !value.is_finite() || !rule(value) {
            self.error(path, format!("must be {words}, not {value}"), None);
        }
    }

    fn push(&mut self, severity: Severity, path: String, message: String, hint: Option<String>) {
        self.0.push(Problem { severity, path, message, hint });
    }
}
