//! A request to stop: the worker sees it between steps, commits a checkpoint and exits with 75.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

/// Set once SIGTERM or SIGINT has arrived; from then on they no longer end the process.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Listens on the threads of `runtime`.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn listen(runtime: &Handle) -> std::io::Result<StopFlag> {
        let _context = runtime.enter();
        let flag = StopFlag::default();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let raised = flag.clone();
        runtime.spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            raised.raise();
        });
        Ok(flag)
    }

    /// Requests the stop.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was requested.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
