//! A fast, read-only stand-in for S3 over a local folder, which is as slow and as faulty as it is told to be.
//!
//! A bucket is a folder below the root. It knows GET with ranges, HEAD and ListObjectsV2, believes any credentials, and
//! reads from the page cache: what it measures is the client.

mod faults;
mod reply;
mod request;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub use faults::{Fault, Faults};

/// A server that runs until it is dropped.
pub struct Server {
    port: u16,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

/// What a server was asked for.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests, failed ones included.
    pub requests: AtomicU64,
    /// Bytes of objects that were sent.
    pub bytes: AtomicU64,
    /// Requests that met a fault.
    pub faults: AtomicU64,
}

/// What all connections share.
struct Shared {
    root: PathBuf,
    faults: Faults,
    counts: Arc<Counts>,
    /// Objects and ranges that were refused once because credentials had expired.
    renewed: Mutex<HashSet<(String, String)>>,
}

impl Shared {
    /// What befalls a request. Nobody's credentials expire twice for the same bytes, for a client renews them once,
    /// unless all are refused.
    fn fault(&self, number: u64, request: &request::Request) -> Option<Fault> {
        let fault = self.faults.of(number, &request.path)?;
        if fault != Fault::Expired || self.faults.shares.contains(&(Fault::Expired, 1.0)) {
            return Some(fault);
        }
        let place = (request.path.clone(), format!("{:?}", request.range));
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.insert(place).then_some(fault)
    }
}

impl Server {
    /// Serves `root` on a loopback port (0: a free one). To be called on a multi-threaded runtime.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn start(root: PathBuf, port: u16, faults: Faults) -> std::io::Result<Server> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let port = listener.local_addr()?.port();
        let counts = Arc::new(Counts::default());
        let renewed = Mutex::default();
        let shared = Arc::new(Shared { root, faults, counts: counts.clone(), renewed });
        let task = tokio::spawn(accept(listener, shared));
        Ok(Server { port, counts, task })
    }

    /// What it was asked for so far.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Settings that make AWS clients use it.
    pub fn settings(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", "strand".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "strand-local".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // A client that goes away in the middle of an answer is no concern of the server's.
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, shared.clone()));
    }
}

/// Answers requests on one connection until the client has had enough, or a fault ends it.
async fn converse(stream: TcpStream, shared: Arc<Shared>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(request) = request::read(&mut stream).await? {
        let number = shared.counts.requests.fetch_add(1, Ordering::Relaxed);
        let fault = shared.fault(number, &request);
        shared.counts.faults.fetch_add(u64::from(fault.is_some()), Ordering::Relaxed);
        if !reply::send(stream.get_mut(), &request, &shared, fault).await? {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(server: &Server, head: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.expect("connects");
        let request = format!("{head}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        // A reset connection has no more to say.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).expect("text")
    }

    async fn server(faults: Faults) -> (tempfile::TempDir, Server) {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(root.path().join("b/a")).expect("made");
        std::fs::write(root.path().join("b/a/one two"), "0123456789").expect("written");
        let server = Server::start(root.path().to_owned(), 0, faults).await.expect("starts");
        (root, server)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn objects_ranges_and_listings_are_served() {
        let (_root, server) = server(Faults::default()).await;
        let whole = ask(&server, "GET /b/a/one%20two HTTP/1.1").await;
        assert!(whole.starts_with("HTTP/1.1 200 ") && whole.ends_with("\r\n\r\n0123456789"));
        let part = ask(&server, "GET /b/a/one%20two HTTP/1.1\r\nRange: bytes=2-4").await;
        assert!(part.starts_with("HTTP/1.1 206 ") && part.ends_with("\r\n\r\n234"), "{part}");
        assert!(part.contains("content-range: bytes 2-4/10\r\n"), "{part}");
        let tail = ask(&server, "GET /b/a/one%20two HTTP/1.1\r\nrange: bytes=-3").await;
        assert!(tail.ends_with("\r\n\r\n789"), "{tail}");
        let beyond = ask(&server, "GET /b/a/one%20two HTTP/1.1\r\nRange: bytes=10-").await;
        assert!(beyond.starts_with("HTTP/1.1 416 "), "{beyond}");
        let head = ask(&server, "HEAD /b/a/one%20two HTTP/1.1").await;
        assert!(head.contains("content-length: 10\r\n") && head.ends_with("\r\n\r\n"));
        assert!(ask(&server, "GET /b/none HTTP/1.1").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(&server, "GET /b/../b/a HTTP/1.1").await.starts_with("HTTP/1.1 404 "));
        let list = ask(&server, "GET /b?list-type=2&prefix=a%2F HTTP/1.1").await;
        assert!(list.contains("<Key>a/one two</Key>") && list.contains("<Size>10</Size>"));
        assert_eq!(server.counts().bytes.load(Ordering::Relaxed), 16);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn faults_are_what_they_are_called() {
        let always = |fault| Faults { shares: vec![(fault, 1.0)], ..Faults::default() };
        let get = "GET /b/a/one%20two HTTP/1.1";
        let (_root, errors) = server(always(Fault::Error)).await;
        assert!(ask(&errors, get).await.starts_with("HTTP/1.1 50"));
        let (_root, cuts) = server(always(Fault::Cut)).await;
        let cut = ask(&cuts, get).await;
        assert!(cut.contains("content-length: 10\r\n") && cut.ends_with("\r\n\r\n01234"), "{cut}");
        let (_root, resets) = server(always(Fault::Reset)).await;
        assert_eq!(ask(&resets, get).await, "");
        let (_root, stalls) = server(always(Fault::Stall)).await;
        let stalled = tokio::time::timeout(Duration::from_millis(300), ask(&stalls, get)).await;
        assert!(stalled.is_err());
    }
}
