//! manifest.json: what it holds, and how it is made safe to believe.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use strand_store::Location;

use crate::cover::{self, Gap};
use crate::layout::{self, Region};
use crate::{CheckpointError, Dtype, Kind, State, Sum};

/// The name of the file that commits a checkpoint.
pub const MANIFEST: &str = "manifest.json";

/// A 70B model on 1,024 ranks needs about 60 MB.
const MAX_MANIFEST_BYTES: u64 = 256 << 20;
const MAX_AXES: usize = 16;
const FORMAT: &str = "strand-checkpoint";
const VERSION: u32 = 1;

/// The name and version of the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Format {
    /// `strand-checkpoint`.
    pub name: String,
    /// Rises when an older reader would misunderstand.
    pub version: u32,
}

impl Format {
    pub(crate) fn current() -> Format {
        Format { name: FORMAT.to_owned(), version: VERSION }
    }
}

/// Everything about a checkpoint but its values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format.
    pub format: Format,
    /// Where the run stood.
    pub state: State,
    /// Bytes of a part that share a checksum.
    pub block_bytes: u64,
    /// The safetensors files.
    pub files: Vec<File>,
    /// The tensors, sorted by name, then kind.
    pub tensors: Vec<Tensor>,
}

/// One safetensors file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its name in the checkpoint's folder.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Bytes before the first value.
    pub header_bytes: u64,
    /// The checksum of those.
    pub header_xxh3: Sum,
}

/// One tensor of the whole model or optimizer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// Its global name.
    pub name: String,
    /// What its values are.
    pub kind: Kind,
    /// Their type.
    pub dtype: Dtype,
    /// The whole tensor's shape.
    pub shape: Vec<u64>,
    /// The boxes that make it up, none overlapping.
    pub parts: Vec<TensorPart>,
}

/// A box of a tensor and where its values are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorPart {
    /// The file.
    pub file: String,
    /// The box's first index on each axis.
    pub offset: Vec<u64>,
    /// The box's size on each axis.
    pub extent: Vec<u64>,
    /// Its first byte in the file.
    pub begin: u64,
    /// The byte behind its last one.
    pub end: u64,
    /// The checksum of each block of the range.
    pub xxh3: Vec<Sum>,
}

impl TensorPart {
    pub(crate) fn region(&self) -> Region<'_> {
        Region { offset: &self.offset, extent: &self.extent }
    }
}

