//! The bytes of row groups: the one way from storage to the decoder.

use bytes::Bytes;

use crate::{DataError, Dataset};

/// Fetches row groups for a loader. Nothing is decoded or checked here but the length.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fetcher {}

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
        let (shard, group) = set.group(shard, group)?;
        set.read(shard, group.range()).await
    }
}
