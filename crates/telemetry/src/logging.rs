//! Logs on stderr, through `tracing`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::terminal::Stderr;

/// Overrides the filter, in `tracing`'s syntax (`debug`, `strand_data=trace`).
pub const FILTER_VARIABLE: &str = "STRAND_LOG";

/// What is logged, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// The rank of a worker; `None` in `strand`. Ranks above 0 log warnings only, so that what all
    /// ranks would say is said once.
    pub rank: Option<usize>,
    /// `-v` given minus `-q` given: 0 informs, below is quieter, above tells more.
    pub verbosity: i8,
}

/// Starts logging. A second call changes nothing.
pub fn init(options: Options) {
    let given = std::env::var(FILTER_VARIABLE).ok();
    let directives = given.unwrap_or_else(|| level(options).to_owned());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::builder().parse_lossy(directives))
        .with_writer(Stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // An earlier subscriber stays: tests start several runs in one process.
    let _ = match options.rank {
        Some(_) => builder.finish().try_init(),
        None => builder.without_time().finish().try_init(),
    };
}

fn level(options: Options) -> &'static str {
    let quiet_rank = options.rank.is_some_and(|rank| rank > 0);
    match options.verbosity - i8::from(quiet_rank) {
        ..=-2 => "error",
        -1 => "warn",
        0 => "info",
        1 => "debug",
        2.. => "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rank_0_informs() {
        let level_of = |rank, verbosity| level(Options { rank, verbosity });
        assert_eq!(level_of(None, 0), "info");
        assert_eq!(level_of(Some(0), 0), "info");
        assert_eq!(level_of(Some(3), 0), "warn");
        assert_eq!(level_of(Some(3), 1), "info");
        assert_eq!(level_of(None, -1), "warn");
    }
}
