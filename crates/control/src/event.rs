//! What a rank tells its launcher while it runs: one JSON object a line on stdout.

use std::io::Write;

use serde::{Deserialize, Serialize};

/// A message from a rank, for progress bars and run listings. metrics.jsonl is the record, not this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A stage begins.
    Stage {
        /// Its name.
        stage: String,
        /// Its place in the recipe, from 0.
        index: usize,
        /// Stages of the recipe.
        count: usize,
        /// The weights it starts from, in words (`fresh weights`, `the end of base`, a checkpoint).
        starts_from: String,
        /// Optimizer steps of the stage.
        steps: u64,
    },
    /// An optimizer step is done.
    Step {
        /// Steps done in the run.
        step: u64,
        /// Steps of the whole run.
        total: u64,
        /// The stage.
        stage: String,
        /// The step's loss.
        loss: f64,
        /// Samples of all ranks a second.
        samples_per_s: f64,
    },
    /// A held-out set was answered.
    #[serde(rename = "eval")]
    Evaluation {
        /// The stage that was evaluated.
        stage: String,
        /// The data set.
        set: String,
        /// Right answers.
        correct: u64,
        /// Questions.
        total: u64,
    },
    /// A checkpoint was committed.
    Checkpoint {
        /// Steps done in the run.
        step: u64,
        /// Its folder.
        path: String,
    },
}

impl Event {
    /// Writes the event as one line to stdout, in one piece.
    ///
    /// # Errors
    /// Stdout is closed or full.
    pub fn emit(&self) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&line)?;
        stdout.flush()
    }

    /// Reads a line; `None` where it is not an event.
    pub fn parse(line: &str) -> Option<Event> {
        serde_json::from_str(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_event_or_plain_text() {
        let line =
            r#"{"event":"step","step":3,"total":9,"stage":"base","loss":2.5,"samples_per_s":40.0}"#;
        let event = Event::parse(line).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), line);
        assert_eq!(Event::parse("hello"), None);
        assert_eq!(Event::parse(r#"{"event":"nap"}"#), None);
    }
}
