//! An error that knows its exit code and what to do next.

use std::fmt;

/// Wrong arguments.
pub const USAGE: u8 = 2;
/// Something is missing on this machine.
pub const ENVIRONMENT: u8 = 3;
/// Whatever else failed.
pub const FAILED: u8 = 1;

/// An error with the exit code of the project's contract and, where there is one, the next step.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// An error that ends the program with `code`.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message, hint: None }
    }

    /// The same error with its next step.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        let hint = Some(hint.into());
        Self { hint, ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Prints the chain of causes and the hint to stderr; returns the exit code.
pub fn report(error: &anyhow::Error) -> u8 {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  caused by: {cause}");
    }
    let failure = error.downcast_ref::<Failure>();
    if let Some(hint) = failure.and_then(|failure| failure.hint.as_ref()) {
        eprintln!("hint: {hint}");
    }
    failure.map_or(FAILED, |failure| failure.code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_code_survives_added_context() {
        let error = anyhow::Error::new(Failure::new(ENVIRONMENT, "no compiler").hint("install"));
        let error = Err::<(), _>(error).context("setup").unwrap_err();
        assert_eq!(report(&error), ENVIRONMENT);
        assert_eq!(report(&anyhow::anyhow!("other")), FAILED);
    }
}
