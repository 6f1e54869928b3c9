//! An epoch read from a store that fails: every sample once, with the right bytes, or a clear error.
//!
//! S3 settings come from the environment, so each test runs twice: first it starts a server and itself again with the
//! server's settings, then it does its work.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use strand_data::{
    DataError, Dataset, Dtype, FrameRule, Loader, LoaderOptions, Media, Qa, Row, ShardWriter,
    WriterOptions,
};
use strand_store::{Location, Traffic};
use strand_tests::encoder::patch;
use strand_tests::harness::text;
use strand_tests::s3_sim::{Fault, Faults, Server};
use tokio::runtime::Runtime;

/// What the inner process is to do.
const INNER: &str = "STRAND_TEST_S3_FAULTS";
const BUCKET: &str = "bucket";

const ROWS: usize = 600;
const FRAMES: usize = 4;
const TOKENS: usize = 16;
const DIM: usize = 64;

/// Frames, and so bytes, of a row differ; what a value is depends on the row and its place.
fn row(index: usize) -> Row {
    let frames = 1 + index % FRAMES;
    let values = (0..frames * TOKENS * DIM)
        .flat_map(|value| (((index * 7_919 + value) % 30_000) as u16).to_le_bytes());
    Row {
        id: format!("clip-{index}"),
        video: format!("{index}.mp4"),
        media: if frames == 1 { Media::Image } else { Media::Video },
        frames,
        tokens: TOKENS,
        features: values.collect::<Vec<u8>>().into(),
        seconds: Vec::new(),
        qa: vec![Qa { question: "What?".into(), answer: "That.".into(), ..Qa::default() }],
    }
}

async fn write(folder: &Path) -> Result<()> {
    let options = WriterOptions {
        rows_per_group: Some(3),
        shard_bytes: 1 << 20,
        ..WriterOptions::new(patch(), TOKENS, DIM, Dtype::F16)
    };
    let location = Location::open(folder.to_str().context("UTF-8")?)?;
    let mut writer = ShardWriter::create(location, options).await?;
    for index in 0..ROWS {
        writer.write(row(index)).await?;
    }
    writer.finish().await?;
    Ok(())
}

fn options() -> LoaderOptions {
    LoaderOptions {
        seed: 5,
        sampling: FrameRule::Rand,
        prefetch_bytes: 8 << 20,
        ..LoaderOptions::epoch(8)
    }
}

/// What reading an epoch came to.
struct Epoch {
    seconds: f64,
    bytes: u64,
    traffic: Traffic,
}

/// Reads an epoch and compares every sample with its row.
fn read_epoch(runtime: &Runtime, set: Dataset) -> Result<Epoch> {
    let started = Instant::now();
    let mut loader = Loader::open(runtime.handle().clone(), vec![(set, None)], options(), None)?;
    let (mut seen, mut bytes) = (BTreeMap::<String, u32>::new(), 0);
    while let Some(batch) = loader.next()? {
        for sample in batch.samples {
            let index = sample.id.strip_prefix("clip-").context("an id")?.parse()?;
            ensure!(sample.features == row(index).features, "{} differs", sample.id);
            bytes += sample.features.len() as u64;
            *seen.entry(sample.id).or_default() += 1;
        }
    }
    ensure!(seen.len() == ROWS && seen.values().all(|&times| times == 1), "each sample once");
    Ok(Epoch { seconds: started.elapsed().as_secs_f64(), bytes, traffic: loader.traffic() })
}

/// Starts a server with `faults` over a data set and this test again, whose inner part is `work`. Returns what it
/// printed and how many requests met a fault.
fn on_server(
    test: &str,
    folder: &Path,
    faults: Faults,
    runtime: &Runtime,
) -> Result<(String, u64)> {
    let server = runtime.block_on(Server::start(folder.to_owned(), 0, faults))?;
    let output = Command::new(std::env::current_exe()?)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .envs(server.settings())
        .env(INNER, "1")
        .output()?;
    let said = text(&[output.stdout, output.stderr].concat());
    ensure!(output.status.success() && said.contains("1 passed"), "{said}");
    Ok((said, server.counts().faults.load(Ordering::Relaxed)))
}

