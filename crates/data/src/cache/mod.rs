//! Fetched ranges on a node's disk, for all processes of the node: each is fetched once.
//!
//! An entry is a file named by its checksum. Whoever is first to lock the entry's *part* fetches, writes the part and
//! renames it to the entry; the others wait and read. The lock is `flock`'s, which the kernel frees when a process is
//! killed, so a half-written part has no owner and is written anew or removed. Length and checksum are verified at
//! every reading. A cache that cannot be written to is no reason to stop: then ranges are fetched past it, which is
//! counted and said once.

mod account;
mod entry;
mod folder;
mod place;

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{DataError, Dataset};
use account::Account;
use folder::{Folder, Part};

pub use entry::CacheEntry;
pub use place::{default_cache_limit, user_cache_folder};

/// How long to wait for another process's fetch before fetching oneself: it may have been stopped.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest pause between two looks at an entry that another process fetches.
const PAUSE: Duration = Duration::from_millis(16);

/// A folder of fetched ranges. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: Folder,
    account: Account,
    counts: Counts,
    has_warned: AtomicBool,
}

#[derive(Debug, Default)]
struct Counts {
    hits: AtomicU64,
    fetched: AtomicU64,
    fetched_bytes: AtomicU64,
    healed: AtomicU64,
    not_kept: AtomicU64,
}

/// What a process had from its cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Ranges that were there, or that another process fetched meanwhile.
    pub hits: u64,
    /// Ranges that this process fetched.
    pub fetched: u64,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// Damaged entries that were removed and fetched again.
    pub healed: u64,
    /// Fetched ranges that could not be kept: the disk was full or failed, or there was no room.
    pub not_kept: u64,
}

/// What one look at an entry found.
enum Look {
    There(Bytes),
    /// It is this process's turn to fetch it.
    Ours(Part),
    /// Another process is fetching it.
    Busy,
    /// There is no room for it.
    NoRoom,
}

/// An entry on disk.
enum Stored {
    Intact(Bytes),
    Damaged,
    Missing,
}

impl Cache {
    /// Opens or makes a cache. Entries take up `limit` bytes at most; those used longest ago go first.
    ///
    /// # Errors
    /// [`DataError::Cache`] where the folder holds something else, or cannot be written.
    pub fn open(folder: &Path, limit: u64) -> Result<Cache, DataError> {
        let folder = Folder::open(folder)?;
        let account = Account::new(folder.clone(), limit);
        account.recount().map_err(|error| folder.refuse(error.to_string()))?;
        let (counts, has_warned) = (Counts::default(), AtomicBool::new(false));
        Ok(Cache { inner: Arc::new(Inner { folder, account, counts, has_warned }) })
    }

    /// As [`Cache::open`], for the loaders of these data sets.
    ///
    /// # Errors
    /// As [`Cache::open`], and for a limit below [`Cache::least`].
    pub fn open_for(folder: &Path, limit: u64, sets: &[&Dataset]) -> Result<Cache, DataError> {
        let least = Cache::least(sets);
        if limit < least {
            return Err(DataError::Cache {
                folder: folder.display().to_string(),
                reason: format!(
                    "a limit of {limit} bytes is below the least that helps: {least} bytes, two windows of row groups"
                ),
            });
        }
        Cache::open(folder, limit)
    }

    /// The least limit, in bytes: two windows of the largest row groups of each set. With less, ranks that are not in
    /// step would drive out what the others still need.
    pub fn least(sets: &[&Dataset]) -> u64 {
        2 * sets.iter().map(|set| crate::groups::window_bytes(set)).sum::<u64>()
    }

