//! One data-parallel rank of a node, as far as reading goes: reads an epoch through the node's cache and says what it
//! read. Killed with SIGKILL by `tests/tests/node_cache.rs`.

use std::io::Write;
use std::path::PathBuf;

use clap::Parser;
use strand_data::{Cache, Dataset, Loader, LoaderOptions};
use strand_store::xxh3;

/// Reads one epoch of a data set.
#[derive(Parser)]
struct Flags {
    /// Folder or URL that holds manifest.json
    url: String,
    /// Folder of the cache
    #[arg(long)]
    cache: PathBuf,
    /// Its limit in bytes; the least that is allowed where not given
    #[arg(long)]
    limit: Option<u64>,
    /// This rank
    #[arg(long, default_value_t = 0)]
    rank: usize,
    /// All ranks
    #[arg(long, default_value_t = 1)]
    ranks: usize,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let set = runtime.block_on(Dataset::open(&flags.url))?;
    let limit = flags.limit.unwrap_or_else(|| Cache::least(&[&set]));
    let cache = Cache::open_for(&flags.cache, limit, &[&set])?;
    let options = LoaderOptions {
        seed: 1,
        dp_rank: flags.rank,
        dp_size: flags.ranks,
        prefetch_bytes: 1 << 20,
        cache: Some(cache.clone()),
        ..LoaderOptions::epoch(8)
    };
    let handle = runtime.handle().clone();
    let mut loader = Loader::open(handle, vec![(set, None)], options, None)?;
    let mut out = std::io::stdout().lock();
    while let Some(batch) = loader.next()? {
        for sample in &batch.samples {
            writeln!(out, "{} {:016x}", sample.id, xxh3(&sample.features))?;
        }
    }
    let stats = cache.stats();
    eprintln!("{stats:?}");
    let traffic = loader.traffic();
    let again = traffic.retries + traffic.hedges;
    writeln!(out, "stats {} {} {} {again}", stats.hits, stats.fetched, stats.healed)?;
    Ok(())
}
