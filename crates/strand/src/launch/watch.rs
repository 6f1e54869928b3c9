//! What is shown while the ranks run.

use strand_control::{Event, Notice};
use strand_telemetry::Progress;

use crate::talk::Talk;

/// Turns notices of the launcher into talk and a progress bar.
pub struct Watch {
    talk: Talk,
    progress: Option<Progress>,
    stage: String,
}

impl Watch {
    pub fn new(talk: Talk) -> Watch {
        Watch { talk, progress: None, stage: String::new() }
    }

    /// Shows one notice.
    pub fn on(&mut self, notice: Notice) {
        match notice {
            Notice::Event { rank: 0, event } => self.on_event(event),
            Notice::Event { .. } => {}
            Notice::Warning { text } => self.talk.warn(text),
            Notice::Restarting { .. } => {
                self.progress = None;
                self.talk.warn(notice.to_string());
            }
            Notice::Line { ref text, .. } if is_detail(text) && self.talk.verbosity() <= 0 => {}
            Notice::Started { .. } | Notice::Line { .. } | Notice::Stopping { .. } => {
                self.talk.say(notice.to_string());
            }
        }
    }

    /// Takes the bar away and says how long it took.
    pub fn finish(self) {
        if let Some(progress) = self.progress {
            progress.finish();
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Step { step, total, stage, loss, samples_per_s } => {
                self.stage = stage;
                self.on_step(step, total, format!("loss {loss:.4}, {samples_per_s:.0} samples/s"));
            }
            Event::Stage { stage, index, count, starts_from, steps } => {
                let number = index + 1;
                self.talk.say(format!(
                    "stage {number}/{count} {stage}: {steps} steps from {starts_from}"
                ));
            }
            Event::Evaluation { stage, set, correct, total } => {
                let percent = 100.0 * correct as f64 / total.max(1) as f64;
                self.talk
                    .say(format!("{stage} on {set}: {correct} of {total} right ({percent:.1} %)"));
            }
            Event::Checkpoint { step, path } => {
                if self.talk.verbosity() > 0 {
                    self.talk.say(format!("checkpoint of step {step} in {path}"));
                }
            }
        }
    }

    fn on_step(&mut self, step: u64, total: u64, message: String) {
        if self.progress.is_none() {
            let before = step.saturating_sub(1);
            let progress = self.talk.progress(total, "steps", &self.stage);
            self.progress = progress.map(|progress| progress.starting_at(before));
        }
        let Some(progress) = &mut self.progress else {
            return;
        };
        progress.set_label(&self.stage);
        progress.set_message(message);
        progress.set(step);
    }
}

/// Lines that tell what the progress bar tells as well, and libtorch's stack traces: the rank's log has them all.
fn is_detail(line: &str) -> bool {
    let level = line.split_whitespace().nth(1);
    let is_trace =
        ["frame #", "Exception raised from "].iter().any(|start| line.starts_with(start));
    is_trace || line.trim().is_empty() || matches!(level, Some("INFO" | "DEBUG" | "TRACE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_details_are_left_to_the_log_files() {
        assert!(is_detail("2026-01-01T00:00:00.0Z  INFO step 3/9 base: loss 1.0"));
        assert!(!is_detail("2026-01-01T00:00:00.0Z  WARN stray file"));
        assert!(!is_detail("error: out of memory"));
        assert!(is_detail("frame #3: <unknown function> + 0xe5d736"));
        assert!(is_detail(""));
    }
}
