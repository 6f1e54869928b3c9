//! libtorch's CUDA side, loaded at run time.
//!
//! Programs are linked to the CPU's libraries alone, so that one build serves machines with and without GPUs. On one with
//! GPUs `libtorch_cuda.so`, once loaded, adds its operators to libtorch.

use std::error::Error as _;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::Error;

/// Lies beside `libtorch_cpu.so` where LIBTORCH is one with CUDA.
const FILE: &str = "libtorch_cuda.so";

/// Loads libtorch's CUDA side for the rest of the process. Call it before anything asks libtorch for a GPU: its answer
/// that there is none would stay.
///
/// # Errors
/// [`Error::NoCuda`]: it is not there, or something that it needs is not.
pub fn load_cuda() -> Result<(), Error> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| load(FILE));
    loaded.clone().map_err(|reason| Error::NoCuda { library: FILE, reason })
}

fn load(file: &str) -> Result<(), String> {
    // Safety: its initialisers register operators with libtorch, which takes them at any time.
    let library = unsafe { Library::open(Some(file), RTLD_NOW | RTLD_GLOBAL) };
    // libtorch keeps pointers into it.
    library.map(std::mem::forget).map_err(|error| {
        // What it was doing; the cause has the loader's own words.
        error.source().map_or_else(|| error.to_string(), ToString::to_string)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named() {
        let reason = load("libno-such-torch.so").unwrap_err();
        assert!(reason.contains("libno-such-torch.so"), "{reason}");
    }
}
