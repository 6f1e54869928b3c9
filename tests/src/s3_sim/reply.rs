//! Answering a request.

use std::fmt::Write;
use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::request::Request;
use super::{Fault, Shared};

/// Objects never change here.
const MODIFIED: &str = "Thu, 01 Jan 2026 00:00:00 GMT";
/// Bytes read and sent at once.
const CHUNK: u64 = 1 << 20;

/// An object that is being sent.
struct Object {
    file: Arc<File>,
    first: u64,
    length: u64,
}

/// Answers; false where the connection is to end.
pub async fn send(
    stream: &mut TcpStream,
    request: &Request,
    shared: &Shared,
    fault: Option<Fault>,
) -> Result<bool> {
    match fault {
        Some(Fault::Reset) => {
            stream.set_zero_linger()?;
            return Ok(false);
        }
        Some(Fault::Stall) => std::future::pending().await,
        Some(Fault::Error) => {
            let code = if shared.counts.faults.load(Ordering::Relaxed).is_multiple_of(2) {
                500
            } else {
                503
            };
            text(stream, request, code, "<Error><Code>SlowDown</Code></Error>").await?;
        }
        Some(Fault::Expired) => {
            text(stream, request, 400, "<Error><Code>ExpiredToken</Code></Error>").await?;
        }
        Some(Fault::Cut) | None => {
            tokio::time::sleep(shared.faults.latency).await;
            answer(stream, request, shared, fault.is_some()).await?;
        }
    }
    Ok(fault != Some(Fault::Cut) && !request.is_last)
}

async fn answer(
    stream: &mut TcpStream,
    request: &Request,
    shared: &Shared,
    is_cut: bool,
) -> Result<()> {
    if let Some(listing) = listing(request, &shared.root)? {
        return text(stream, request, 200, &listing).await;
    }
    let Some(file) = path_below(&shared.root, &request.path).and_then(|path| open(&path)) else {
        return text(stream, request, 404, "<Error><Code>NoSuchKey</Code></Error>").await;
    };
    let size = file.metadata()?.len();
    let wanted = request.range.map_or(Some((0, size)), |range| range.resolve(size));
    let Some((first, length)) = wanted else {
        return text(stream, request, 416, "<Error><Code>InvalidRange</Code></Error>").await;
    };
    let code = if request.range.is_some() { 206 } else { 200 };
    let mut head = head(code, length);
    let _ =
        write!(head, "etag: \"{size:x}\"\r\nlast-modified: {MODIFIED}\r\naccept-ranges: bytes\r\n");
    if request.range.is_some() {
        let _ = write!(head, "content-range: bytes {first}-{}/{size}\r\n", first + length - 1);
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    if request.is_head {
        return Ok(());
    }
    let length = if is_cut { length / 2 } else { length };
    body(stream, Object { file: Arc::new(file), first, length }, shared).await
}

async fn body(stream: &mut TcpStream, object: Object, shared: &Shared) -> Result<()> {
    let started = Instant::now();
    let mut sent = 0;
    while sent < object.length {
        let length = CHUNK.min(object.length - sent);
        let (file, at) = (object.file.clone(), object.first + sent);
        let read = move || {
            let mut chunk = vec![0; length as usize];
            file.read_exact_at(&mut chunk, at).map(|()| chunk)
        };
        let chunk = tokio::task::block_in_place(read)?;
        stream.write_all(&chunk).await?;
        sent += length;
        shared.counts.bytes.fetch_add(length, Ordering::Relaxed);
        if let Some(rate) = shared.faults.bytes_per_s {
            let due = Duration::from_secs_f64(sent as f64 / rate as f64);
            tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
        }
    }
    Ok(())
}

async fn text(stream: &mut TcpStream, request: &Request, code: u16, text: &str) -> Result<()> {
    let body = if request.is_head { "" } else { text };
    let answer =
        format!("{}content-type: application/xml\r\n\r\n{body}", head(code, text.len() as u64));
    stream.write_all(answer.as_bytes()).await
}

fn head(code: u16, length: u64) -> String {
    let reason = match code {
        200 => "OK",
        206 => "Partial Content",
        400 => "Bad Request",
        404 => "Not Found",
        416 => "Range Not Satisfiable",
        503 => "Slow Down",
        _ => "Internal Server Error",
    };
    format!("HTTP/1.1 {code} {reason}\r\ncontent-length: {length}\r\n")
}

fn open(path: &Path) -> Option<File> {
    path.is_file().then(|| File::open(path).ok()).flatten()
}

/// Only plain names: nothing above the root.
fn path_below(root: &Path, name: &str) -> Option<PathBuf> {
    let is_plain = |component: Component<'_>| matches!(component, Component::Normal(_));
    Path::new(name).components().all(is_plain).then(|| root.join(name))
}

/// ListObjectsV2 of a bucket, all on one page.
fn listing(request: &Request, root: &Path) -> Result<Option<String>> {
    let parameter = |wanted: &str| {
        let found = request.query.iter().find(|(name, _)| name == wanted);
        found.map_or("", |(_, value)| value.as_str())
    };
    let bucket = request.path.trim_end_matches('/');
    if parameter("list-type") != "2" || bucket.contains('/') {
        return Ok(None);
    }
    let Some(folder) = path_below(root, bucket) else {
        return Ok(None);
    };
    let (mut files, mut contents) = (Vec::new(), String::new());
    files_below(&folder, "", &mut files)?;
    files.sort();
    let (prefix, delimiter) = (parameter("prefix"), parameter("delimiter"));
    let mut folders = std::collections::BTreeSet::new();
    for (key, size) in files.iter().filter(|(key, _)| key.starts_with(prefix)) {
        match key[prefix.len()..].split_once(delimiter).filter(|_| !delimiter.is_empty()) {
            Some((name, _)) => drop(folders.insert(format!("{prefix}{name}{delimiter}"))),
            None => contents.push_str(&format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"{size:x}\"</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )),
        }
    }
    for folder in folders {
        contents.push_str(&format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"));
    }
    Ok(Some(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Name>{bucket}</Name><Prefix>{prefix}</Prefix><KeyCount>{}</KeyCount><MaxKeys>{}</MaxKeys><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>",
        files.len(),
        files.len().max(1000)
    )))
}

/// Every file below a folder, by its name with slashes, with its size.
fn files_below(folder: &Path, name: &str, found: &mut Vec<(String, u64)>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let below = format!("{name}{}", entry.file_name().to_string_lossy());
        match entry.file_type()?.is_dir() {
            true => files_below(&entry.path(), &format!("{below}/"), found)?,
            false => found.push((below, entry.metadata()?.len())),
        }
    }
    Ok(())
}
