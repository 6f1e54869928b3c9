//! What `strand data extract` and an encoder process say to each other over pipes.
//!
//! A message is a head (its length as little-endian u32, then JSON) and, behind some heads, a body of raw bytes whose
//! length follows from the head. The process first says [`Reply::Ready`]; then each [`Request`] gets one [`Reply`].

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Dtype, Encoder};

/// Longest head, in bytes: it holds the questions of a clip.
const MAX_HEAD_BYTES: u32 = 16 << 20;

/// Bytes in front of a head: its length.
pub const LENGTH_BYTES: usize = 4;

/// What an encoder process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// What the manifest tells; the process does not know how frames are chosen.
    pub encoder: Encoder,
    /// K, the tokens of a frame.
    pub tokens: usize,
    /// F, the values of a token.
    pub dim: usize,
    /// Type of a value.
    pub dtype: Dtype,
    /// Type of the computation, `fp32`, `bf16` or `fp16`.
    pub compute: String,
    /// Where it computes, `cpu` or `cuda:0`.
    pub device: String,
    /// GPUs that it sees.
    pub cuda_devices: usize,
}

/// A clip to encode. The body behind it is its pixels, `[frames, image_size, image_size, 3]`, 8 bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// T.
    pub frames: usize,
    /// Questions with their instructions; empty where features do not depend on them.
    pub questions: Vec<String>,
}

/// What the process says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// It has read its weights.
    Ready(Ready),
    /// The body behind it is `[rows, frames, tokens, dim]`: a row for each question, or one.
    Features,
    /// It cannot go on.
    Failed {
        /// What went wrong, with its causes.
        message: String,
        /// What to do next, where there is something.
        hint: Option<String>,
        /// The exit code of a command that ends with this.
        exit_code: u8,
    },
}

/// The bytes of a head.
///
/// # Errors
/// A head that is too long.
pub fn head(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).ok().filter(|length| *length <= MAX_HEAD_BYTES);
    let length = length.ok_or_else(|| broken(format!("a head of {} bytes", json.len())))?;
    Ok([&length.to_le_bytes()[..], &json].concat())
}

/// The length of a head, from the bytes in front of it.
///
/// # Errors
/// A length that cannot be right.
pub fn head_length(bytes: [u8; LENGTH_BYTES]) -> io::Result<usize> {
    let length = u32::from_le_bytes(bytes);
    match length <= MAX_HEAD_BYTES {
        true => Ok(length as usize),
        false => Err(broken(format!("a head of {length} bytes"))),
    }
}

/// Reads a head's JSON.
///
/// # Errors
/// Another message, or none.
pub fn parse<T: DeserializeOwned>(json: &[u8]) -> io::Result<T> {
    serde_json::from_slice(json).map_err(|error| broken(error.to_string()))
}

/// Writes a message.
///
/// # Errors
/// The pipe is closed, or the head is too long.
pub fn send(pipe: &mut impl Write, message: &impl Serialize, body: &[u8]) -> io::Result<()> {
    pipe.write_all(&head(message)?)?;
    pipe.write_all(body)?;
    pipe.flush()
}

/// Reads a head; `None` where the pipe ended before it.
///
/// # Errors
/// The pipe ends within the head, or it is another message.
pub fn receive<T: DeserializeOwned>(pipe: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; LENGTH_BYTES];
    if pipe.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    pipe.read_exact(&mut length[1..])?;
    let mut json = vec![0; head_length(length)?];
    pipe.read_exact(&mut json)?;
    parse(&json).map(Some)
}

fn broken(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_pipe() {
        let request = Request { frames: 2, questions: vec!["Was ist das? 日本".to_owned()] };
        let mut pipe = Vec::new();
        send(&mut pipe, &request, b"body").unwrap();
        let mut pipe = &pipe[..];
        assert_eq!(receive(&mut pipe).unwrap(), Some(request));
        assert_eq!(pipe, b"body");
        assert_eq!(receive::<Request>(&mut &b""[..]).unwrap(), None);
    }

    #[test]
    fn rubbish_is_an_error() {
        for bytes in [&b"\x01"[..], b"\xff\xff\xff\xff", b"\x02\0\0\0{", b"\x02\0\0\0{}"] {
            assert!(receive::<Request>(&mut &bytes[..]).is_err(), "{bytes:?}");
        }
    }
}
