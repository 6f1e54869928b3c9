//! What this program is made of, for `strand doctor`.

/// Versions and devices as one JSON object.
pub fn json() -> serde_json::Value {
    // Without it libtorch sees no GPU.
    let cuda = strand_torch::load_cuda();
    serde_json::json!({
        "strand": env!("CARGO_PKG_VERSION"),
        "libtorch": libtorch(),
        "threads": tch::get_num_threads(),
        "cuda_devices": cuda.map_or(0, |()| tch::Cuda::device_count()),
    })
}

/// The version of the libtorch that tch 0.24 binds; a build against another one fails.
fn libtorch() -> &'static str {
    "2.11.0"
}
