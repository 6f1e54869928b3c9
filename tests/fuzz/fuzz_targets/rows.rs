//! Any bytes as a shard without a manifest, so that no checksum but those of the rows stands before the decoder.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use strand_data::{Dtype, read_plain};

fuzz_target!(|file: &[u8]| {
    // An error is an answer; a panic, an abort and too much memory are not.
    let _ = read_plain("fuzz", &Bytes::copy_from_slice(file), Dtype::F16);
});
