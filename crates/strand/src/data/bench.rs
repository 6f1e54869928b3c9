//! `strand data bench`: how fast a trainer would be fed from here.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use strand_control::ExitCode;
use strand_data::{Cache, Dataset, FrameRule, Loader, LoaderOptions, Order, default_cache_limit};
use strand_recipe::ByteSize;
use strand_telemetry::peak_memory;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::failure::Failure;
use crate::table::{bytes, table};
use crate::talk::{Talk, with_progress};

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
    /// Folder of the node's cache of row groups, which stays [default with several ranks: a new one for each run]
    #[arg(long, value_name = "FOLDER", conflicts_with = "no_cache")]
    cache: Option<PathBuf>,
    /// Most bytes of the cache, as in 20GiB [default: 20GiB or a tenth of the free disk]
    #[arg(long, value_name = "SIZE")]
    cache_limit: Option<ByteSize>,
    /// Let each rank fetch for itself
    #[arg(long)]
    no_cache: bool,
    /// How often to measure; medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Seed of the order
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// One measurement. Every sample was checked against a checksum and lies in a batch's buffer, ready for a trainer.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Measured {
    /// Samples of all ranks.
    samples: u64,
    /// Bytes of their features.
    bytes: u64,
    /// From opening the data set to the last batch.
    seconds: f64,
    /// From opening the data set to the first batch.
    first_batch_s: f64,
    /// The same, resumed in the middle.
    resume_s: f64,
    /// Bytes read from storage, by all ranks: footers, and what was asked for again, included.
    downloaded: u64,
    /// Requests to storage for parts of shards.
    requests: u64,
    /// Those that failed and were sent again.
    retries: u64,
    /// Those that were sent twice because they were slow.
    hedges: u64,
}

pub fn run(args: &BenchArgs, talk: &Talk) -> anyhow::Result<ExitCode> {
    let runtime = Runtime::new()
        .map_err(|error| Failure::environment("cannot start a runtime").because(error))?;
    let set = runtime.block_on(Dataset::open(&args.url))?;
    let measured = with_progress(talk, "runs", "bench", |progress| {
        (0..args.runs)
            .map(|run| {
                let measured = measure(args, &runtime)?;
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

/// The node's cache as a run has it: for data in object storage, where there are several ranks or a folder is named.
/// A folder that nobody named goes with what is returned.
fn cache(args: &BenchArgs, set: &Dataset) -> anyhow::Result<Option<(Cache, Option<TempDir>)>> {
    let is_wanted = args.cache.is_some() || (args.ranks > 1 && !args.no_cache);
    if !is_wanted || set.location().local_path().is_some() {
        return Ok(None);
    }
    let (folder, guard) = match &args.cache {
        Some(folder) => (folder.clone(), None),
        None => {
            let guard = tempfile::tempdir().map_err(|error| {
                Failure::environment("cannot make a folder for the cache").because(error)
            })?;
            (guard.path().to_owned(), Some(guard))
        }
    };
    let limit = match args.cache_limit {
        Some(limit) => limit.0,
        None => default_cache_limit(&folder)?,
    };
    Ok(Some((Cache::open_for(&folder, limit, &[set])?, guard)))
}

fn options(args: &BenchArgs, rank: u64, cache: Option<Cache>) -> anyhow::Result<LoaderOptions> {
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
        cache,
    })
}

/// One pass of all ranks side by side, then a resumed start of the first.
fn measure(args: &BenchArgs, runtime: &Runtime) -> anyhow::Result<Measured> {
    let started = Instant::now();
    let set = &runtime.block_on(Dataset::open(&args.url))?;
    let kept = cache(args, set)?;
    let cache = kept.as_ref().map(|(cache, _)| cache);
    let ranks = std::thread::scope(|scope| {
        let start = |rank| {
            let cache = cache.cloned();
            scope.spawn(move || read(args, set, runtime, (rank, cache), started))
        };
        let threads: Vec<_> = (0..args.ranks).map(start).collect();
        let died = |_| Failure::new(ExitCode::Failed, "a reading thread panicked");
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(died)?)
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    let traffic = set.location().traffic();
    let mut total = Measured {
        seconds: started.elapsed().as_secs_f64(),
        downloaded: traffic.bytes,
        requests: traffic.requests,
        retries: traffic.retries,
        hedges: traffic.hedges,
        ..Measured::default()
    };
    for rank in ranks {
        total.samples += rank.samples;
        total.bytes += rank.bytes;
        total.first_batch_s = total.first_batch_s.max(rank.first_batch_s);
    }
    total.resume_s = resume(args, runtime)?;
    Ok(total)
}

fn read(
    args: &BenchArgs,
    set: &Dataset,
    runtime: &Runtime,
    (rank, cache): (u64, Option<Cache>),
    started: Instant,
) -> anyhow::Result<Measured> {
    let sets = vec![(set.clone(), None)];
    let mut loader =
        Loader::open(runtime.handle().clone(), sets, options(args, rank, cache)?, None)?;
    let mut measured = Measured::default();
    while let Some(batch) = loader.next()? {
        if measured.first_batch_s == 0.0 {
            measured.first_batch_s = started.elapsed().as_secs_f64();
        }
        measured.samples += batch.samples.len() as u64;
        let bytes = batch.samples.iter().map(|sample| sample.features.len() as u64);
        measured.bytes += bytes.sum::<u64>();
    }
    Ok(measured)
}

/// Seconds from opening the data set anew to the first batch behind the middle of the epoch.
fn resume(args: &BenchArgs, runtime: &Runtime) -> anyhow::Result<f64> {
    let started = Instant::now();
    let set = runtime.block_on(Dataset::open(&args.url))?;
    let middle = set.num_rows() / 2 / args.batch * args.batch;
    let cursor = Order::new(&[(set.manifest(), None)], args.seed)?.cursor(middle);
    let sets = vec![(set, None)];
    Loader::open(runtime.handle().clone(), sets, options(args, 0, None)?, Some(cursor))?.next()?;
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
    /// Requests that failed and were sent again, over all runs.
    retries: u64,
    /// Requests that were sent twice because they were slow, over all runs.
    hedges: u64,
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
            retries: runs.iter().map(|run| run.retries).sum(),
            hedges: runs.iter().map(|run| run.hedges).sum(),
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
            ("requests retried, in all runs", self.retries.to_string()),
            ("slow requests sent twice, in all runs", self.hedges.to_string()),
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
