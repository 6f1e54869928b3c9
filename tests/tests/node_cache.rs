//! The ranks of a node as processes, one cache on its disk, and an S3 server that counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use strand_data::{Dataset, Dtype, Manifest, Media, Qa, Row, ShardWriter, WriterOptions};
use strand_store::{Location, xxh3};
use strand_tests::encoder::patch;
use strand_tests::harness::text;
use strand_tests::s3_sim::{Faults, Server};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const ROWS: usize = 400;
const RANKS: usize = 4;
const FRAMES: usize = 4;
const TOKENS: usize = 8;
const DIM: usize = 64;

/// A bucket with a data set, a server in front of it, and a folder for caches.
struct Node {
    runtime: Runtime,
    root: TempDir,
    server: Server,
    manifest: Manifest,
}

impl Node {
    fn new(faults: Faults) -> Result<Node> {
        let runtime = Runtime::new()?;
        let root = tempfile::tempdir()?;
        let folder = root.path().join("bucket/set");
        let manifest = runtime.block_on(write(&folder))?;
        let server = runtime.block_on(Server::start(root.path().to_owned(), 0, faults))?;
        Ok(Node { runtime, root, server, manifest })
    }

    fn cache(&self) -> PathBuf {
        self.root.path().join("cache")
    }

    /// A rank that reads its cut of an epoch.
    fn start(&self, rank: usize, limit: Option<u64>) -> Result<Child> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_node_rank"));
        command.args(["s3://bucket/set", "--ranks", &RANKS.to_string(), "--rank"]);
        command.arg(rank.to_string()).arg("--cache").arg(self.cache());
        if let Some(limit) = limit {
            command.args(["--limit", &limit.to_string()]);
        }
        command.envs(self.server.settings()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command.spawn()?)
    }

    fn start_all(&self, limit: Option<u64>) -> Result<Vec<Child>> {
        (0..RANKS).map(|rank| self.start(rank, limit)).collect()
    }

    /// Waits for all ranks. Every sample was read once and is what was written. Returns hits, fetches, healed entries
    /// and requests that were sent again, of all.
    fn finish(&self, ranks: Vec<Child>) -> Result<[u64; 4]> {
        let (mut samples, mut stats) = (BTreeMap::new(), [0; 4]);
        for rank in ranks {
            let output = rank.wait_with_output()?;
            ensure!(output.status.success(), "{}", text(&output.stderr));
            for line in text(&output.stdout).lines() {
                match line.strip_prefix("stats ") {
                    Some(counts) => {
                        for (sum, count) in stats.iter_mut().zip(counts.split(' ')) {
                            *sum += count.parse::<u64>()?;
                        }
                    }
                    None => {
                        let (id, sum) = line.split_once(' ').context("id and checksum")?;
                        ensure!(
                            samples.insert(id.to_owned(), sum.to_owned()).is_none(),
                            "{id} twice"
                        );
                    }
                }
            }
        }
        let expected = (0..ROWS).map(|i| (id(i), format!("{:016x}", xxh3(&features(i)))));
        ensure!(samples == expected.collect::<BTreeMap<_, _>>(), "other samples");
        Ok(stats)
    }

    fn sent(&self) -> u64 {
        self.server.counts().bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the manifest, of all footers and of all row groups.
    fn unique(&self) -> Result<(u64, u64)> {
        let manifest = self.root.path().join("bucket/set/manifest.json").metadata()?.len();
        let shards = self.manifest.shards.iter();
        let footers: u64 = shards.clone().map(|shard| shard.footer_bytes + 8).sum();
        let groups: u64 = shards.flat_map(|shard| &shard.groups).map(|group| group.bytes).sum();
        Ok((manifest, footers + groups))
    }

    /// Bytes of entries and of parts on disk.
    fn on_disk(&self) -> [u64; 2] {
        ["entries", "parts"].map(|folder| {
            let files = std::fs::read_dir(self.cache().join(folder)).into_iter().flatten();
            let sizes = files.flatten().filter_map(|file| file.metadata().ok());
            sizes.map(|metadata| metadata.len()).sum()
        })
    }
}

fn id(i: usize) -> String {
    format!("clip-{i:04}")
}

fn features(i: usize) -> Bytes {
    // Half floats between 1 and 2: any fraction bits.
    let value = |at: usize| {
        (0x3c00 | (xxh3(&[i as u8, (i >> 8) as u8, at as u8, (at >> 8) as u8]) & 0x3ff)) as u16
    };
    (0..FRAMES * TOKENS * DIM).flat_map(|at| value(at).to_le_bytes()).collect()
}

async fn write(folder: &Path) -> Result<Manifest> {
    let options = WriterOptions {
        rows_per_group: Some(4),
        shard_bytes: 300_000,
        ..WriterOptions::new(patch(), TOKENS, DIM, Dtype::F16)
    };
    let location = Location::open(folder.to_str().context("UTF-8")?)?;
    let mut writer = ShardWriter::create(location, options).await?;
    for i in 0..ROWS {
        let pair = Qa { question: "What?".into(), answer: format!("{i}"), ..Qa::default() };
        writer
            .write(Row {
                id: id(i),
                video: format!("{i}.mp4"),
                media: Media::Video,
                frames: FRAMES,
                tokens: TOKENS,
                features: features(i),
                seconds: Vec::new(),
                qa: vec![pair],
            })
            .await?;
    }
    Ok(writer.finish().await?)
}

