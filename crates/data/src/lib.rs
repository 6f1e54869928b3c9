//! Data sets of features: written once as parquet shards, streamed in an order that is a pure function.
//!
//! - [`ShardWriter`] writes a data set, [`Dataset`] reads it, [`Manifest`] describes it.
//! - [`Loader`] gives a rank its batches in the [`Order`], from a [`Cursor`] on.
//! - [`draw`] and [`frames`] choose what a visit to a sample sees.
//! - [`Prompter`] turns questions and answers into token ids.
//! - [`encoding`] is how an encoder process is talked to.

mod adopt;
mod batch;
mod cache;
#[cfg(test)]
mod damage;
mod dataset;
mod decode;
mod decompress;
mod demand;
mod draw;
pub mod encoding;
mod epoch;
mod error;
mod fetch;
mod footer;
pub mod frames;
mod groups;
mod loader;
mod manifest;
mod mixing;
mod order;
mod pages;
mod parallel;
mod permute;
mod pool;
mod prompts;
mod rest_checksum;
mod row;
mod salvage;
mod sample;
mod schema;
mod stored;
#[cfg(test)]
mod stream;
#[cfg(test)]
mod testing;
mod texts;
mod verify;
mod walk;
mod writer;

pub use adopt::{PlainFile, adopt, plain_files, read_plain};
pub use batch::Batch;
pub use cache::{Cache, CacheEntry, CacheStats, default_cache_limit, user_cache_folder};
pub use dataset::Dataset;
pub use draw::{below, draw};
pub use error::{DataError, Place};
pub use frames::FrameRule;
pub use loader::{Loader, LoaderOptions};
pub use manifest::{Format, Group, MANIFEST, Manifest, Shard, Xxh3};
pub use order::{Cursor, Order, OrderRules, SampleRef, cut};
pub use prompts::{PromptStyle, Prompter, Tokens};
pub use row::{Dtype, Encoder, Media, Qa, Row};
pub use salvage::Skipped;
pub use sample::Sample;
pub use schema::columns;
pub use texts::RowText;
pub use verify::ShardCheck;
pub use writer::{ShardWriter, WriterOptions};
