//! `manifest.json`: what a data set holds, so that a reader needs no listing and no guess.
//!
//! A manifest may come from anywhere, so nothing in it is believed before it was checked: sizes are bounded, paths
//! are plain relative names, unknown fields are refused and the id must be the hash of all the rest.

use serde::{Deserialize, Serialize};

use crate::row::RowShape;
use crate::{DataError, Dtype, Encoder};

/// The manifest's name in the folder of a data set.
pub const MANIFEST: &str = "manifest.json";
/// Name and version that this library reads and writes.
const FORMAT: (&str, u32) = ("strand-shards", 1);

/// Largest manifest that is read, in bytes.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 1 << 30;
/// Largest shard that is read, in bytes.
const MAX_SHARD_BYTES: u64 = 1 << 40;
/// Largest row group that is read, in bytes.
pub(crate) const MAX_GROUP_BYTES: u64 = 1 << 30;
/// Largest footer that is read, in bytes.
pub(crate) const MAX_FOOTER_BYTES: u64 = 64 << 20;
/// Most rows of a row group.
pub(crate) const MAX_GROUP_ROWS: u64 = 1 << 20;
/// Most tokens of a frame, and most values of a token.
const MAX_WIDTH: usize = 1 << 16;
/// Bytes of JSON that are hashed at a time.
const HASHED_AT_ONCE: usize = 64 << 10;
/// `PAR1` at the start of a shard.
const MAGIC_BYTES: u64 = 4;
/// Length of the footer and `PAR1` at the end of a shard.
pub(crate) const TAIL_BYTES: u64 = 8;

/// Name and version of the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Format {
    /// `strand-shards`.
    pub name: String,
    /// 1.
    pub version: u32,
}

/// A data set: its encoder, the shape of its features and its shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name and version of the format.
    pub format: Format,
    /// BLAKE3 of the manifest without its id: two data sets of one id are the same, byte for byte.
    pub id: String,
    /// What made the features.
    pub encoder: Encoder,
    /// K, the tokens of a frame.
    pub tokens: usize,
    /// F, the values of a token.
    pub dim: usize,
    /// Type of a value.
    pub dtype: Dtype,
    /// The shards, in order.
    pub shards: Vec<Shard>,
}

/// A parquet file of a data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Path relative to the manifest.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Rows in all row groups.
    pub rows: u64,
    /// BLAKE3 of the file, in hex.
    pub blake3: String,
    /// Length of the parquet footer in bytes, without the 8 bytes behind it.
    pub footer_bytes: u64,
    /// XXH3-64 of the footer, in hex.
    pub footer_xxh3: Xxh3,
    /// The row groups, in file order.
    pub groups: Vec<Group>,
}

/// A row group: the unit of reading.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its rows.
    pub rows: u64,
    /// First byte in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// XXH3-64 of those bytes, in hex.
    pub xxh3: Xxh3,
    /// Least and greatest number of frames of a row.
    pub frames: [u64; 2],
    /// Least and greatest number of characters of a pair's texts.
    pub text: [u64; 2],
}

/// An XXH3-64 value; 16 hex digits in JSON, whose numbers cannot hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xxh3(pub u64);

impl Serialize for Xxh3 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Xxh3 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(HexDigits)
    }
}

/// Reads the digits where they stand: a large manifest has millions of them.
struct HexDigits;

impl serde::de::Visitor<'_> for HexDigits {
    type Value = Xxh3;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("16 hex digits")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Xxh3, E> {
        let digits = is_hex(text, 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
        digits.map(Xxh3).ok_or_else(|| E::custom(format!("`{text}` is not 16 hex digits")))
    }
}

/// A manifest without its id, in the order of its fields: what the id is the hash of.
#[derive(Serialize)]
struct Nameless<'a> {
    format: &'a Format,
    id: &'static str,
    encoder: &'a Encoder,
    tokens: usize,
    dim: usize,
    dtype: Dtype,
    shards: &'a [Shard],
}

impl Manifest {
    /// A manifest of these shards, with its id.
    pub fn new(
        encoder: Encoder,
        tokens: usize,
        dim: usize,
        dtype: Dtype,
        shards: Vec<Shard>,
    ) -> Manifest {
        let format = Format { name: FORMAT.0.to_owned(), version: FORMAT.1 };
        let id = String::new();
        let mut manifest = Manifest { format, id, encoder, tokens, dim, dtype, shards };
        manifest.id = manifest.content_hash();
        manifest
    }

