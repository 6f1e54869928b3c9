//! Progress: a bar on a terminal, else a plain line now and then.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::terminal::{bars, say};

const LINE_EVERY: Duration = Duration::from_secs(10);
const BAR: &str =
    "{prefix:<14} {bar:32.cyan/black.dim} {human_pos:>6}/{human_len:<6} {msg}  {eta:.dim}";

/// How far something has come. It is shown on stderr only.
#[derive(Debug)]
pub struct Progress {
    label: String,
    unit: String,
    done: u64,
    total: u64,
    message: String,
    started: Instant,
    /// Where the work stood when it started, for a rate of this process's own work.
    first: u64,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Progress {
    /// Starts at 0 of `total` `unit`s (`steps`, `videos`); `label` says what is being done.
    pub fn new(total: u64, unit: &str, label: &str) -> Progress {
        let shown = match std::io::stderr().is_terminal() {
            true => Shown::Bar(bar(total, label)),
            false => Shown::Lines { last: Instant::now() },
        };
        Progress {
            label: label.into(),
            unit: unit.into(),
            done: 0,
            total,
            message: String::new(),
            started: Instant::now(),
            first: 0,
            shown,
        }
    }

    /// Starts at `done` instead: work of an earlier process counts as done, not as speed.
    #[must_use]
    pub fn starting_at(mut self, done: u64) -> Progress {
        self.first = done;
        if let Shown::Bar(bar) = &self.shown {
            bar.reset_eta();
        }
        self.set(done);
        self
    }

    /// `count` more are done.
    pub fn inc(&mut self, count: u64) {
        self.set(self.done + count);
    }

    /// `done` are done.
    pub fn set(&mut self, done: u64) {
        self.done = done;
        match &mut self.shown {
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                say(&self.line());
            }
            Shown::Lines { .. } => {}
        }
    }

    /// What is being done, anew.
    pub fn set_label(&mut self, label: &str) {
        self.label = label.into();
        if let Shown::Bar(bar) = &self.shown {
            bar.set_prefix(self.label.clone());
        }
    }

    /// A short word on the present state, such as a loss.
    pub fn set_message(&mut self, message: impl Into<String>) {
        self.message = message.into();
        if let Shown::Bar(bar) = &self.shown {
            bar.set_message(self.message.clone());
        }
    }

    /// Ends: the bar goes away, and one line says how long it took.
    pub fn finish(self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
        say(&format!(
            "{}: {} {} in {}",
            self.label,
            self.done,
            self.unit,
            clock(self.started.elapsed())
        ));
    }

    fn line(&self) -> String {
        let position = Position {
            done: self.done,
            total: self.total,
            fresh: self.done.saturating_sub(self.first),
            elapsed: self.started.elapsed(),
        };
        let message = match self.message.is_empty() {
            true => String::new(),
            false => format!(", {}", self.message),
        };
        format!("{}: {}{message}", self.label, position.describe(&self.unit))
    }
}

/// Takes an unfinished bar off the terminal, so that an error message stands alone.
impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: u64, label: &str) -> ProgressBar {
    let bar = bars().add(ProgressBar::new(total));
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar.set_prefix(label.to_owned());
    bar
}

struct Position {
    done: u64,
    total: u64,
    fresh: u64,
    elapsed: Duration,
}

impl Position {
    fn describe(&self, unit: &str) -> String {
        let Position { done, total, .. } = *self;
        let share = 100.0 * done as f64 / total.max(1) as f64;
        let rate = self.fresh as f64 / self.elapsed.as_secs_f64().max(1e-9);
        let counted = format!("{done}/{total} {unit} ({share:.0} %)");
        if self.fresh == 0 {
            return counted;
        }
        let left = Duration::from_secs_f64((total.saturating_sub(done) as f64 / rate).min(1e9));
        format!("{counted}, {rate:.1} {unit}/s, {} left", clock(left))
    }
}

/// `m:ss`, or `h:mm:ss` from an hour on.
fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_share_rate_and_time_left() {
        let position =
            Position { done: 300, total: 1200, fresh: 300, elapsed: Duration::from_secs(10) };
        let line = position.describe("steps");
        assert_eq!(line, "300/1200 steps (25 %), 30.0 steps/s, 0:30 left");
    }

    #[test]
    fn resumed_work_does_not_count_as_speed() {
        let position =
            Position { done: 1000, total: 1100, fresh: 50, elapsed: Duration::from_secs(5) };
        assert!(position.describe("steps").contains("10.0 steps/s, 0:10 left"));
        let nothing_yet = Position { fresh: 0, ..position };
        assert_eq!(nothing_yet.describe("steps"), "1000/1100 steps (91 %)");
    }

    #[test]
    fn clocks_read_as_minutes_or_hours() {
        assert_eq!(clock(Duration::from_secs(59)), "0:59");
        assert_eq!(clock(Duration::from_secs(3661)), "1:01:01");
    }
}
