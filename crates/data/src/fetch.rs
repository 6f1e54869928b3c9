//! The bytes of row groups: the one way from storage to the decoder.

use std::sync::Arc;

use bytes::Bytes;

use crate::groups::Fetched;
use crate::{Cache, CacheEntry, DataError, Dataset};

/// Fetches row groups for a loader. Nothing is decoded or checked here but the length.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fetcher {
    /// The node's cache; used for data sets in object storage.
    pub cache: Option<Cache>,
    /// Counts what storage sent.
    pub fetched: Arc<Fetched>,
}

impl Fetcher {
    /// The bytes of a row group, as many as the manifest says.
    ///
    /// # Errors
    /// [`DataError::MissingShard`], [`DataError::Truncated`] and [`DataError::Store`].
    pub async fn fetch(
        &self,
        set: &Dataset,
        shard: usize,
        group: usize,
    ) -> Result<Bytes, DataError> {
        let (_, description) = set.group(shard, group)?;
        match self.cache_of(set) {
            Some(cache) => {
                let entry = CacheEntry::group(set.manifest(), shard, group, description);
                cache.get_or_fetch(&entry, || self.fetch_anew(set, shard, group)).await
            }
            None => self.fetch_anew(set, shard, group).await,
        }
    }

    /// As [`Self::fetch`], from storage itself: what was fetched before is damaged.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub async fn fetch_anew(
        &self,
        set: &Dataset,
        shard: usize,
        group: usize,
    ) -> Result<Bytes, DataError> {
        let (file, description) = set.group(shard, group)?;
        let bytes = set.read(file, description.range()).await?;
        self.fetched.count(bytes.len() as u64);
        Ok(bytes)
    }

    /// The footer of a shard and the 8 bytes behind it.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub async fn footer(&self, set: &Dataset, index: usize) -> Result<Bytes, DataError> {
        let shard = set.shard(index)?;
        let read = async || set.read(shard, shard.footer_range()).await;
        match self.cache_of(set) {
            Some(cache) => {
                let entry = CacheEntry::footer(set.manifest(), index, shard);
                cache.get_or_fetch(&entry, read).await
            }
            None => read().await,
        }
    }

    /// What lies on a disk of the node already needs no copy there.
    fn cache_of(&self, set: &Dataset) -> Option<&Cache> {
        self.cache.as_ref().filter(|_| set.location().local_path().is_none())
    }
}
