//! Any text as a manifest: refused, or one that writes itself again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use strand_data::Manifest;

fuzz_target!(|json: &[u8]| {
    if let Ok(manifest) = Manifest::parse("fuzz", json) {
        let again = Manifest::parse("fuzz", manifest.to_json().as_bytes());
        assert_eq!(again.ok(), Some(manifest));
    }
});
