//! Errors of the command line: what to do about them, and what to exit with.

use std::error::Error;

use serde_json::{Value, json};
use strand_checkpoint::CheckpointError;
use strand_checkpoint::weights::WeightsError;
use strand_control::{ExitCode, FileError, LaunchError, SyncError};
use strand_data::DataError;
use strand_data_tools::ToolsError;
use strand_recipe::RecipeError;
use strand_store::StoreError;
use strand_telemetry::TelemetryError;

/// An error that only the command line knows.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    message: String,
    hint: Option<String>,
    exit: ExitCode,
    details: Value,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    pub fn new(exit: ExitCode, message: impl Into<String>) -> Failure {
        let message = message.into();
        Failure { message, hint: None, exit, details: Value::Null, source: None }
    }

    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(ExitCode::Usage, message)
    }

    pub fn environment(message: impl Into<String>) -> Failure {
        Failure::new(ExitCode::Environment, message)
    }

    /// The error behind it.
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        self.source = Some(source.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// More for the JSON document.
    pub fn details(mut self, details: Value) -> Failure {
        self.details = details;
        self
    }
}

/// What an error means to whoever typed the command.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    /// What to exit with.
    pub exit: ExitCode,
    /// What to do about it.
    pub hint: Option<String>,
    /// More for the JSON document.
    pub details: Value,
}

/// Looks through an error and its causes for the first that knows its exit code, and the first with a hint.
pub fn verdict(error: &anyhow::Error) -> Verdict {
    let known: Vec<Verdict> = error.chain().filter_map(one).collect();
    let exit = known.first().map_or(ExitCode::Failed, |verdict| verdict.exit);
    let details = known.iter().map(|verdict| &verdict.details).find(|details| !details.is_null());
    Verdict {
        exit,
        details: details.cloned().unwrap_or_default(),
        hint: known.iter().find_map(|verdict| verdict.hint.clone()),
    }
}

fn one(error: &(dyn Error + 'static)) -> Option<Verdict> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        let Failure { exit, hint, details, .. } = failure;
        return Some(Verdict { exit: *exit, hint: hint.clone(), details: details.clone() });
    }
    if let Some(error) = error.downcast_ref::<RecipeError>() {
        let details = match error {
            RecipeError::Invalid { problems, .. } => json!({"problems": problems}),
            _ => Value::Null,
        };
        return Some(Verdict { details, ..plain(error.exit_code(), error.hint()) });
    }
    library::<StoreError>(error, |e| (e.exit_code().into(), e.hint()))
        .or_else(|| library::<DataError>(error, |e| (e.exit_code().into(), e.hint())))
        .or_else(|| library::<ToolsError>(error, |e| (e.exit_code().into(), e.hint())))
        .or_else(|| library::<CheckpointError>(error, |e| (e.exit_code().into(), e.hint())))
        .or_else(|| library::<WeightsError>(error, |e| (e.exit_code().into(), e.hint())))
        .or_else(|| library::<TelemetryError>(error, |e| (e.exit_code().into(), e.hint())))
        .or_else(|| library::<LaunchError>(error, |e| (e.exit_code(), e.hint())))
        .or_else(|| library::<SyncError>(error, |e| (ExitCode::Storage, e.hint())))
        .or_else(|| library::<FileError>(error, |e| (e.exit_code(), e.hint())))
}

fn library<E: Error + 'static>(
    error: &(dyn Error + 'static),
    read: impl Fn(&E) -> (ExitCode, Option<String>),
) -> Option<Verdict> {
    let (exit, hint) = read(error.downcast_ref::<E>()?);
    Some(Verdict { exit, hint, details: Value::Null })
}

fn plain(exit: u8, hint: Option<String>) -> Verdict {
    Verdict { exit: exit.into(), hint, details: Value::Null }
}

/// The messages of an error and its causes; a cause that the message before it repeats is left out.
pub fn messages(error: &anyhow::Error) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if messages.last().is_none_or(|last| !last.ends_with(&cause)) {
            messages.push(cause);
        }
    }
    messages
}

/// The document of a failed command.
pub fn document(error: &anyhow::Error, verdict: &Verdict) -> Value {
    let messages = messages(error);
    let mut document = json!({
        "message": messages.first(),
        "causes": messages.get(1..),
        "hint": verdict.hint,
        "exit_code": verdict.exit.code(),
    });
    if let (Some(document), Some(details)) = (document.as_object_mut(), verdict.details.as_object())
    {
        document.extend(details.clone());
    }
    json!({ "error": document })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_first_cause_with_a_code_decides() {
        let error = StoreError::NotFound { url: "s3://b/x".into() };
        let error = Err::<(), _>(error).context("the tokenizer").unwrap_err();
        assert_eq!(verdict(&error).exit, ExitCode::Storage);
        let failure = Failure::new(ExitCode::Data, "no tokenizer").hint("make one").because(error);
        let verdict = verdict(&failure.into());
        assert_eq!(verdict.exit, ExitCode::Data);
        assert_eq!(verdict.hint.as_deref(), Some("make one"));
    }

    #[test]
    fn what_nobody_knows_is_a_plain_failure() {
        let verdict = verdict(&anyhow::anyhow!("odd"));
        assert_eq!((verdict.exit, verdict.hint), (ExitCode::Failed, None));
    }

    #[test]
    fn the_document_holds_causes_and_details() {
        let failure = Failure::usage("no").details(json!({"problems": [1]}));
        let error = failure.because(anyhow::anyhow!("deep")).into();
        let document = document(&error, &verdict(&error));
        assert_eq!(
            document,
            json!({"error": {"message": "no", "causes": ["deep"], "hint": null, "exit_code": 2, "problems": [1]}})
        );
    }
}
