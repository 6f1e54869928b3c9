//! Hostile data: shards and manifests that were changed at random, ten thousand of them. No panic, no abort, no more
//! memory than allowed, and a flipped bit is always found.
//!
//! Each test runs twice: it starts itself again in a process whose address space is limited to [`ALLOWED`] beyond what
//! it has at its start, so that an allocation that is too large ends it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rustix::process::{Resource, Rlimit, setrlimit};
use strand_data::{
    Dataset, Dtype, Loader, LoaderOptions, MANIFEST, Manifest, Media, Qa, Row, Shard, ShardWriter,
    WriterOptions, Xxh3, below, draw, read_plain,
};
use strand_store::{Location, xxh3};
use strand_tests::encoder::patch;
use strand_tests::harness::text;
use tokio::runtime::{Builder, Runtime};

/// Bytes that the process may map beyond those of its start. A row group may hold 256 MiB of text.
const ALLOWED: u64 = 512 << 20;
/// Set in the inner process.
const INNER: &str = "STRAND_TEST_HOSTILE";
/// Where damaged files lie beside the project.
const BAD_PARQUET: &str = "STRAND_BAD_PARQUET";

/// Mutations of each sort; their sum is 10,000.
const PLAIN: u64 = 4_000;
const UNCHANGED_MANIFEST: u64 = 2_000;
const MANIFEST_TEXT: u64 = 2_000;
const MANIFEST_NUMBERS: u64 = 2_000;

/// Runs `work` in a process of its own with limited memory.
fn limited(test: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    if std::env::var_os(INNER).is_some() {
        let limit = Some(status("VmSize")? + ALLOWED);
        setrlimit(Resource::As, Rlimit { current: limit, maximum: limit })?;
        let before = status("VmHWM")?;
        work()?;
        let grown = (status("VmHWM")? - before) >> 20;
        println!("resident memory grew by {grown} MiB, {} MiB are allowed", ALLOWED >> 20);
        return Ok(());
    }
    let output = Command::new(std::env::current_exe()?)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INNER, "1")
        .env("MALLOC_ARENA_MAX", "1")
        .output()?;
    let said = text(&[output.stdout, output.stderr].concat());
    ensure!(output.status.success() && said.contains("1 passed"), "{}: {said}", output.status);
    println!("{said}");
    Ok(())
}

/// A size from /proc/self/status, in bytes.
fn status(key: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("a size")?;
    Ok(kib.trim().parse::<u64>()? << 10)
}

/// A small data set on disk.
struct Folder {
    guard: tempfile::TempDir,
    runtime: Runtime,
    location: Location,
    manifest: Manifest,
    shard: Vec<u8>,
}

const SHARD: &str = "shard-00000.parquet";

impl Folder {
    /// `rows` rows in row groups of two.
    fn new(rows: usize) -> Result<Folder> {
        let guard = tempfile::tempdir()?;
        let location = Location::open(guard.path().to_str().context("UTF-8")?)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(2)
            .enable_all()
            .build()?;
        let options = WriterOptions {
            rows_per_group: Some(2),
            ..WriterOptions::new(patch(), 2, 4, Dtype::F16)
        };
        let manifest = runtime.block_on(async {
            let mut writer = ShardWriter::create(location.clone(), options).await?;
            for index in 0..rows {
                writer.write(row(index)).await?;
            }
            writer.finish().await
        })?;
        let shard = std::fs::read(guard.path().join(SHARD))?;
        Ok(Folder { guard, runtime, location, manifest, shard })
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(std::fs::write(self.guard.path().join(name), bytes)?)
    }

    /// Opens the folder and reads all of it: every row group without features, in batches as a trainer does, and the
    /// file as a whole.
    fn read(&self) -> Result<(), strand_data::DataError> {
        let set = self.runtime.block_on(async {
            let set = Dataset::open_at(self.location.clone()).await?;
            for group in 0..set.manifest().shards[0].groups.len() {
                set.read_texts(0, group).await?;
            }
            Ok::<_, strand_data::DataError>(set)
        })?;
        let sets = vec![(set.clone(), None)];
        let options = LoaderOptions { seed: 1, prefetch_bytes: 1 << 20, ..LoaderOptions::epoch(4) };
        let mut batches = Loader::open(self.runtime.handle().clone(), sets, options, None)?;
        while batches.next()?.is_some() {}
        self.runtime.block_on(set.verify_shard(0)).map(drop)
    }
}

fn row(index: usize) -> Row {
    let frames = 1 + index % 3;
    let values = (0..frames * 8).flat_map(|value| (0x3c00_u16 + value as u16).to_le_bytes());
    Row {
        id: format!("clip-{index}"),
        video: format!("videos/{index}.mp4"),
        media: if frames == 1 { Media::Image } else { Media::Video },
        frames,
        tokens: 2,
        features: values.collect::<Vec<u8>>().into(),
        seconds: (0..frames).map(|frame| frame as f32).collect(),
        qa: vec![Qa {
            question: format!("What of {index}?"),
            answer: "That.".into(),
            options: vec!["This.".into(), "That.".into()],
            kind: "order".into(),
            ..Qa::default()
        }],
    }
}

