//! Running asynchronous storage code from a plain function.

use crate::failure::Failure;

/// Runs `work` to its end on this thread.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::environment("cannot start a runtime").because(error))?
        .block_on(work)
}
