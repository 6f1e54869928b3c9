//! Several encoder processes, each clip to whichever is idle.

use std::sync::OnceLock;

use futures::future::{BoxFuture, try_join_all};
use strand_data::encoding::Ready;
use tokio::sync::{Mutex, mpsc};

use super::process::Process;
use super::{ClipEncoder, ModelOptions, Output};
use crate::ToolsError;
use crate::image::Frame;
use crate::resize::bicubic;

/// A model in one process a GPU, or in as many as were asked for.
#[derive(Debug)]
pub struct Processes {
    ready: Ready,
    idle: Mutex<mpsc::UnboundedReceiver<Process>>,
    back: mpsc::UnboundedSender<Process>,
    /// Why a process failed; its clip may not be the first that is asked about.
    failure: OnceLock<Failure>,
    /// Closed as soon as there is a failure, so that nobody waits for a process that never comes.
    open: tokio::sync::Semaphore,
}

#[derive(Debug)]
struct Failure {
    doing: Option<String>,
    message: String,
    hint: Option<String>,
    exit_code: u8,
}

impl Processes {
    /// Starts the processes and waits until all have read their weights.
    ///
    /// # Errors
    /// [`ToolsError::EncoderProcess`], [`ToolsError::Encoder`].
    pub async fn start(options: &ModelOptions) -> Result<Processes, ToolsError> {
        let threads = options.workers.map(threads_each);
        let first = Process::start(options, &options.device, threads).await?;
        let ready = first.ready().clone();
        let on_gpu = ready.device.starts_with("cuda");
        let usual = if on_gpu { ready.cuda_devices.max(1) } else { 1 };
        let workers = options.workers.unwrap_or(usual).max(1);
        let devices = (1..workers).map(|index| match on_gpu {
            true => format!("cuda:{}", index % ready.cuda_devices.max(1)),
            false => "cpu".to_owned(),
        });
        let start = |device: String| async move { Process::start(options, &device, threads).await };
        let others = try_join_all(devices.map(start)).await?;
        let (back, idle) = mpsc::unbounded_channel();
        for process in std::iter::once(first).chain(others) {
            check_same(&ready, process.ready())?;
            // The receiver is right here.
            let _ = back.send(process);
        }
        let Ready { encoder, compute, device, .. } = &ready;
        tracing::info!(
            "encoder {} ({}): {workers} × {compute} on {device}",
            encoder.kind,
            encoder.config
        );
        let open = tokio::sync::Semaphore::new(workers);
        Ok(Processes { ready, idle: Mutex::new(idle), back, failure: OnceLock::new(), open })
    }

    async fn lend(
        &self,
        clip: &str,
        frames: &[Vec<u8>],
        questions: &[String],
    ) -> Result<Vec<Vec<u8>>, ToolsError> {
        let Ok(_permit) = self.open.acquire().await else {
            return Err(self.failed());
        };
        let Some(mut process) = self.idle.lock().await.recv().await else {
            return Err(self.failed());
        };
        match process.encode(clip, frames, questions).await {
            Ok(rows) => {
                let _ = self.back.send(process);
                Ok(rows)
            }
            Err(ToolsError::Encoder { doing, message, hint, exit_code }) => {
                let _ = self.failure.set(Failure { doing, message, hint, exit_code });
                self.open.close();
                Err(self.failed())
            }
            Err(error) => {
                self.open.close();
                Err(error)
            }
        }
    }

    fn failed(&self) -> ToolsError {
        let (doing, message, hint, exit_code) = match self.failure.get() {
            None => (None, "an encoder process is gone".to_owned(), None, 1),
            Some(Failure { doing, message, hint, exit_code }) => {
                (doing.clone(), message.clone(), hint.clone(), *exit_code)
            }
        };
        ToolsError::Encoder { doing, message, hint, exit_code }
    }
}

/// Cores of each of so many processes.
fn threads_each(workers: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / workers.max(1)).max(1)
}

/// A data set has one encoder: the folder must not change while processes start.
fn check_same(first: &Ready, other: &Ready) -> Result<(), ToolsError> {
    if first.encoder == other.encoder {
        return Ok(());
    }
    Err(ToolsError::Encoder {
        doing: None,
        message: format!(
            "two processes read different models, {} and {}",
            first.encoder.hash, other.encoder.hash
        ),
        hint: Some("the folder changed meanwhile: run the command again".to_owned()),
        exit_code: 4,
    })
}

impl ClipEncoder for Processes {
    fn output(&self) -> Output {
        let Ready { encoder, tokens, dim, dtype, compute, device, .. } = self.ready.clone();
        let place = device.split(':').next().unwrap_or_default();
        let computed = format!("{compute} on {place}");
        Output { encoder, tokens, dim, dtype, computed }
    }

    /// The frame at the model's size.
    fn prepare(&self, frame: &Frame) -> Vec<u8> {
        bicubic(frame, self.ready.encoder.image_size as usize)
    }

    fn encode<'a>(
        &'a self,
        clip: &'a str,
        frames: &'a [Vec<u8>],
        questions: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Vec<u8>>, ToolsError>> {
        Box::pin(self.lend(clip, frames, questions))
    }
}
