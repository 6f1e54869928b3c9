//! Opening and reading a data set.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use strand_store::{Location, StoreError, xxh3};
use tokio::sync::OnceCell;

use crate::batch::RowGroup;
use crate::decode::{Checksums, decode_group};
use crate::error::Place;
use crate::fetch::Fetcher;
use crate::manifest::{Group, MANIFEST, MAX_MANIFEST_BYTES, Shard};
use crate::stored::LocalShard;
use crate::{DataError, Manifest, Row, footer, stored};

/// Parsed footers that stay in memory.
const FOOTERS_KEPT: usize = 256;

/// A data set that can be read. Cheap to clone.
#[derive(Clone)]
pub struct Dataset {
    inner: Arc<Inner>,
}

struct Inner {
    location: Location,
    manifest: Manifest,
    footers: Mutex<Footers>,
}

type Footer = Arc<OnceCell<ArrowReaderMetadata>>;

#[derive(Default)]
struct Footers {
    by_shard: HashMap<usize, Footer>,
    /// Shards in the order they came in.
    order: VecDeque<usize>,
}

impl Footers {
    fn of(&mut self, shard: usize) -> Footer {
        if let Some(footer) = self.by_shard.get(&shard) {
            return footer.clone();
        }
        if self.order.len() == FOOTERS_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_shard.remove(&oldest);
        }
        self.order.push_back(shard);
        self.by_shard.entry(shard).or_default().clone()
    }
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dataset({}, {} rows)", self.inner.location, self.num_rows())
    }
}

impl Dataset {
    /// Opens a folder or URL: one request, for the manifest.
    ///
    /// # Errors
    /// [`DataError::MissingManifest`], [`DataError::Manifest`] and [`DataError::Store`].
    pub async fn open(url: &str) -> Result<Dataset, DataError> {
        Self::open_at(Location::open(url)?).await
    }

