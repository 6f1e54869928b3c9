//! Headers of `.safetensors` files.
//!
//! Format: <https://github.com/huggingface/safetensors>. Eight bytes of length, a JSON object of tensors, the bodies.
//! Only the header is read here, so that a file of thousands of tensors costs no memory.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::array::{Header, Number};

/// Bytes in front of the header that give its length.
pub const START: usize = 8;
/// Longest header that is read: the format's own bound.
const MOST_HEADER: u64 = 100_000_000;
/// The key that holds no tensor.
const METADATA: &str = "__metadata__";

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Type and shape.
    pub header: Header,
    /// Its bytes within the file.
    pub range: Range<u64>,
}

/// Tensors by name; the reason why not for one of a type that features do not have.
pub type Tensors = BTreeMap<String, Result<Tensor, String>>;

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// Where the header lies in a file of `size` bytes that begins with `start`.
///
/// # Errors
/// The reason why this is no `.safetensors` file.
pub fn header_range(start: [u8; START], size: u64) -> Result<Range<u64>, String> {
    let length = u64::from_le_bytes(start);
    let end = length.checked_add(START as u64).filter(|&end| end <= size);
    match end {
        Some(end) if length <= MOST_HEADER => Ok(START as u64..end),
        _ => {
            Err(format!("a header of {length} bytes in a file of {size}: not a .safetensors file"))
        }
    }
}

/// Reads the header; bodies begin at `body` and the file ends at `size`.
///
/// # Errors
/// The reason why the file cannot be read.
pub fn tensors(json: &[u8], body: u64, size: u64) -> Result<Tensors, String> {
    let entries: Entries =
        serde_json::from_slice(json).map_err(|error| format!("its header: {error}"))?;
    let mut found = Tensors::new();
    for (name, entry) in entries.0 {
        let tensor =
            tensor(entry, body, size).map_err(|reason| format!("tensor `{name}`: {reason}"))?;
        found.insert(name, tensor);
    }
    Ok(found)
}

/// The entries of a header, read as they come: a hostile header costs no more memory than its text.
struct Entries(BTreeMap<String, Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries(BTreeMap::new()))
    }
}

impl<'de> Visitor<'de> for Entries {
    type Value = Entries;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Entries, A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let entry = map.next_value()?;
            if self.0.insert(name.clone(), entry).is_some() {
                return Err(serde::de::Error::custom(format!("tensor `{name}` is listed twice")));
            }
        }
        Ok(self)
    }
}

/// `Err` for a lie, `Ok(Err)` for a type that is of no use here.
fn tensor(entry: Entry, body: u64, size: u64) -> Result<Result<Tensor, String>, String> {
    let Entry { dtype, shape, data_offsets: [begin, end] } = entry;
    let outside = || "it lies outside of the file".to_owned();
    let range = body.checked_add(begin).zip(body.checked_add(end));
    let (begin, end) =
        range.filter(|&(begin, end)| begin <= end && end <= size).ok_or_else(outside)?;
    let number = match dtype.as_str() {
        "F16" => Number::F16,
        "BF16" => Number::Bf16,
        "F32" => Number::F32,
        _ => return Ok(Err(format!("type {dtype}: F16, BF16 or F32 is needed"))),
    };
    let header = Header { number, shape };
    match header.body_bytes() == Some(end - begin) {
        true => Ok(Ok(Tensor { header, range: begin..end })),
        false => Err(format!("its {} bytes are not of shape {:?}", end - begin, header.shape)),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A file of these tensors: name, type, shape, body.
    pub fn file(parts: &[(&str, &str, &[usize], &[u8])]) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        let mut body = Vec::new();
        for (name, dtype, shape, bytes) in parts {
            let offsets = [body.len(), body.len() + bytes.len()];
            let entry =
                serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
            header.insert((*name).to_owned(), entry);
            body.extend_from_slice(bytes);
        }
        header.insert(METADATA.to_owned(), serde_json::json!({"by": "hand"}));
        let header = serde_json::Value::Object(header).to_string();
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &body].concat()
    }

    fn read(file: &[u8]) -> Result<Tensors, String> {
        let size = file.len() as u64;
        let range = header_range(*file.first_chunk().ok_or("too short")?, size)?;
        tensors(&file[range.start as usize..range.end as usize], range.end, size)
    }

    #[test]
    fn tensors_are_found_at_their_place() {
        let file = file(&[("a", "F16", &[1, 2], &[1, 2, 3, 4]), ("b", "I64", &[1], &[0; 8])]);
        let found = read(&file).unwrap();
        let a = found["a"].as_ref().unwrap();
        assert_eq!((a.header.number, &a.header.shape[..]), (Number::F16, &[1, 2][..]));
        assert_eq!(&file[a.range.start as usize..a.range.end as usize], [1, 2, 3, 4]);
        assert!(found["b"].as_ref().unwrap_err().contains("type I64"));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn lies_are_refused() {
        let shape = file(&[("a", "F16", &[usize::MAX, 3], &[0; 4])]);
        assert!(read(&shape).unwrap_err().contains("tensor `a`: its 4 bytes"));
        let mut short = file(&[("a", "F16", &[2], &[0; 4])]);
        short.pop();
        assert!(read(&short).unwrap_err().contains("outside of the file"));
        let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
        assert!(read(&huge).unwrap_err().contains("not a .safetensors file"));
        let odd = [&2_u64.to_le_bytes()[..], b"[]"].concat();
        assert!(read(&odd).unwrap_err().contains("its header"));
    }
}
