//! `strand data bench`: how fast a trainer would be fed from here.

use std::time::Instant;

use clap::Args;
use serde::Serialize;
use strand_control::ExitCode;
use strand_data::{Dataset, FrameRule, Loader, LoaderOptions};
use strand_telemetry::peak_memory;
use tokio::runtime::Runtime;

use super::with_progress;
use crate::failure::Failure;
use crate::table::{bytes, table};
use crate::talk::Talk;

/// What to read, and as which trainer.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Folder or URL that holds manifest.json
    url: String,
    /// Samples of a batch, over all ranks
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// Batches to read [default: one epoch]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batches: Option<u64>,
    /// Data-parallel ranks on this node, each with its own cut of every batch
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    ranks: u64,
    /// Frames of a sample [default: all that a row has]
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// MiB fetched ahead by each rank
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    prefetch_mib: u64,
    /// How often to measure; medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Seed of the order
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// One measurement. Every sample was checked against its checksum and copied to a batch buffer, as a trainer does.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Measured {
    /// Samples of all ranks.
    samples: u64,
    /// Bytes of their features.
    bytes: u64,
    /// From opening the loader to the last batch.
    seconds: f64,
    /// From opening the loader to its first batch.
    first_batch_s: f64,
    /// The same, resumed in the middle.
    resume_s: f64,
    /// Bytes read from storage, by all ranks.
    downloaded: u64,
}

pub fn run(args: &BenchArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let runtime = Runtime::new()
        .map_err(|error| Failure::environment("cannot start a runtime").because(error))?;
    let set = runtime.block_on(Dataset::open(&args.url))?;
    let measured = with_progress(talk, "runs", "bench", |progress| {
        (0..args.runs)
            .map(|run| {
                let measured = measure(args, &set, &runtime)?;
                progress(run + 1, args.runs);
                Ok(measured)
            })
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    let summary = Summary::new(&measured, &set, args.batches.is_none());
    talk.result(&summary.text(args), &serde_json::to_value(&summary)?)?;
    talk.next(format!("strand data verify {}", args.url));
    Ok(ExitCode::Done)
}

fn options(args: &BenchArgs, rank: u64) -> anyhow::Result<LoaderOptions> {
    Ok(LoaderOptions {
        seed: args.seed,
        dp_rank: usize::try_from(rank)?,
        dp_size: usize::try_from(args.ranks)?,
        global_batch: usize::try_from(args.batch)?,
        frames: args.frames,
        sampling: FrameRule::Rand,
        prefetch_bytes: args.prefetch_mib << 20,
        epochs: args.batches.is_none().then_some(1),
        drop_last: false,
        steps: args.batches,
        one_set: false,
        by_length: false,
        skip_damaged: false,
        cache: None,
    })
}

/// One pass of all ranks side by side, then a resumed start of the first.
fn measure(args: &BenchArgs, set: &Dataset, runtime: &Runtime) -> anyhow::Result<Measured> {
    let started = Instant::now();
    let ranks = std::thread::scope(|scope| {
        let start = |rank| scope.spawn(move || read(args, set, runtime, rank));
        let threads: Vec<_> = (0..args.ranks).map(start).collect();
        let died = |_| Failure::new(ExitCode::Failed, "a reading thread panicked");
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(died)?)
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    let mut total = Measured { seconds: started.elapsed().as_secs_f64(), ..Measured::default() };
    for rank in ranks {
        total.samples += rank.samples;
        total.bytes += rank.bytes;
        total.downloaded += rank.downloaded;
        total.first_batch_s = total.first_batch_s.max(rank.first_batch_s);
    }
    total.resume_s = resume(args, set, runtime)?;
    Ok(total)
}

fn read(args: &BenchArgs, set: &Dataset, runtime: &Runtime, rank: u64) -> anyhow::Result<Measured> {
    let started = Instant::now();
    let sets = vec![(set.clone(), None)];
    let mut loader = Loader::open(runtime.handle().clone(), sets, options(args, rank)?, None)?;
    let mut measured = Measured::default();
    let mut buffer = Vec::new();
    while let Some(batch) = loader.next()? {
        buffer.clear();
        for sample in &batch.samples {
            buffer.extend_from_slice(&sample.features);
        }
        if measured.first_batch_s == 0.0 {
            measured.first_batch_s = started.elapsed().as_secs_f64();
        }
        measured.samples += batch.samples.len() as u64;
        measured.bytes += buffer.len() as u64;
    }
    measured.downloaded = loader.fetched().1;
    Ok(measured)
}

/// Seconds from opening a loader in the middle of the epoch to its first batch.
fn resume(args: &BenchArgs, set: &Dataset, runtime: &Runtime) -> anyhow::Result<f64> {
    let started = Instant::now();
    let open = |cursor| {
        let sets = vec![(set.clone(), None)];
        Loader::open(runtime.handle().clone(), sets, options(args, 0)?, cursor)
            .map_err(anyhow::Error::new)
    };
    let mut cursor = open(None)?.cursor();
    cursor.consumed = set.num_rows() / 2 / args.batch * args.batch;
    open(Some(cursor))?.next()?;
    Ok(started.elapsed().as_secs_f64())
}

/// Medians over the runs.
#[derive(Debug, Serialize)]
struct Summary {
    runs: Vec<Measured>,
    samples_per_s: f64,
    gb_per_s: f64,
    first_batch_s: f64,
    resume_s: f64,
    /// Bytes read from storage by all ranks ÷ bytes of all row groups; null where not a whole epoch was read.
    downloaded_per_unique: Option<f64>,
    /// Peak resident memory of this process; null where the system does not say.
    peak_memory_bytes: Option<u64>,
}

impl Summary {
    fn new(runs: &[Measured], set: &Dataset, is_whole: bool) -> Summary {
        let over = |value: fn(&Measured) -> f64| median(runs.iter().map(value).collect());
        let groups = set.manifest().shards.iter().flat_map(|shard| &shard.groups);
        let stored: u64 = groups.map(|group| group.bytes).sum();
        let downloaded = over(|run| run.downloaded as f64);
        Summary {
            samples_per_s: over(|run| run.samples as f64 / run.seconds),
            gb_per_s: over(|run| run.bytes as f64 / run.seconds / 1e9),
            first_batch_s: over(|run| run.first_batch_s),
            resume_s: over(|run| run.resume_s),
            downloaded_per_unique: is_whole.then(|| downloaded / stored as f64),
            peak_memory_bytes: peak_memory(),
            runs: runs.to_vec(),
        }
    }

    fn text(&self, args: &BenchArgs) -> String {
        let milliseconds = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
        let rows = [
            ("read rate", format!("{:.2} GB/s", self.gb_per_s)),
            ("samples", format!("{:.0} a second", self.samples_per_s)),
            ("first batch", milliseconds(self.first_batch_s)),
            ("first batch, resumed in the middle", milliseconds(self.resume_s)),
            ("downloaded ÷ unique", or_dash(self.downloaded_per_unique, |it| format!("{it:.2}"))),
            ("peak memory", or_dash(self.peak_memory_bytes, bytes)),
        ];
        let rows = rows.map(|(what, value)| vec![what.to_owned(), value]);
        let ranks = args.ranks;
        table(&[&format!("{}, ranks: {ranks}", args.url), "#median"], &rows)
    }
}

fn or_dash<T>(value: Option<T>, text: impl Fn(T) -> String) -> String {
    value.map_or("-".to_owned(), text)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        _ if values.is_empty() => f64::NAN,
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