    /// Parses and checks a manifest; `url` is for messages.
    ///
    /// # Errors
    /// [`DataError::Manifest`] for anything that is not a manifest as this library writes it.
    pub fn parse(url: &str, json: &[u8]) -> Result<Manifest, DataError> {
        let bad = |reason| DataError::Manifest { url: url.to_owned(), reason };
        let manifest: Manifest =
            serde_json::from_slice(json).map_err(|error| bad(error.to_string()))?;
        manifest.check().map_err(bad)?;
        Ok(manifest)
    }

    /// The JSON text.
    pub fn to_json(&self) -> String {
        // Plain structs of strings and numbers: serde_json has no way to fail on them.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Rows of all shards.
    pub fn num_rows(&self) -> u64 {
        self.shards.iter().map(|shard| shard.rows).sum()
    }

    /// Bytes of all shards.
    pub fn num_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }

    pub(crate) fn row_shape(&self) -> RowShape {
        let question_conditioned = self.encoder.question_conditioned;
        RowShape { tokens: self.tokens, dim: self.dim, question_conditioned }
    }

    fn content_hash(&self) -> String {
        let Manifest { format, encoder, tokens, dim, dtype, shards, .. } = self;
        let (tokens, dim, dtype) = (*tokens, *dim, *dtype);
        let nameless = Nameless { format, id: "", encoder, tokens, dim, dtype, shards };
        // Neither a copy nor the text: those of a large manifest take gigabytes.
        let mut text = std::io::BufWriter::with_capacity(HASHED_AT_ONCE, blake3::Hasher::new());
        // Plain structs of strings and numbers into memory: there is no way to fail.
        let hashed = serde_json::to_writer(&mut text, &nameless).ok();
        let hasher = hashed.and_then(|()| text.into_inner().ok());
        hasher.unwrap_or_default().finalize().to_hex().to_string()
    }

