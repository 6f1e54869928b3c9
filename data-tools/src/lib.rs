//! What `strand data` does: makes data sets from nothing ([`synth`]) or from videos ([`extract`]), looks at them
//! ([`inspect`]) and checks them ([`verify`]).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod encoder;
mod error;
pub mod extract;
pub mod image;
pub mod inspect;
pub mod patch;
mod resize;
pub mod synth;
pub mod tokenizer;
pub mod verify;

pub use error::ToolsError;

/// Is called as work goes on, with what is done and what there is.
pub type OnProgress<'a> = &'a mut (dyn FnMut(u64, u64) + Send);