    /// As [`Self::open`], at a location.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_at(location: Location) -> Result<Dataset, DataError> {
        let json = match location.get_bounded(MANIFEST, MAX_MANIFEST_BYTES).await {
            Err(StoreError::NotFound { .. }) => {
                return Err(DataError::MissingManifest { url: location.url() });
            }
            json => json?,
        };
        let manifest = Manifest::parse(&location.url_of(MANIFEST), &json)?;
        let footers = Mutex::default();
        Ok(Dataset { inner: Arc::new(Inner { location, manifest, footers }) })
    }

    /// What the data set holds.
    pub fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// Where it lies.
    pub fn location(&self) -> &Location {
        &self.inner.location
    }

    /// Rows of all shards.
    pub fn num_rows(&self) -> u64 {
        self.manifest().num_rows()
    }

    /// Reads a row group: its bytes and, the first time, the shard's footer, at once. Every row is checked against
    /// its checksum; features point into the fetched bytes.
    ///
    /// # Errors
    /// [`DataError::MissingShard`], [`DataError::Truncated`], [`DataError::Checksum`], [`DataError::Shard`] and
    /// [`DataError::Store`]. All name the shard, most the row group, a damaged sample its row.
    pub async fn read_group(&self, shard: usize, group: usize) -> Result<Vec<Row>, DataError> {
        let fetcher = Fetcher::default();
        self.read_group_with(&fetcher, shard, group, Checksums::GroupAndRows).await
    }

    /// As [`Self::read_group`], with the bytes from `fetcher`. What is damaged is fetched once more before it is an
    /// error: the damage may have been done on the way.
    pub(crate) async fn read_group_with(
        &self,
        fetcher: &Fetcher,
        shard: usize,
        group: usize,
        checksums: Checksums,
    ) -> Result<Vec<Row>, DataError> {
        let bytes = fetcher.fetch(self, shard, group);
        match self.decoded(fetcher, bytes, shard, group, checksums).await {
            Err(DataError::Checksum { .. }) => {
                let bytes = fetcher.fetch_anew(self, shard, group);
                self.decoded(fetcher, bytes, shard, group, checksums).await
            }
            rows => rows,
        }
    }

    /// A row group for a loader: of a local file all but the features, which are read from disk meanwhile if `ahead`;
    /// else as [`Self::read_group_with`].
    pub(crate) async fn load_group(
        &self,
        fetcher: &Fetcher,
        shard: usize,
        group: usize,
        ahead: bool,
    ) -> Result<RowGroup, DataError> {
        let is_local = self.location().local_path().is_some();
        if is_local && let Some(checked) = self.open_group(fetcher, shard, group, ahead).await? {
            return Ok(checked);
        }
        let rows = self.read_group_with(fetcher, shard, group, Checksums::Group).await?;
        if is_local {
            // Another writer's, without a checksum of its texts, or damage that was gone the second time.
            tracing::debug!(
                "{}, shard {shard}, row group {group}: kept in memory",
                self.location()
            );
        }
        Ok(RowGroup { rows, stored: None })
    }

    /// A row group of a local file without its features. `None` where it cannot be read so: the reading of the whole
    /// tells why.
    ///
    /// # Errors
    /// [`DataError::Shard`] where the parquet library gave up on it.
    pub(crate) async fn open_group(
        &self,
        fetcher: &Fetcher,
        shard: usize,
        group: usize,
        ahead: bool,
    ) -> Result<Option<RowGroup>, DataError> {
        let (description, expected) = self.group(shard, group)?;
        let (path, expected) = (description.path.clone(), expected.clone());
        let place = Place::group(self.location().url_of(&path), group);
        let shard_bytes = description.bytes;
        let Ok(footer) = self.footer_with(fetcher, shard, description).await else {
            return Ok(None);
        };
        let (task, bytes, shape) = (place.clone(), expected.bytes, self.manifest().row_shape());
        let file = LocalShard { location: self.location().clone(), path, bytes: shard_bytes };
        let _slot = self.location().slot().await;
        let check = move || Ok(stored::check(&task, footer, &expected, shape, file, ahead));
        let Some((rows, features)) = guarded(&place, check).await? else { return Ok(None) };
        fetcher.fetched.count(bytes);
        Ok(Some(RowGroup { rows, stored: Some(features) }))
    }

    async fn decoded(
        &self,
        fetcher: &Fetcher,
        bytes: impl Future<Output = Result<Bytes, DataError>>,
        shard: usize,
        group: usize,
        checksums: Checksums,
    ) -> Result<Vec<Row>, DataError> {
        let (description, expected) = self.group(shard, group)?;
        let place = Place::group(self.inner.location.url_of(&description.path), group);
        let footer = self.footer_with(fetcher, shard, description);
        let (bytes, footer) = tokio::try_join!(bytes, footer)?;
        let (task, expected, shape) =
            (place.clone(), expected.clone(), self.manifest().row_shape());
        let decode = move || decode_group(&task, &footer, &expected, shape, bytes, checksums);
        guarded(&place, decode).await
    }

    /// What the manifest says of a row group, and of its shard.
    pub(crate) fn group(&self, shard: usize, group: usize) -> Result<(&Shard, &Group), DataError> {
        let shard = self.shard(shard)?;
        let place = || Place::group(self.inner.location.url_of(&shard.path), group);
        let missing = || DataError::Settings(format!("{}: there is no such row group", place()));
        Ok((shard, shard.groups.get(group).ok_or_else(missing)?))
    }

    pub(crate) fn shard(&self, shard: usize) -> Result<&Shard, DataError> {
        let missing =
            || DataError::Settings(format!("{}: there is no shard {shard}", self.inner.location));
        self.manifest().shards.get(shard).ok_or_else(missing)
    }

    pub(crate) async fn read(
        &self,
        shard: &Shard,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, DataError> {
        let place = || Place::shard(self.inner.location.url_of(&shard.path));
        let read = self.inner.location.get_range(&shard.path, range).await;
        read.map_err(|error| DataError::of_shard(place(), shard.bytes, error))
    }

    pub(crate) async fn footer(
        &self,
        index: usize,
        shard: &Shard,
    ) -> Result<ArrowReaderMetadata, DataError> {
        self.footer_with(&Fetcher::default(), index, shard).await
    }

    async fn footer_with(
        &self,
        fetcher: &Fetcher,
        index: usize,
        shard: &Shard,
    ) -> Result<ArrowReaderMetadata, DataError> {
        // Nothing can panic while the lock is held.
        let cell = self.inner.footers.lock().unwrap_or_else(PoisonError::into_inner).of(index);
        cell.get_or_try_init(|| self.fetch_footer(fetcher, index, shard)).await.cloned()
    }

    async fn fetch_footer(
        &self,
        fetcher: &Fetcher,
        index: usize,
        shard: &Shard,
    ) -> Result<ArrowReaderMetadata, DataError> {
        let tail = fetcher.footer(self, index).await?;
        let place = Place::shard(self.inner.location.url_of(&shard.path));
        if xxh3(&tail[..shard.footer_bytes as usize]) != shard.footer_xxh3.0 {
            return Err(DataError::Checksum { place, what: "the footer".to_owned() });
        }
        let (task, shard) = (place.clone(), shard.clone());
        let parse = move || {
            footer::check(&shard, &tail).map_err(|reason| DataError::Shard { place: task, reason })
        };
        guarded(&place, parse).await
    }
}

/// Runs work off the I/O threads. A library that panics on what it read is one more kind of bad shard.
pub(crate) async fn guarded<T: Send + 'static>(
    place: &Place,
    work: impl FnOnce() -> Result<T, DataError> + Send + 'static,
) -> Result<T, DataError> {
    let reason = "the parquet reader gave up on it".to_owned();
    let failed = |_| DataError::Shard { place: place.clone(), reason };
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}