impl Manifest {
    /// Reads and checks the manifest of a checkpoint's folder.
    ///
    /// # Errors
    /// [`CheckpointError::NotACheckpoint`] without a manifest, [`CheckpointError::Damaged`] where it is not what was
    /// written or contradicts itself, [`CheckpointError::Format`] for another version.
    pub async fn open(folder: &Location) -> Result<Manifest, CheckpointError> {
        match folder.get_bounded(MANIFEST, MAX_MANIFEST_BYTES).await {
            Ok(bytes) => Manifest::decode(&bytes, &folder.url_of(MANIFEST)),
            Err(error) if error.is_not_found() => {
                Err(CheckpointError::NotACheckpoint { url: folder.url() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A tensor by its name and kind.
    pub fn tensor(&self, name: &str, kind: Kind) -> Option<&Tensor> {
        let found = self
            .tensors
            .binary_search_by(|tensor| (tensor.name.as_str(), tensor.kind).cmp(&(name, kind)));
        found.ok().map(|index| &self.tensors[index])
    }

    /// The size of all files in bytes.
    pub fn body_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// JSON whose first line is the checksum of all other bytes.
    pub(crate) fn encode(&self) -> Result<Bytes, serde_json::Error> {
        let json = serde_json::to_string(self)?;
        let rest = format!("{}\n", &json[1..]);
        let sum = Sum::of(rest.as_bytes()).to_hex();
        Ok(Bytes::from(format!("{HEAD}{sum}{NECK}{rest}")))
    }

    pub(crate) fn decode(bytes: &[u8], url: &str) -> Result<Manifest, CheckpointError> {
        let damaged = |reason: String| CheckpointError::damaged(url, reason);
        let rest = checked_rest(bytes).ok_or_else(|| damaged("wrong checksum".to_owned()))?;
        let json = [b"{", rest].concat();
        check_format(&json, url)?;
        let manifest: Manifest =
            serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
        manifest.check(url)?;
        Ok(manifest)
    }

    /// Whether the manifest is consistent: all numbers fit one another, the parts of each tensor hold it exactly once
    /// and the parts in each file fill it.
    pub(crate) fn check(&self, url: &str) -> Result<(), CheckpointError> {
        let damaged = |reason: String| CheckpointError::damaged(url, reason);
        if !(1..=1 << 30).contains(&self.block_bytes) {
            return Err(damaged(format!("blocks of {} bytes", self.block_bytes)));
        }
        let mut ranges = self.file_ranges().map_err(damaged)?;
        let sorted = self.tensors.is_sorted_by(|a, b| (&a.name, a.kind) < (&b.name, b.kind));
        if !sorted {
            return Err(damaged("tensors are repeated or not in order".to_owned()));
        }
        for tensor in &self.tensors {
            tensor
                .check(self.block_bytes, &mut ranges)
                .map_err(|reason| damaged(format!("tensor `{}`: {reason}", tensor.name)))?;
            tensor.check_cover()?;
        }
        for file in &self.files {
            check_filled(file, &mut ranges[file.path.as_str()].clone()).map_err(damaged)?;
        }
        Ok(())
    }

    fn file_ranges(&self) -> Result<FileRanges<'_>, String> {
        let mut ranges = FileRanges::new();
        for file in &self.files {
            if !is_plain(&file.path) {
                return Err(format!("`{}` is not a plain file name", file.path));
            }
            if ranges.insert(&file.path, Vec::new()).is_some() {
                return Err(format!("file `{}` is listed twice", file.path));
            }
        }
        Ok(ranges)
    }
}

impl Tensor {
    /// Whether each part is a box of the tensor, as large as its byte range; collects the ranges.
    fn check(&self, block: u64, ranges: &mut FileRanges) -> Result<(), String> {
        let values = layout::count(&self.shape);
        let bytes = values.and_then(|values| values.checked_mul(self.dtype.bytes()));
        if bytes.is_none() || self.shape.len() > MAX_AXES {
            return Err(format!("shape {:?} is too large", self.shape));
        }
        for part in &self.parts {
            let region = part.region();
            if !region.fits(&self.shape) {
                return Err(format!("{region:?} is not in shape {:?}", self.shape));
            }
            let bytes = region.count().unwrap_or(u64::MAX) * self.dtype.bytes();
            let blocks = bytes.div_ceil(block);
            if part.end.checked_sub(part.begin) != Some(bytes) || part.xxh3.len() as u64 != blocks {
                return Err(format!("{region:?} does not fit its byte range"));
            }
            ranges
                .get_mut(part.file.as_str())
                .ok_or_else(|| format!("file `{}` is not listed", part.file))?
                .push((part.begin, part.end));
        }
        Ok(())
    }

    fn check_cover(&self) -> Result<(), CheckpointError> {
        let regions: Vec<Region> = self.parts.iter().map(TensorPart::region).collect();
        let (name, kind) = (self.name.clone(), self.kind);
        match cover::check(&self.shape, &regions) {
            Ok(()) => Ok(()),
            Err(Gap::Overlap { first, second, at }) => Err(CheckpointError::Overlap {
                name,
                kind,
                first: self.parts[first].file.clone(),
                second: self.parts[second].file.clone(),
                at,
            }),
            Err(Gap::Hole { held, at }) => Err(CheckpointError::Hole {
                name,
                kind,
                held,
                needed: layout::count(&self.shape).unwrap_or(u64::MAX),
                at,
            }),
        }
    }
}

/// The byte ranges of parts in each file.
type FileRanges<'a> = BTreeMap<&'a str, Vec<(u64, u64)>>;

/// Whether header and parts fill a file, so that a checksum covers each of its bytes.
fn check_filled(file: &File, ranges: &mut [(u64, u64)]) -> Result<(), String> {
    ranges.sort_unstable();
    let end = ranges
        .iter()
        .try_fold(file.header_bytes, |end, &(begin, next)| (begin == end).then_some(next));
    if end == Some(file.bytes) {
        return Ok(());
    }
    Err(format!("the parts do not fill file `{}`", file.path))
}

/// One component that cannot leave the folder.
fn is_plain(path: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    path.ends_with(".safetensors") && !path.starts_with('.') && path.bytes().all(plain)
}

const HEAD: &str = "{\"xxh3\":\"";
const NECK: &str = "\",\n";

/// The bytes behind the first line, where the checksum in that line is theirs.
fn checked_rest(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, rest) = bytes.strip_prefix(HEAD.as_bytes())?.split_at_checked(16)?;
    let rest = rest.strip_prefix(NECK.as_bytes())?;
    let sum = Sum::from_hex(std::str::from_utf8(sum).ok()?)?;
    (sum == Sum::of(rest)).then_some(rest)
}

/// Looks at the version alone first: another version may have other fields.
fn check_format(json: &[u8], url: &str) -> Result<(), CheckpointError> {
    #[derive(Deserialize)]
    struct Head {
        format: Format,
    }
    let head: Head = serde_json::from_slice(json)
        .map_err(|error| CheckpointError::damaged(url, error.to_string()))?;
    if head.format == Format::current() {
        return Ok(());
    }
    Err(CheckpointError::Format {
        url: url.to_owned(),
        found: format!("{} {}", head.format.name, head.format.version),
        supported: format!("{FORMAT} {VERSION}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let part = |row: u64| TensorPart {
            file: "a.safetensors".into(),
            offset: vec![row, 0],
            extent: vec![1, 3],
            begin: 16 + row * 12,
            end: 28 + row * 12,
            xxh3: vec![Sum(row)],
        };
        Manifest {
            format: Format::current(),
            state: crate::part::tests::state(7),
            block_bytes: 16,
            files: vec![File {
                path: "a.safetensors".into(),
                bytes: 40,
                header_bytes: 16,
                header_xxh3: Sum(9),
            }],
            tensors: vec![Tensor {
                name: "x".into(),
                kind: Kind::ExpAvg,
                dtype: Dtype::F32,
                shape: vec![2, 3],
                parts: vec![part(0), part(1)],
            }],
        }
    }

    fn refused(change: impl Fn(&mut Manifest)) -> String {
        let mut changed = manifest();
        change(&mut changed);
        let bytes = changed.encode().expect("encodes");
        Manifest::decode(&bytes, "m").expect_err("refused").to_string()
    }

    #[test]
    fn a_manifest_reads_back_equal() {
        let bytes = manifest().encode().expect("encodes");
        assert_eq!(Manifest::decode(&bytes, "m").expect("decodes"), manifest());
        serde_json::from_slice::<serde_json::Value>(&bytes).expect("is JSON");
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_found() {
        let bytes = manifest().encode().expect("encodes").to_vec();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&flipped, "m").is_err(), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..end], "m").is_err(), "cut at {end}");
        }
    }

