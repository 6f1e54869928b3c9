//! The files of a cache: `entries/NAME`, `parts/NAME`, the account, and a marker that says whose folder it is.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;

use super::entry::is_entry_name;
use crate::DataError;

/// Says that a folder is a cache, and of which layout.
const MARKER: (&str, &str) =
    ("strand-cache.json", "{\"format\":\"strand-row-group-cache\",\"version\":1}\n");
/// The marker while it is being written.
const NEW_MARKER: &str = "strand-cache.json.new";

/// A folder that this library made, or that was empty.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    root: PathBuf,
}

/// An entry that this process is to fetch: its lock is held until this is dropped.
#[derive(Debug)]
pub(super) struct Part {
    name: String,
    pub file: File,
    pub path: PathBuf,
}

/// A file of the cache, as eviction sees it.
#[derive(Debug)]
pub(super) struct Found {
    pub used: SystemTime,
    pub bytes: u64,
    pub path: PathBuf,
}

impl Folder {
    pub fn open(root: &Path) -> Result<Folder, DataError> {
        let folder = Folder { root: root.to_owned() };
        folder.prepare().map_err(|error| folder.refuse(error.to_string()))??;
        Ok(folder)
    }

    /// Makes what is missing; refuses what others made.
    fn prepare(&self) -> io::Result<Result<(), DataError>> {
        fs::create_dir_all(&self.root)?;
        let marker = self.root.join(MARKER.0);
        if !marker.exists() {
            // The marker is there before all else, so where there is one by now, another process made what was found.
            if let Some(name) = self.foreign()?.filter(|_| !marker.exists()) {
                let reason = format!("the folder is no cache and not empty: it holds `{name}`");
                return Ok(Err(self.refuse(reason)));
            }
            self.write_marker(&marker)?;
        }
        if fs::read_to_string(&marker)? != MARKER.1 {
            return Ok(Err(self.refuse("another version of strand made it".to_owned())));
        }
        fs::create_dir_all(self.entries())?;
        fs::create_dir_all(self.parts())?;
        Ok(Ok(()))
    }

    /// A name that is not one of a marker.
    fn foreign(&self) -> io::Result<Option<String>> {
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            if name != NEW_MARKER && name != MARKER.0 {
                return Ok(Some(name.to_string_lossy().into_owned()));
            }
        }
        Ok(None)
    }

    /// Several processes may do this at once: who holds the new marker's lock writes it, the others find it done. The
    /// lock of one that is killed is free again, and the next writes the marker anew.
    fn write_marker(&self, marker: &Path) -> io::Result<()> {
        let new = self.root.join(NEW_MARKER);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&new)?;
        file.lock()?;
        if marker.exists() {
            return remove(&new);
        }
        file.set_len(0)?;
        file.write_all_at(MARKER.1.as_bytes(), 0)?;
        fs::rename(&new, marker)
    }

    pub fn refuse(&self, reason: String) -> DataError {
        DataError::Cache { folder: self.root.display().to_string(), reason }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn account(&self) -> PathBuf {
        self.root.join("account")
    }

    pub fn entries(&self) -> PathBuf {
        self.root.join("entries")
    }

    pub fn parts(&self) -> PathBuf {
        self.root.join("parts")
    }

    /// The content of an entry, at most `bytes` and one more. Marks it as used now.
    pub fn read(&self, name: &str, bytes: u64) -> io::Result<Option<Bytes>> {
        let file = match File::open(self.entries().join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let size = file.metadata()?.len();
        let mut content = Vec::with_capacity(size.min(bytes + 1) as usize);
        (&file).take(bytes + 1).read_to_end(&mut content)?;
        file.set_modified(SystemTime::now())?;
        Ok(Some(content.into()))
    }

    /// Locks the part of an entry; `None` while another process has it.
    pub fn claim(&self, name: &str) -> io::Result<Option<Part>> {
        let path = self.parts().join(name);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Its owner may have renamed or removed it since it was opened: then the lock is one on another file.
        let is_there = is_same(&file, &path)?;
        Ok(is_there.then(|| Part { name: name.to_owned(), file, path }))
    }

    /// The parts; those that nobody writes are removed.
    pub fn live_parts(&self) -> io::Result<Vec<Found>> {
        let mut live = Vec::new();
        for found in list(&self.parts())? {
            let file = match File::open(&found.path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                file => file?,
            };
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => live.push(found),
                Err(TryLockError::Error(error)) => return Err(error),
                Ok(()) if is_same(&file, &found.path)? => remove(&found.path)?,
                Ok(()) => {}
            }
        }
        Ok(live)
    }

    /// The entries, in no order.
    pub fn list_entries(&self) -> io::Result<Vec<Found>> {
        list(&self.entries())
    }
}

impl Part {
    /// Writes the part and makes it the entry.
    pub fn finish(&self, folder: &Folder, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, 0)?;
        fs::rename(&self.path, folder.entries().join(&self.name))
    }
}

/// Removes a file that may be gone.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The files that have names of ours.
fn list(folder: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_entry_name) {
            continue;
        }
        match entry.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            metadata => {
                let metadata = metadata?;
                let (used, bytes) = (metadata.modified()?, metadata.len());
                found.push(Found { used, bytes, path: entry.path() });
            }
        }
    }
    Ok(found)
}

fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    let of = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        metadata => Ok(of(metadata?) == of(file.metadata()?)),
    }
}
