//! Ranges of objects: several at a time, tried again, and sent twice where one is slow.
//!
//! This is the one place where reads are retried; the client below does not. A request holds one of
//! [`IN_FLIGHT`] slots while it is sent, but not while it waits to be tried again, and one that is slow lends its slot
//! to another: neither holds up the others.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, FuturesUnordered};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetRange, GetResult};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;

use crate::buffers::{Buffer, Pool};
use crate::pace::Pace;
use crate::patience::Patience;
use crate::remote::{Failure, Remote, take_in};
use crate::traffic::{Counters, Traffic, count};

/// Requests under way at once, and as many again while so many are slow.
const IN_FLIGHT: usize = 32;
/// Reads of local files beyond the number of cores.
const HANDED_OVER: usize = 2;
/// Larger ranges are asked for in parts.
const PART: u64 = 16 << 20;
/// Parts of one range under way at once.
const PARTS_IN_FLIGHT: usize = 8;
/// The size under which [`Pace`] keeps how long answers take to begin; no range has it.
const BEGINNING: u64 = 0;
/// Time without any success after which a store is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where the bytes are.
#[derive(Clone)]
pub(crate) enum Source {
    Folder(Arc<LocalFileSystem>),
    Remote(Arc<Remote>),
}

/// Reads ranges of the objects of one store.
pub(crate) struct Ranges {
    source: Source,
    pool: Arc<Pool>,
    slots: Semaphore,
    /// Slots of requests that turned out to be slow.
    spare: Semaphore,
    pace: Pace,
    patience: Patience,
    counters: Counters,
}

impl Ranges {
    pub fn new(source: Source, patience: Duration) -> Ranges {
        let slots = match source {
            // As many as there are cores, and some that are handed from one thread to the next: more only make the first
            // piece later.
            Source::Folder(_) => available_parallelism().map_or(2, usize::from) + HANDED_OVER,
            Source::Remote(_) => IN_FLIGHT,
        };
        Ranges {
            source,
            pool: Pool::shared(),
            slots: Semaphore::new(slots),
            spare: Semaphore::new(IN_FLIGHT),
            pace: Pace::new(),
            patience: Patience::new(patience),
            counters: Counters::default(),
        }
    }

    /// The same store with a budget of its own.
    pub fn with_patience(&self, patience: Duration) -> Ranges {
        Ranges::new(self.source.clone(), patience)
    }

    pub fn traffic(&self) -> Traffic {
        self.counters.now()
    }

    /// Exactly these bytes, of which there is at least one.
    ///
    /// The work is a task of its own, ended where the caller goes away: a caller that holds several reads and polls
    /// only some of them would otherwise keep the slots of the others from those it waits for.
    pub async fn read(self: &Arc<Self>, key: Path, range: Range<u64>) -> Result<Bytes, Failure> {
        let ranges = self.clone();
        let mut task = JoinSet::new();
        task.spawn(async move { ranges.read_here(&key, range).await });
        let joined =
            task.join_next().await.unwrap_or_else(|| Ok(Err(io::Error::other("no task").into())));
        joined.map_err(io::Error::other)?
    }

    /// A whole remote object of up to `max_bytes`. Where its answer does not begin, it is asked for again as a range
    /// is; how long the body takes nobody knows beforehand, so that goes on for as long as more of it comes.
    pub async fn read_whole(
        &self,
        remote: &Remote,
        key: &Path,
        max_bytes: u64,
    ) -> Result<Bytes, Failure> {
        let read = async || {
            let _slot = self.slot().await;
            let answer = self.asked(remote, key, None).await?;
            let bytes = answer.meta.size;
            if bytes > max_bytes {
                return Err(Failure::TooLarge { bytes });
            }
            take_in(answer, self.pool.take(bytes as usize)?, &self.counters).await
        };
        Ok(self.retried(remote, read).await?.freeze())
    }