    /// The bytes of an entry, from the cache or else from `fetch`, which one process of the node calls.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub async fn get_or_fetch<F: Future<Output = Result<Bytes, DataError>>>(
        &self,
        entry: &CacheEntry,
        fetch: impl FnOnce() -> F,
    ) -> Result<Bytes, DataError> {
        let part = match self.wait(entry).await {
            Ok(Look::There(bytes)) => return Ok(bytes),
            Ok(Look::Ours(part)) => Some(part),
            Ok(Look::Busy | Look::NoRoom) => None,
            Err(error) => self.warn(&error),
        };
        let fetched = fetch().await;
        if let Ok(bytes) = &fetched {
            self.add(|counts| (&counts.fetched, 1));
            self.add(|counts| (&counts.fetched_bytes, bytes.len() as u64));
        }
        match (part, &fetched) {
            (Some(part), Ok(bytes)) if entry.is_of(bytes) => self.keep(part, bytes.clone()).await,
            (Some(part), _) => self.give_up(part).await,
            (None, _) => self.add(|counts| (&counts.not_kept, 1)),
        }
        fetched
    }

    /// What it did so far.
    pub fn stats(&self) -> CacheStats {
        let Counts { hits, fetched, fetched_bytes, healed, not_kept } = &self.inner.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        CacheStats {
            hits: read(hits),
            fetched: read(fetched),
            fetched_bytes: read(fetched_bytes),
            healed: read(healed),
            not_kept: read(not_kept),
        }
    }

    /// Bytes of all entries, counted anew.
    ///
    /// # Errors
    /// [`DataError::Cache`] where the folder cannot be read.
    pub fn bytes(&self) -> Result<u64, DataError> {
        let Inner { folder, account, .. } = &*self.inner;
        account.recount().map_err(|error| folder.refuse(error.to_string()))
    }

    /// Looks until the entry is there, or ours to fetch, or patience ends.
    async fn wait(&self, entry: &CacheEntry) -> io::Result<Look> {
        let (started, mut pause) = (Instant::now(), Duration::from_millis(1));
        loop {
            let (inner, wanted) = (self.inner.clone(), entry.clone());
            match off_thread(move || inner.look(&wanted)).await? {
                Look::Busy if started.elapsed() < PATIENCE => tokio::time::sleep(pause).await,
                look => return Ok(look),
            }
            pause = (pause * 2).min(PAUSE);
        }
    }

    async fn keep(&self, part: Part, bytes: Bytes) {
        let inner = self.inner.clone();
        let write = move || match part.finish(&inner.folder, &bytes) {
            Ok(()) => Ok(()),
            Err(error) => inner.account.remove_part(&part).and(Err(error)),
        };
        if let Err(error) = off_thread(write).await {
            self.add(|counts| (&counts.not_kept, 1));
            let _: Option<()> = self.warn(&error);
        }
    }

    async fn give_up(&self, part: Part) {
        let inner = self.inner.clone();
        if let Err(error) = off_thread(move || inner.account.remove_part(&part)).await {
            let _: Option<()> = self.warn(&error);
        }
    }

    fn add<'a>(&'a self, which: impl FnOnce(&'a Counts) -> (&'a AtomicU64, u64)) {
        let (count, more) = which(&self.inner.counts);
        count.fetch_add(more, Ordering::Relaxed);
    }

    /// Says once that the cache is in trouble.
    fn warn<T>(&self, error: &io::Error) -> Option<T> {
        if !self.inner.has_warned.swap(true, Ordering::Relaxed) {
            let folder = self.inner.folder.root().display();
            tracing::warn!("cache {folder}: {error}; what cannot be kept is fetched again");
        }
        None
    }
}

impl Inner {
    fn look(&self, entry: &CacheEntry) -> io::Result<Look> {
        if let Stored::Intact(bytes) = self.read(entry)? {
            return Ok(Look::There(bytes));
        }
        let Some(part) = self.folder.claim(entry.name())? else {
            return Ok(Look::Busy);
        };
        // Another process may have finished it just before the claim; from now on nobody else changes it.
        match self.read(entry)? {
            Stored::Intact(bytes) => {
                self.account.remove_part(&part)?;
                return Ok(Look::There(bytes));
            }
            Stored::Damaged => {
                self.counts.healed.fetch_add(1, Ordering::Relaxed);
                self.account.remove_entry(entry.name())?;
            }
            Stored::Missing => {}
        }
        if !self.account.reserve(&part, entry.bytes())? {
            self.account.remove_part(&part)?;
            return Ok(Look::NoRoom);
        }
        Ok(Look::Ours(part))
    }

    fn read(&self, entry: &CacheEntry) -> io::Result<Stored> {
        let Some(found) = self.folder.read(entry.name(), entry.bytes())? else {
            return Ok(Stored::Missing);
        };
        if !entry.is_of(&found) {
            return Ok(Stored::Damaged);
        }
        self.counts.hits.fetch_add(1, Ordering::Relaxed);
        Ok(Stored::Intact(found))
    }
}

/// Files are read and written off the I/O threads.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests;
