//! One request for a remote object or a range of it.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, ObjectStore};

use crate::buffers::Buffer;
use crate::traffic::{Counters, count};

/// Time in which an answer has to begin, and then each further piece of it.
const SILENCE: Duration = Duration::from_secs(10);

/// Makes a client with the credentials of the moment, which neither retries nor times out by itself.
pub(crate) type Connect = dyn Fn() -> object_store::Result<Arc<dyn ObjectStore>> + Send + Sync;

/// Why a range was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The object ends early.
    #[error("it holds {bytes} bytes")]
    Truncated { bytes: u64 },
    /// The object is larger than the caller takes.
    #[error("it holds {bytes} bytes")]
    TooLarge { bytes: u64 },
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] object_store::Error),
    #[error("nothing came for {} s", SILENCE.as_secs())]
    Silent,
    #[error("{came} bytes came, not {wanted}")]
    Cut { came: u64, wanted: u64 },
    #[error("gave up after {attempts} attempts in {:.1} s", waited.as_secs_f64())]
    GaveUp { attempts: u32, waited: Duration, source: Box<Failure> },
}

impl Failure {
    /// Whether the same request may succeed later.
    pub fn may_pass(&self) -> bool {
        match self {
            Failure::Silent | Failure::Cut { .. } => true,
            Failure::Store(error @ object_store::Error::Generic { .. }) => !is_refused(error),
            _ => false,
        }
    }

    /// Whether the credentials are no longer valid. S3 says so with 400 or 403.
    pub fn is_expired(&self) -> bool {
        matches!(self, Failure::Store(error) if said(error, "ExpiredToken") || said(error, "TokenRefreshRequired"))
    }

    /// Whether the range may lie behind the end of the object.
    pub fn is_out_of_range(&self) -> bool {
        matches!(self, Failure::Store(error) if said(error, "status code: 416"))
    }
}

/// Whether the server does not want such a request, whenever it comes. The client's error has no other form of the
/// status than its text.
fn is_refused(error: &object_store::Error) -> bool {
    let again = ["status code: 408", "status code: 429"];
    said(error, "status code: 4") && !again.iter().any(|status| said(error, status))
}

/// Whether an error or one of its causes says this.
fn said(error: &object_store::Error, what: &str) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if error.to_string().contains(what) {
            return true;
        }
        next = error.source();
    }
    false
}

/// A client that can be made anew when its credentials expire.
pub(crate) struct Remote {
    connect: Box<Connect>,
    current: Mutex<(u64, Arc<dyn ObjectStore>)>,
}

impl Remote {
    pub fn new(connect: Box<Connect>) -> object_store::Result<Remote> {
        let current = Mutex::new((0, connect()?));
        Ok(Remote { connect, current })
    }

    /// The client, and how often it was made anew before.
    pub fn client(&self) -> (u64, Arc<dyn ObjectStore>) {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the client anew, unless another request has done so since `generation`.
    pub fn refresh(&self, generation: u64) -> object_store::Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 == generation {
            *current = (generation + 1, (self.connect)()?);
        }
        Ok(())
    }

    /// Asks once for an object or a range of it. Its body is still to come.
    pub async fn ask(
        &self,
        key: &Path,
        range: Option<GetRange>,
        counters: &Counters,
    ) -> Result<GetResult, Failure> {
        count(&counters.requests, 1);
        let options = GetOptions { range, ..GetOptions::default() };
        let (_, client) = self.client();
        Ok(within(client.get_opts(key, options)).await??)
    }
}

/// Takes in the body of an answer, which is to fill the buffer.
pub(crate) async fn take_in(
    answer: GetResult,
    mut buffer: Buffer,
    counters: &Counters,
) -> Result<Buffer, Failure> {
    let wanted = buffer.as_ref().len();
    let mut came = 0;
    let mut body = answer.into_stream();
    while let Some(piece) = within(body.try_next()).await?? {
        count(&counters.bytes, piece.len() as u64);
        let end = came + piece.len();
        let Some(place) = buffer.as_mut().get_mut(came..end) else {
            return Err(Failure::Cut { came: end as u64, wanted: wanted as u64 });
        };
        place.copy_from_slice(&piece);
        came = end;
    }
    match came == wanted {
        true => Ok(buffer),
        false => Err(Failure::Cut { came: came as u64, wanted: wanted as u64 }),
    }
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(SILENCE, work).await.map_err(|_| Failure::Silent)
}
