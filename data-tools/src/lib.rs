//! What `strand data` does: makes data sets from nothing ([`synth`]), from videos ([`extract`]) or from features that
//! are there ([`pack`]), looks at them ([`inspect`], [`stats`]), checks them ([`verify`]) and cuts them anew
//! ([`reshard`]).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod encoder;
mod error;
pub mod extract;
pub mod image;
pub mod inspect;
pub mod pack;
pub mod patch;
pub mod reshard;
mod resize;
mod settings;
pub mod stats;
pub mod synth;
pub mod tokenizer;
pub mod verify;

pub use error::ToolsError;
pub use settings::{Budget, Sizes};

/// Is called as work goes on, with what is done and what there is.
pub type OnProgress<'a> = &'a mut (dyn FnMut(u64, u64) + Send);

/// Cores of this machine, as far as they may be used.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
