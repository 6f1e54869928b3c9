//! A fast, read-only stand-in for S3, as slow and as faulty as it is told to be: see `strand_tests::s3_sim`.
//!
//! Its first line on stdout is what a shell needs to use it, once it listens:
//! `export AWS_ENDPOINT_URL=http://127.0.0.1:PORT AWS_ALLOW_HTTP=true …`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use strand_tests::s3_sim::{Fault, Faults, Server};

/// Serves folders as S3 buckets on the loopback interface.
#[derive(Parser)]
struct Flags {
    /// The folder that holds the buckets
    #[arg(long)]
    root: PathBuf,
    /// The port; 0 chooses a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Milliseconds before each answer
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency_ms: u64,
    /// MB a second of each answer
    #[arg(long, value_name = "MB")]
    mb_per_s: Option<u64>,
    /// Share of requests that are answered with 500 or 503
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    errors: f64,
    /// Share of bodies that are cut short
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    cuts: f64,
    /// Share of connections that are reset
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    resets: f64,
    /// Share of requests that are never answered
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    stalls: f64,
    /// Chooses the requests that fail
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Stop after this many seconds
    #[arg(long)]
    seconds: Option<u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let shares = vec![
        (Fault::Error, flags.errors),
        (Fault::Cut, flags.cuts),
        (Fault::Reset, flags.resets),
        (Fault::Stall, flags.stalls),
    ];
    let faults = Faults {
        latency: Duration::from_millis(flags.latency_ms),
        bytes_per_s: flags.mb_per_s.map(|mb| mb * 1_000_000),
        shares,
        spared: None,
        seed: flags.seed,
    };
    let server = Server::start(flags.root, flags.port, faults).await?;
    let settings = server.settings().map(|(name, value)| format!("{name}={value}"));
    writeln!(std::io::stdout(), "export {}", settings.join(" "))?;
    match flags.seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        None => std::future::pending().await,
    }
    Ok(())
}