    fn check(&self) -> Result<(), String> {
        if (self.format.name.as_str(), self.format.version) != FORMAT {
            return Err(format!(
                "format `{}` version {}, this program reads `{}` version {}",
                self.format.name, self.format.version, FORMAT.0, FORMAT.1
            ));
        }
        for (name, size) in [("tokens", self.tokens), ("dim", self.dim)] {
            if !(1..=MAX_WIDTH).contains(&size) {
                return Err(format!("{name} {size} is not between 1 and {MAX_WIDTH}"));
            }
        }
        let mut paths = std::collections::HashSet::new();
        for shard in &self.shards {
            shard.check(self.row_shape())?;
            if !paths.insert(&shard.path) {
                return Err(format!("shard `{}` is listed twice", shard.path));
            }
        }
        if self.id != self.content_hash() {
            return Err(
                "the id is not the hash of the content: it was changed after it was written"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

impl Shard {
    /// The bytes of the footer in the file, with the 8 bytes behind it.
    pub(crate) fn footer_range(&self) -> std::ops::Range<u64> {
        self.bytes - TAIL_BYTES - self.footer_bytes..self.bytes
    }

    pub(crate) fn check(&self, shape: RowShape) -> Result<(), String> {
        let bad = |reason: &str| Err(format!("shard `{}`: {reason}", self.path));
        if !is_plain_path(&self.path) {
            return bad("the path is not a plain relative name that ends with .parquet");
        }
        if !is_hex(&self.blake3, 64) {
            return bad("blake3 is not 64 hex digits");
        }
        if self.bytes > MAX_SHARD_BYTES {
            return bad("the file is too large");
        }
        if self.footer_bytes > MAX_FOOTER_BYTES {
            return bad("the footer is too large");
        }
        let Some(body) = self.bytes.checked_sub(self.footer_bytes + TAIL_BYTES) else {
            return bad("the footer is larger than the file");
        };
        let mut end = MAGIC_BYTES;
        let mut rows = 0;
        for (index, group) in self.groups.iter().enumerate() {
            group
                .check(end, body, shape)
                .map_err(|reason| format!("shard `{}`: group {index}: {reason}", self.path))?;
            end = group.offset + group.bytes;
            rows += group.rows;
        }
        if rows != self.rows || rows == 0 {
            return bad("the rows of its groups do not add up to its rows");
        }
        Ok(())
    }
}

impl Group {
    /// The bytes of the group in the file.
    pub(crate) fn range(&self) -> std::ops::Range<u64> {
        self.offset..self.offset + self.bytes
    }

    fn check(&self, start: u64, end: u64, shape: RowShape) -> Result<(), String> {
        if !(1..=MAX_GROUP_ROWS).contains(&self.rows) {
            return Err(format!("{} rows, 1 to {MAX_GROUP_ROWS} are allowed", self.rows));
        }
        if self.bytes > MAX_GROUP_BYTES {
            return Err(format!("{} bytes, at most {MAX_GROUP_BYTES} are allowed", self.bytes));
        }
        if self.offset < start || self.offset.checked_add(self.bytes).is_none_or(|last| last > end)
        {
            return Err("it overlaps another part of the file".to_owned());
        }
        if self.frames[0] == 0 || self.frames[0] > self.frames[1] || self.text[0] > self.text[1] {
            return Err("a least value exceeds the greatest".to_owned());
        }
        let frame = shape.frame_bytes() as u64;
        // Features are stored as they are, so their size is known: a short group is a lie about rows or frames.
        let least =
            self.rows.checked_mul(frame).and_then(|bytes| bytes.checked_mul(self.frames[0]));
        if least.is_none_or(|least| least > self.bytes) || self.frames[1] > self.bytes / frame {
            return Err("its bytes cannot hold its rows".to_owned());
        }
        Ok(())
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Letters, digits, `.`, `_`, `-`, with `/` between names, none of which begins with a dot.
fn is_plain_path(path: &str) -> bool {
    let plain = |name: &str| {
        !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    path.len() <= 255 && path.ends_with(".parquet") && path.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let encoder = Encoder {
            kind: "patch".into(),
            hash: "0".into(),
            config: String::new(),
            image_size: 32,
            sampling: "middle:4".into(),
            question_conditioned: false,
        };
        let group = |offset| Group {
            rows: 2,
            offset,
            bytes: 100,
            xxh3: Xxh3(u64::MAX),
            frames: [1, 4],
            text: [3, 30],
        };
        let shard = Shard {
            path: "shard-00000.parquet".into(),
            bytes: 300,
            rows: 4,
            blake3: "ab".repeat(32),
            footer_bytes: 80,
            footer_xxh3: Xxh3(1),
            groups: vec![group(4), group(104)],
        };
        Manifest::new(encoder, 2, 3, Dtype::F16, vec![shard])
    }

    fn parse(manifest: &Manifest) -> Result<Manifest, String> {
        Manifest::parse("x", manifest.to_json().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_manifest_survives_json() {
        let manifest = manifest();
        assert_eq!(parse(&manifest), Ok(manifest.clone()));
        assert_eq!(manifest.num_rows(), 4);
        assert_eq!(manifest.shards[0].footer_range(), 212..300);
    }

    #[test]
    fn any_edit_is_noticed() {
        let mut edited = manifest();
        edited.encoder.hash = "1".into();
        assert!(parse(&edited).is_err_and(|error| error.contains("not the hash of the content")));
    }

    #[test]
    fn unknown_fields_are_refused() {
        let json = manifest().to_json().replacen("\"tokens\"", "\"surprise\":1,\"tokens\"", 1);
        let error = Manifest::parse("x", json.as_bytes()).expect_err("refused");
        assert!(error.to_string().contains("unknown field `surprise`"), "{error}");
        assert_eq!(error.exit_code(), 4);
    }

    #[test]
    fn lies_are_refused_even_with_a_right_id() {
        type Lie = fn(&mut Manifest);
        let lies: [(&str, Lie); 12] = [
            ("plain relative", |m| m.shards[0].path = "../x.parquet".into()),
            ("plain relative", |m| m.shards[0].path = "/etc/x.parquet".into()),
            ("between 1 and", |m| m.dim = usize::MAX),
            ("between 1 and", |m| m.tokens = 0),
            ("larger than the file", |m| m.shards[0].bytes = 3),
            ("too large", |m| m.shards[0].footer_bytes = u64::MAX),
            ("overlaps", |m| m.shards[0].groups[1].offset = u64::MAX),
            ("overlaps", |m| m.shards[0].groups[1].offset = 90),
            ("allowed", |m| m.shards[0].groups[0].bytes = u64::MAX),
            ("allowed", |m| m.shards[0].groups[0].rows = u64::MAX),
            ("cannot hold", |m| m.shards[0].groups[0].frames = [1, 1 << 40]),
            ("listed twice", |m| m.shards.push(m.shards[0].clone())),
        ];
        for (expected, lie) in lies {
            let mut manifest = manifest();
            lie(&mut manifest);
            manifest.id = manifest.content_hash();
            let error = parse(&manifest).expect_err(expected);
            assert!(error.contains(expected), "{error} should contain {expected}");
        }
    }

    #[test]
    fn rubbish_is_an_error() {
        for json in ["", "{", "[]", "null", "{\"format\":1}", &"[".repeat(100_000)] {
            assert!(Manifest::parse("x", json.as_bytes()).is_err());
        }
    }
}
