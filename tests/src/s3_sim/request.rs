//! Reading a request.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// Longer heads are refused.
const MAX_HEAD: u64 = 32 << 10;

/// A request without a body.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// HEAD instead of GET.
    pub is_head: bool,
    /// Path below the root, decoded.
    pub path: String,
    /// Query parameters, decoded.
    pub query: Vec<(String, String)>,
    /// The header `Range`.
    pub range: Option<Range>,
    /// The client wants the connection closed.
    pub is_last: bool,
}

/// The bytes that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// From here to the last byte, which is included; to the end where not given.
    From(u64, Option<u64>),
    /// So many at the end.
    Last(u64),
}

impl Range {
    /// First byte and length in an object of `size` bytes; `None` where nothing of it is there.
    pub fn resolve(self, size: u64) -> Option<(u64, u64)> {
        let (first, last) = match self {
            Range::From(first, last) => (first, last.unwrap_or(u64::MAX)),
            Range::Last(count) => (size.saturating_sub(count), u64::MAX),
        };
        let end = last.saturating_add(1).min(size);
        (first < end).then(|| (first, end - first))
    }
}

/// The next request; `None` at the end of the connection.
pub async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Request>> {
    let mut head = stream.take(MAX_HEAD);
    let mut line = String::new();
    if head.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut request = first_line(&line)?;
    loop {
        line.clear();
        if head.read_line(&mut line).await? == 0 {
            return Err(Error::new(ErrorKind::InvalidData, "the head does not end"));
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return Ok(Some(request));
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = range(value.trim()),
            "connection" => request.is_last = value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
}

fn first_line(line: &str) -> Result<Request> {
    let bad = || Error::new(ErrorKind::InvalidData, "not a request that is known here");
    let mut words = line.split_whitespace();
    let is_head = match words.next() {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(bad()),
    };
    let target = words.next().ok_or_else(bad)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    };
    Ok(Request {
        is_head,
        path: decoded(path.trim_start_matches('/')),
        query: pairs.map(pair).collect(),
        ..Request::default()
    })
}

fn range(value: &str) -> Option<Range> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    match (first, last) {
        ("", count) => Some(Range::Last(count.parse().ok()?)),
        (first, "") => Some(Range::From(first.parse().ok()?, None)),
        (first, last) => Some(Range::From(first.parse().ok()?, Some(last.parse().ok()?))),
    }
}

/// Percent-decoding.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) if byte == b'%' => {
                bytes.push(value);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_the_object() {
        assert_eq!(Range::From(2, Some(4)).resolve(10), Some((2, 3)));
        assert_eq!(Range::From(8, Some(40)).resolve(10), Some((8, 2)));
        assert_eq!(Range::From(10, None).resolve(10), None);
        assert_eq!(Range::Last(40).resolve(10), Some((0, 10)));
    }

    #[test]
    fn names_are_decoded() {
        assert_eq!(decoded("a%2Fb%20c%"), "a/b c%");
    }
}