    #[test]
    fn contradictions_are_refused_though_the_checksum_is_right() {
        let hole = refused(|m| {
            m.tensors[0].parts.pop();
        });
        assert!(hole.contains("3 of 6 values, index [1, 0] is missing"), "{hole}");
        let path = refused(|m| m.files[0].path = "../a.safetensors".into());
        assert!(path.contains("plain file name"), "{path}");
        let range = refused(|m| m.tensors[0].parts[1].end = 44);
        assert!(range.contains("does not fit its byte range"), "{range}");
        let fill = refused(|m| m.files[0].bytes = 41);
        assert!(fill.contains("do not fill"), "{fill}");
        let huge = refused(|m| m.tensors[0].shape = vec![u64::MAX, 3]);
        assert!(huge.contains("too large"), "{huge}");
        let block = refused(|m| m.block_bytes = 0);
        assert!(block.contains("blocks of 0 bytes"), "{block}");
        let twice = refused(|m| {
            let again = m.tensors[0].clone();
            m.tensors.push(again);
        });
        assert!(twice.contains("repeated"), "{twice}");
        let missing = refused(|m| m.tensors[0].parts[1].file = "b.safetensors".into());
        assert!(missing.contains("`b.safetensors` is not listed"), "{missing}");
    }

    #[test]
    fn another_version_is_named() {
        let message = refused(|m| m.format.version = 2);
        assert!(message.contains("strand-checkpoint 2, this version reads strand-checkpoint 1"));
    }

    #[test]
    fn tensors_are_found_by_name_and_kind() {
        assert!(manifest().tensor("x", Kind::ExpAvg).is_some());
        assert!(manifest().tensor("x", Kind::Parameter).is_none());
    }
}