#[test]
fn four_ranks_fetch_each_range_once() -> Result<()> {
    let node = Node::new(Faults::default())?;
    let (manifest, unique) = node.unique()?;
    let limit = Some(1 << 30);
    let [hits, fetched, healed, again] = node.finish(node.start_all(limit)?)?;
    let manifests = RANKS as u64 * manifest;
    // A slow request is sent twice: that is the reader's doing, not the cache's.
    ensure!(node.sent() == manifests + unique || again > 0, "{} bytes", node.sent());
    let shards = &node.manifest.shards;
    let ranges = shards.len() + shards.iter().map(|shard| shard.groups.len()).sum::<usize>();
    ensure!(fetched == ranges as u64 && healed == 0 && hits > 0, "{hits} {fetched} {healed}");
    ensure!(node.on_disk() == [unique, 0]);
    let downloaded = (node.sent() - manifests) as f64 / unique as f64;
    println!(
        "{RANKS} ranks: {ranges} ranges, downloaded ÷ unique bytes {downloaded:.2}, {again} requests sent again, \
         {hits} read from the cache"
    );

    let before = node.sent();
    let [_, fetched, _, again] = node.finish(node.start_all(limit)?)?;
    ensure!(fetched == 0 && (node.sent() == before + manifests || again > 0), "{fetched}");
    Ok(())
}

#[test]
fn killed_ranks_leave_nothing_wrong() -> Result<()> {
    // So slow that no rank is done before it is killed.
    let slow = Faults { latency: Duration::from_millis(200), ..Faults::default() };
    let node = Node::new(slow)?;
    let (_, unique) = node.unique()?;
    let limit = Some(1 << 30);
    for part in [8, 3] {
        let mut ranks = node.start_all(limit)?;
        let started = Instant::now();
        while node.on_disk()[0] < unique / part {
            ensure!(started.elapsed() < Duration::from_secs(60), "no progress");
            std::thread::sleep(Duration::from_millis(1));
        }
        for rank in &mut ranks {
            rank.kill()?;
        }
        ranks.iter_mut().try_for_each(|rank| rank.wait().map(drop))?;
        let [entries, parts] = node.on_disk();
        ensure!(entries < unique, "they were not killed in the middle");
        println!("killed with {entries} bytes in entries and {parts} in parts");
    }
    let before = node.on_disk()[0];
    node.finish(node.start_all(limit)?)?;
    ensure!(node.on_disk() == [unique, 0], "{:?}, not {unique}", node.on_disk());
    ensure!(before > 0, "what was whole is used");
    Ok(())
}

/// One rank dies while the others go on: what it was fetching is fetched by another.
#[test]
fn the_others_do_not_wait_for_a_dead_rank() -> Result<()> {
    let slow = Faults { latency: Duration::from_millis(200), ..Faults::default() };
    let node = Node::new(slow)?;
    let limit = Some(1 << 30);
    let mut ranks = node.start_all(limit)?;
    let started = Instant::now();
    while node.on_disk()[1] == 0 {
        ensure!(started.elapsed() < Duration::from_secs(60), "no range is being fetched");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut dead = ranks.remove(0);
    let killed = dead.kill();
    dead.wait()?;
    killed?;
    let started = Instant::now();
    ranks.push(node.start(0, limit)?);
    node.finish(ranks)?;
    println!("an epoch with a dead and a new rank: {:.2?}", started.elapsed());
    ensure!(node.on_disk() == [node.unique()?.1, 0]);
    Ok(())
}

#[test]
fn damaged_entries_are_healed() -> Result<()> {
    let node = Node::new(Faults::default())?;
    let limit = Some(1 << 30);
    node.finish(node.start_all(limit)?)?;
    let mut spoiled = 0;
    for (index, file) in std::fs::read_dir(node.cache().join("entries"))?.enumerate() {
        let path = file?.path();
        let mut bytes = std::fs::read(&path)?;
        match index % 5 {
            0 => bytes[40] ^= 8,
            1 => bytes.truncate(100),
            2 => bytes.clear(),
            _ => continue,
        }
        std::fs::write(&path, bytes)?;
        spoiled += 1;
    }
    let [_, fetched, healed, _] = node.finish(node.start_all(limit)?)?;
    ensure!(
        fetched == spoiled && healed == spoiled,
        "{spoiled} spoiled, {healed} healed, {fetched} fetched"
    );
    Ok(())
}

#[test]
fn the_least_limit_is_kept() -> Result<()> {
    let node = Node::new(Faults { latency: Duration::from_millis(2), ..Faults::default() })?;
    let set = node
        .runtime
        .block_on(Dataset::open(node.root.path().join("bucket/set").to_str().context("UTF-8")?))?;
    let least = strand_data::Cache::least(&[&set]);
    ensure!(least < node.unique()?.1, "the set would fit");
    let ranks = node.start_all(None)?;
    let mut most = 0;
    let waiting = std::thread::scope(|scope| {
        let finish = scope.spawn(|| node.finish(ranks));
        while !finish.is_finished() {
            most = most.max(node.on_disk().iter().sum());
            std::thread::sleep(Duration::from_millis(1));
        }
        finish.join()
    });
    let stats = waiting.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    // A file that moves between two looks is seen twice: once as a part, once as an entry.
    let largest = least / 32;
    ensure!(most <= least + RANKS as u64 * 16 * largest, "{most} bytes, the limit is {least}");
    ensure!(node.on_disk().iter().sum::<u64>() <= least);
    println!(
        "limit {least}: at most {most} bytes seen, {stats:?} hits, fetches, healed, sent again"
    );
    Ok(())
}
