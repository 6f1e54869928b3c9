//! How many bytes a cache holds, and who goes when there is no room.
//!
//! The account is a number in a file, changed under the file's lock. It is never below the truth, wherever a process
//! is killed: bytes are added to it before they are on disk, and taken off after they are gone. A part has its whole
//! length from the moment it is reserved. When the account says that there is no room, the files are counted anew.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::folder::{Folder, Found, Part, remove};

/// The account is held for as long as a listing takes; a process that holds it longer was stopped.
const PATIENCE: Duration = Duration::from_secs(10);
/// When there is no room, this part of the limit is made free, so that not every entry needs a listing.
const SLACK: u64 = 16;

/// The account of a folder.
#[derive(Debug)]
pub(super) struct Account {
    folder: Folder,
    limit: u64,
}

impl Account {
    pub fn new(folder: Folder, limit: u64) -> Account {
        Account { folder, limit }
    }

    /// Gives a part its whole length, where need be in place of entries that were used longest ago. False where there
    /// is no room even so.
    pub fn reserve(&self, part: &Part, bytes: u64) -> io::Result<bool> {
        let account = self.lock()?;
        // A part that a killed process left behind has been counted.
        let more = bytes.saturating_sub(part.file.metadata()?.len());
        let mut total = match read(&account)? {
            Some(total) => total,
            None => self.count()?.0,
        };
        if total.saturating_add(more) > self.limit {
            total = self.evict(more)?;
        }
        let has_room = total.saturating_add(more) <= self.limit;
        write(&account, if has_room { total + more } else { total })?;
        if has_room {
            part.file.set_len(bytes)?;
        }
        Ok(has_room)
    }

    /// Removes a part whose lock is held.
    pub fn remove_part(&self, part: &Part) -> io::Result<()> {
        let account = self.lock()?;
        let bytes = part.file.metadata()?.len();
        remove(&part.path)?;
        take_off(&account, bytes)
    }

    /// Removes an entry.
    pub fn remove_entry(&self, name: &str) -> io::Result<()> {
        let account = self.lock()?;
        let path = self.folder.entries().join(name);
        let bytes = match std::fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            metadata => metadata?.len(),
        };
        remove(&path)?;
        take_off(&account, bytes)
    }

    /// Counts the files, removes what killed processes left behind and what is beyond the limit, and sets the account
    /// right.
    pub fn recount(&self) -> io::Result<u64> {
        let account = self.lock()?;
        let (mut total, _) = self.count()?;
        if total > self.limit {
            total = self.evict(0)?;
        }
        write(&account, total)?;
        Ok(total)
    }

    /// Bytes of parts and entries, and the entries.
    fn count(&self) -> io::Result<(u64, Vec<Found>)> {
        // Parts first: one that becomes an entry meanwhile is counted twice rather than not at all.
        let parts = self.folder.live_parts()?;
        let entries = self.folder.list_entries()?;
        let total = parts.iter().chain(&entries).map(|found| found.bytes).sum();
        Ok((total, entries))
    }

    /// Removes entries until `more` bytes and some slack fit. Returns what is left.
    fn evict(&self, more: u64) -> io::Result<u64> {
        let (mut total, mut entries) = self.count()?;
        if total.saturating_add(more) <= self.limit {
            return Ok(total);
        }
        let wanted = (self.limit - self.limit / SLACK).saturating_sub(more);
        entries.sort_by_key(|entry| entry.used);
        for entry in entries {
            if total <= wanted {
                break;
            }
            remove(&entry.path)?;
            total -= entry.bytes;
        }
        Ok(total)
    }

    fn lock(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(self.folder.account())?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if started.elapsed() > PATIENCE => {
                    let reason = "another process holds the account";
                    return Err(io::Error::new(ErrorKind::TimedOut, reason));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    }
}

/// The account; `None` where there is none yet.
fn read(account: &File) -> io::Result<Option<u64>> {
    let mut total = [0; 8];
    match account.read_exact_at(&mut total, 0) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        read => read.map(|()| Some(u64::from_le_bytes(total))),
    }
}

fn write(account: &File, total: u64) -> io::Result<()> {
    account.write_all_at(&total.to_le_bytes(), 0)
}

fn take_off(account: &File, bytes: u64) -> io::Result<()> {
    match read(account)? {
        Some(total) => write(account, total.saturating_sub(bytes)),
        None => Ok(()),
    }
}

#[cfg(test)]
impl Account {
    /// What the account says, without counting.
    pub fn total(&self) -> Option<u64> {
        read(&self.lock().expect("locked")).expect("read")
    }
}