fn is_inner() -> bool {
    std::env::var_os(INNER).is_some()
}

/// The data set as the inner process sees it.
fn open(runtime: &Runtime, patience: Option<Duration>) -> Result<Dataset> {
    let location = Location::open(&format!("s3://{BUCKET}/set"))?;
    let location = match patience {
        Some(patience) => location.with_patience(patience),
        None => location,
    };
    Ok(runtime.block_on(Dataset::open_at(location))?)
}

fn faults(shares: &[(Fault, f64)]) -> Faults {
    Faults {
        latency: Duration::from_millis(2),
        shares: shares.to_vec(),
        // Its one request is not a range read.
        spared: Some("manifest.json".to_owned()),
        seed: 11,
        ..Faults::default()
    }
}

#[test]
fn an_epoch_is_complete_whatever_the_store_does() -> Result<()> {
    let runtime = Runtime::new()?;
    if is_inner() {
        let epoch = read_epoch(&runtime, open(&runtime, None)?)?;
        let Epoch { seconds, bytes, traffic } = epoch;
        println!(
            "result: {:7.1} MB/s {:5} requests {:4} retries {:4} hedges",
            bytes as f64 / seconds / 1e6,
            traffic.requests,
            traffic.retries,
            traffic.hedges
        );
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    runtime.block_on(write(&folder.path().join(BUCKET).join("set")))?;
    let all = [Fault::Error, Fault::Stall, Fault::Reset, Fault::Cut, Fault::Expired];
    let each = all.map(|fault| (fault, 0.01));
    let cases: [(&str, &[(Fault, f64)]); 8] = [
        ("no fault", &[]),
        ("5 % answered 500 or 503", &[(Fault::Error, 0.05)]),
        ("10 % answered 500 or 503", &[(Fault::Error, 0.10)]),
        ("5 % stalled", &[(Fault::Stall, 0.05)]),
        ("5 % reset", &[(Fault::Reset, 0.05)]),
        ("5 % cut short", &[(Fault::Cut, 0.05)]),
        ("2 % with expired credentials", &[(Fault::Expired, 0.02)]),
        ("5 % with all of these", &each),
    ];
    for (name, shares) in cases {
        let test = "an_epoch_is_complete_whatever_the_store_does";
        let (said, met) = on_server(test, folder.path(), faults(shares), &runtime)
            .with_context(|| name.to_owned())?;
        let result =
            said.lines().find_map(|line| line.split_once("result: ")).context("a result")?;
        println!("{name:30} {} {met:4} faults", result.1);
        ensure!((met > 0) != shares.is_empty(), "{met} faults");
    }
    Ok(())
}

#[test]
fn a_dead_store_ends_in_a_clear_error() -> Result<()> {
    let runtime = Runtime::new()?;
    if is_inner() {
        let set = open(&runtime, Some(Duration::from_secs(2)))?;
        let started = Instant::now();
        let Err(error) = read_epoch(&runtime, set) else { bail!("an epoch from a dead store") };
        let error = error.downcast::<DataError>()?;
        ensure!(error.exit_code() == 5 && error.hint().is_some(), "{error:?}");
        let said = format!("{:#}", anyhow::Error::new(error));
        ensure!(said.contains("shard-00"), "{said}");
        ensure!(started.elapsed() < Duration::from_secs(30), "one budget for all requests");
        println!("result: {said}");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    runtime.block_on(write(&folder.path().join(BUCKET).join("set")))?;
    let ends = [
        (Fault::Error, "gave up after"),
        (Fault::Reset, "gave up after"),
        (Fault::Cut, "gave up after"),
        (Fault::Expired, "ExpiredToken"),
    ];
    for (fault, end) in ends {
        let test = "a_dead_store_ends_in_a_clear_error";
        let (said, _) = on_server(test, folder.path(), faults(&[(fault, 1.0)]), &runtime)?;
        let result =
            said.lines().find_map(|line| line.split_once("result: ")).context("a result")?;
        ensure!(result.1.contains(end), "{fault:?}: {}", result.1);
        println!("{fault:?}: {}", result.1);
    }
    Ok(())
}