/// Numbers that sizes and counts are replaced by.
const EXTREMES: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, i64::MAX as u64, u64::MAX];

/// Changes bytes in one of several ways: flipped bits, a cut, a splice, a number made extreme, the footer's length.
fn mutate(bytes: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    let mut pick = |bound: usize| below(rng, bound as u64) as usize;
    match pick(6) {
        0 | 1 => {
            for _ in 0..=pick(8) {
                let at = pick(changed.len());
                changed[at] ^= 1 << pick(8);
            }
        }
        2 => changed.truncate(pick(bytes.len())),
        3 => {
            let (from, length) = (pick(bytes.len()), pick(64));
            let part = bytes[from..(from + length).min(bytes.len())].to_vec();
            let at = pick(bytes.len());
            changed.splice(at..(at + pick(64)).min(bytes.len()), part);
        }
        4 => {
            let number = EXTREMES[pick(EXTREMES.len())].to_le_bytes();
            let size = [1, 2, 4, 8][pick(4)];
            let at = pick(bytes.len().saturating_sub(size).max(1));
            let end = (at + size).min(bytes.len());
            changed[at..end].copy_from_slice(&number[..end - at]);
        }
        _ => {
            let at = bytes.len().saturating_sub(8);
            let length = [pick(bytes.len()) as u32, u32::MAX, 0, i32::MAX as u32][pick(4)];
            changed[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
    }
    changed
}

/// Runs `attempt` for every mutation; a panic is told with its number. Gives back how the attempts ended.
fn each(
    purpose: &str,
    count: u64,
    mut attempt: impl FnMut(&mut ChaCha8Rng) -> Result<&'static str>,
) -> Result<BTreeMap<&'static str, u64>> {
    let mut ends = BTreeMap::new();
    for number in 0..count {
        let mut rng = draw(1, number, "hostile", purpose);
        let ended = catch_unwind(AssertUnwindSafe(|| attempt(&mut rng)));
        match ended {
            Ok(ended) => {
                *ends.entry(ended.with_context(|| format!("{purpose} {number}"))?).or_default() += 1
            }
            Err(_) => bail!("{purpose} {number}: panicked"),
        }
    }
    println!("{purpose}: {count} mutations: {ends:?}");
    Ok(ends)
}

/// Whether an error is one that people are to see: a library that panicked and was caught is not.
fn is_typed(error: &strand_data::DataError) -> Result<()> {
    ensure!(!error.to_string().contains("gave up"), "a panic inside: {error}");
    ensure!(error.exit_code() == 4, "not an error of the data: {error}");
    Ok(())
}

#[test]
fn ten_thousand_mutations_are_read_or_refused() -> Result<()> {
    ensure!(PLAIN + UNCHANGED_MANIFEST + MANIFEST_TEXT + MANIFEST_NUMBERS == 10_000);
    limited("ten_thousand_mutations_are_read_or_refused", || {
        let folder = Folder::new(6)?;
        shards_without_a_manifest(&folder)?;
        shards_under_their_manifest(&folder)?;
        texts_of_manifests(&folder)?;
        numbers_of_manifests(&folder)
    })
}

/// No checksum but those of the rows stands before the decoder.
fn shards_without_a_manifest(folder: &Folder) -> Result<()> {
    let ends = each("plain shards", PLAIN, |rng| {
        match read_plain("x", &Bytes::from(mutate(&folder.shard, rng)), Dtype::F16) {
            Ok(_) => Ok("read"),
            Err(error) => is_typed(&error).map(|()| "refused"),
        }
    })?;
    ensure!(ends.get("refused") > Some(&(PLAIN / 2)), "{ends:?}");
    Ok(())
}

fn shards_under_their_manifest(folder: &Folder) -> Result<()> {
    let ends = each("shards", UNCHANGED_MANIFEST, |rng| {
        let changed = mutate(&folder.shard, rng);
        folder.put(SHARD, &changed)?;
        match folder.read() {
            Ok(()) if changed == folder.shard => Ok("unchanged"),
            Ok(()) => bail!("damage was not found"),
            Err(error) => is_typed(&error).map(|()| "refused"),
        }
    })?;
    folder.put(SHARD, &folder.shard)?;
    ensure!(ends.get("unchanged") < Some(&(UNCHANGED_MANIFEST / 20)), "{ends:?}");
    Ok(())
}

fn texts_of_manifests(folder: &Folder) -> Result<()> {
    let json = folder.manifest.to_json();
    each("texts of manifests", MANIFEST_TEXT, |rng| {
        let changed = mutate(json.as_bytes(), rng);
        match Manifest::parse("x", &changed) {
            Ok(manifest) if manifest == folder.manifest => Ok("the same"),
            Ok(_) => bail!("another manifest was believed"),
            Err(error) => is_typed(&error).map(|()| "refused"),
        }
    })?;
    Ok(())
}

/// Manifests that lie but whose id is right, before a shard whose checksums are right, so that nothing stops the lie
/// early.
fn numbers_of_manifests(folder: &Folder) -> Result<()> {
    let ends = each("numbers of manifests", MANIFEST_NUMBERS, |rng| {
        let shard =
            if below(rng, 2) == 0 { folder.shard.clone() } else { mutate(&folder.shard, rng) };
        let lie = lie(folder, &shard, rng);
        folder.put(SHARD, &shard)?;
        folder.put(MANIFEST, lie.to_json().as_bytes())?;
        match folder.read() {
            Ok(()) => Ok("read"),
            Err(error) => is_typed(&error).map(|()| "refused"),
        }
    })?;
    ensure!(ends.get("refused") > Some(&(MANIFEST_NUMBERS / 2)), "{ends:?}");
    Ok(())
}

fn lie(folder: &Folder, file: &[u8], rng: &mut ChaCha8Rng) -> Manifest {
    let Manifest { encoder, mut tokens, mut dim, dtype, mut shards, .. } = folder.manifest.clone();
    for _ in 0..below(rng, 3) {
        let number = match below(rng, 3) {
            0 => EXTREMES[below(rng, EXTREMES.len() as u64) as usize],
            _ => below(rng, file.len() as u64 + 9),
        };
        let shard = &mut shards[0];
        let group = below(rng, shard.groups.len() as u64) as usize;
        let group = &mut shard.groups[group];
        let places: [&mut u64; 8] = [
            &mut shard.bytes,
            &mut shard.rows,
            &mut shard.footer_bytes,
            &mut group.rows,
            &mut group.offset,
            &mut group.bytes,
            &mut group.frames[1],
            &mut group.text[1],
        ];
        match below(rng, 10) {
            8 => tokens = number as usize,
            9 => dim = number as usize,
            place => *places.into_iter().nth(place as usize).unwrap_or(&mut 0) = number,
        }
    }
    shards.iter_mut().for_each(|shard| believe(shard, file));
    Manifest::new(encoder, tokens, dim, dtype, shards)
}

/// Makes all checksums of a shard those of a file.
fn believe(shard: &mut Shard, file: &[u8]) {
    let part = |start: u64, length: u64| {
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        file.get(start..end).map_or(Xxh3(0), |part| Xxh3(xxh3(part)))
    };
    if below(&mut draw(2, file.len() as u64, &shard.blake3, "size"), 2) == 0 {
        shard.bytes = file.len() as u64;
    }
    let footer = shard.bytes.saturating_sub(8).saturating_sub(shard.footer_bytes);
    shard.footer_xxh3 = part(footer, shard.footer_bytes);
    shard.groups.iter_mut().for_each(|group| group.xxh3 = part(group.offset, group.bytes));
}

#[test]
fn every_flipped_bit_of_a_shard_is_found() -> Result<()> {
    let folder = Folder::new(2)?;
    let set = folder.runtime.block_on(Dataset::open_at(folder.location.clone()))?;
    let mut changed = folder.shard.clone();
    for bit in 0..changed.len() * 8 {
        changed[bit / 8] ^= 1 << (bit % 8);
        folder.put(SHARD, &changed)?;
        // A new reader for each: a footer that was parsed before is not read again.
        let fresh = Dataset::open_at(folder.location.clone());
        let found = folder.runtime.block_on(async { fresh.await?.verify_shard(0).await });
        let error = found.err().with_context(|| format!("bit {bit} was not found"))?;
        is_typed(&error).with_context(|| format!("bit {bit}"))?;
        changed[bit / 8] ^= 1 << (bit % 8);
    }
    folder.put(SHARD, &changed)?;
    ensure!(folder.runtime.block_on(set.verify_shard(0))? == 2);
    println!("{} bits flipped, one at a time, all found", changed.len() * 8);
    Ok(())
}

/// Files that broke other readers once, as they are and changed. As shards under a manifest they are read in the unit
/// tests of strand-data.
#[test]
fn files_that_broke_other_readers_are_refused() -> Result<()> {
    let Some(folder) = std::env::var_os(BAD_PARQUET) else {
        println!("not checked: {BAD_PARQUET} names no folder");
        return Ok(());
    };
    limited("files_that_broke_other_readers_are_refused", || {
        let mut files = 0;
        for entry in std::fs::read_dir(Path::new(&folder))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "parquet") {
                continue;
            }
            let file = std::fs::read(&path)?;
            let name = path.display().to_string();
            let refuse = |bytes: Vec<u8>| match read_plain(&name, &Bytes::from(bytes), Dtype::F16) {
                Ok(_) => bail!("{name} was believed"),
                Err(error) => is_typed(&error).map(|()| "refused"),
            };
            refuse(file.clone())?;
            each(&name, 100, |rng| refuse(mutate(&file, rng)))?;
            files += 1;
        }
        ensure!(files > 0, "{BAD_PARQUET} holds no parquet file");
        Ok(())
    })
}
