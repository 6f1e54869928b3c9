//! One place through which text and progress bars reach stderr, so that they do not overwrite
//! each other.

use std::io::{self, Write};
use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressDrawTarget};
use tracing_subscriber::fmt::MakeWriter;

static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));

/// The progress bars on the terminal.
pub(crate) fn bars() -> &'static MultiProgress {
    &BARS
}

/// Writes one line to stderr, above the progress bars if there are any.
pub fn say(line: &str) {
    // Talk has nowhere else to go: a closed stderr must not end a run.
    let _ = Stderr.write_all(format!("{line}\n").as_bytes());
}

/// Stderr, with the bars taken away while something is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bars().suspend(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for Stderr {
    type Writer = Stderr;

    fn make_writer(&self) -> Stderr {
        Stderr
    }
}