    /// The path of a file of a local folder.
    pub fn path(&self, key: &Path) -> io::Result<PathBuf> {
        match &self.source {
            Source::Folder(files) => files.path_to_filesystem(key).map_err(io::Error::other),
            Source::Remote(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// One of the requests that may be under way at once. The semaphore is never closed.
    pub async fn slot(&self) -> Option<SemaphorePermit<'_>> {
        self.slots.acquire().await.ok()
    }

    /// Counts a read that was made beside [`Self::read`].
    pub fn count(&self, bytes: u64) {
        count(&self.counters.requests, 1);
        count(&self.counters.bytes, bytes);
    }

    /// The remote store, where these are its objects.
    pub fn remote(&self) -> Option<&Remote> {
        match &self.source {
            Source::Folder(_) => None,
            Source::Remote(remote) => Some(remote),
        }
    }

    async fn read_here(&self, key: &Path, range: Range<u64>) -> Result<Bytes, Failure> {
        match &self.source {
            Source::Folder(files) => self.read_file(files.path_to_filesystem(key)?, range).await,
            Source::Remote(remote) => self.read_parts(remote, key, range).await,
        }
    }

    async fn read_file(&self, path: PathBuf, range: Range<u64>) -> Result<Bytes, Failure> {
        let _slot = self.slot().await;
        let pool = self.pool.clone();
        let bytes = range.end - range.start;
        let task = tokio::task::spawn_blocking(move || file_range(path, range, &pool));
        let buffer = task.await.map_err(io::Error::other)??;
        self.count(bytes);
        Ok(buffer.freeze())
    }

    async fn read_parts(
        &self,
        remote: &Remote,
        key: &Path,
        range: Range<u64>,
    ) -> Result<Bytes, Failure> {
        if range.end - range.start <= PART {
            return Ok(self.read_part(remote, key, range).await?.freeze());
        }
        let mut whole = self.pool.take((range.end - range.start) as usize)?;
        let starts = range.clone().step_by(PART as usize);
        let reads = starts.map(|start| async move {
            let part = start..(start + PART).min(range.end);
            (start - range.start, self.read_part(remote, key, part).await)
        });
        let mut reads = stream::iter(reads).buffer_unordered(PARTS_IN_FLIGHT);
        while let Some((at, part)) = reads.next().await {
            let part = part?;
            let end = at as usize + part.as_ref().len();
            whole.as_mut()[at as usize..end].copy_from_slice(part.as_ref());
        }
        drop(reads);
        Ok(whole.freeze())
    }

    async fn read_part(
        &self,
        remote: &Remote,
        key: &Path,
        range: Range<u64>,
    ) -> Result<Buffer, Failure> {
        let bytes = range.end - range.start;
        let read = async || {
            let wanted = Some(GetRange::Bounded(range.clone()));
            let answer = self.asked(remote, key, wanted).await?;
            if answer.meta.size < range.end {
                return Err(Failure::Truncated { bytes: answer.meta.size });
            }
            take_in(answer, self.pool.take(bytes as usize)?, &self.counters).await
        };
        let once = async || {
            let slot = self.slot().await;
            self.raced(bytes, slot, read).await
        };
        self.retried(remote, once).await
    }

    /// The answer to a request for an object or a range of it, whose body is still to come. It is asked for again
    /// where none begins: how long that takes tells a lost request sooner than how long a body takes, which depends on
    /// all others that are under way.
    async fn asked(
        &self,
        remote: &Remote,
        key: &Path,
        range: Option<GetRange>,
    ) -> Result<GetResult, Failure> {
        let send = || remote.ask(key, range.clone(), &self.counters);
        self.raced(BEGINNING, None, send).await
    }

    /// Tries until it succeeds or the budget is spent. Expired credentials are renewed once.
    async fn retried<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        remote: &Remote,
        attempt: impl Fn() -> F,
    ) -> Result<T, Failure> {
        let started = Instant::now();
        let (mut renewed, mut attempts) = (false, 0);
        loop {
            attempts += 1;
            let (generation, _) = remote.client();
            let failure = match attempt().await {
                Ok(answer) => {
                    self.patience.succeeded();
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            if failure.is_expired() && !std::mem::replace(&mut renewed, true) {
                remote.refresh(generation)?;
            } else if !failure.may_pass() {
                return Err(failure);
            } else if let Some(pause) = self.patience.pause(attempts) {
                tokio::time::sleep(pause).await;
            } else {
                let (waited, source) = (started.elapsed(), Box::new(failure));
                return Err(Failure::GaveUp { attempts, waited, source });
            }
            count(&self.counters.retries, 1);
        }
    }

    /// Sends a request for `bytes` and, where it is slow, a second one; the first good answer counts.
    async fn raced<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        bytes: u64,
        slot: Option<SemaphorePermit<'_>>,
        send: impl Fn() -> F,
    ) -> Result<T, Failure> {
        let started = Instant::now();
        let mut first = Box::pin(send());
        let slow_after = self.pace.slow_after(bytes);
        let answer = match tokio::time::timeout(slow_after, &mut first).await {
            Ok(answer) => answer,
            Err(_) => {
                let spare = slot.as_ref().and_then(|_| self.spare.try_acquire().ok());
                // Where no slot is spare, this request keeps its own.
                let _slot = if spare.is_some() { None } else { slot };
                self.hedged(first, send, slow_after).await
            }
        };
        if answer.is_ok() {
            self.pace.took(bytes, started.elapsed());
        }
        answer
    }

    /// Sends a slow request again, and once more where that is slow too, each time after twice as long.
    async fn hedged<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        first: Pin<Box<F>>,
        send: impl Fn() -> F,
        mut slow_after: Duration,
    ) -> Result<T, Failure> {
        let mut sent = FuturesUnordered::from_iter([first]);
        loop {
            if self.pace.may_hedge() {
                count(&self.counters.hedges, 1);
                sent.push(Box::pin(send()));
            }
            slow_after *= 2;
            let answer = async {
                loop {
                    match sent.next().await {
                        Some(Err(_)) if !sent.is_empty() => {}
                        answer => return answer,
                    }
                }
            };
            if let Ok(answer) = tokio::time::timeout(slow_after, answer).await {
                // There was one to answer: each round ends with an answer or with requests that are still out.
                return answer.unwrap_or(Err(Failure::Silent));
            }
        }
    }
}

/// Reads a part of a file, into memory that was used before where there is some.
fn file_range(path: PathBuf, range: Range<u64>, pool: &Arc<Pool>) -> Result<Buffer, Failure> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    if bytes < range.end {
        return Err(Failure::Truncated { bytes });
    }
    let mut buffer = pool.take((range.end - range.start) as usize)?;
    file.read_exact_at(buffer.as_mut(), range.start)?;
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that checks one piece while the next ones are on their way, and reads more to check it.
    #[tokio::test]
    async fn reads_that_nobody_polls_hold_up_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x");
        std::fs::write(&path, vec![7; 4096]).expect("written");
        let key = Path::from_absolute_path(&path).expect("a path");
        let source = Source::Folder(Arc::new(LocalFileSystem::new()));
        let ranges = Arc::new(Ranges::new(source, PATIENCE));
        let read = |start| ranges.read(key.clone(), start..start + 64);
        let mut ahead = stream::iter((0..32).map(|index| read(index * 64))).buffered(8);
        let work = async {
            let mut bytes = 0;
            while let Some(piece) = ahead.next().await {
                bytes += piece.expect("read").len() + read(0).await.expect("read").len();
            }
            bytes
        };
        let bytes = tokio::time::timeout(Duration::from_secs(30), work).await;
        assert_eq!(bytes.expect("no read waits for ever"), 32 * 128);
    }
}
