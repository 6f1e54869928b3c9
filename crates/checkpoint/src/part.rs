//! What one rank writes: its pieces, in safetensors files.

use std::collections::BTreeSet;

use bytes::Bytes;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};
use strand_store::Location;

use crate::layout::{self, Region};
use crate::manifest::{File, TensorPart};
use crate::{BLOCK_BYTES, CheckpointError, Dtype, Kind, Piece, State, Sum, step_folder};

/// A rank's pieces go into files of about this size, one in memory at a time.
const FILE_BYTES: usize = 1 << 30;

/// What a rank has written, for the rank that commits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The rank.
    pub rank: usize,
    /// The step it was written for.
    pub step: u64,
    /// The attempt that wrote it.
    pub writer_epoch: u64,
    /// Its files, none for a rank that owns nothing.
    pub files: Vec<File>,
    /// Its pieces.
    pub tensors: Vec<PartTensor>,
}

/// A piece without its values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartTensor {
    /// The tensor's global name.
    pub name: String,
    /// What its values are.
    pub kind: Kind,
    /// Their type.
    pub dtype: Dtype,
    /// The whole tensor's shape.
    pub shape: Vec<u64>,
    /// The box and where it was written.
    pub part: TensorPart,
}

/// Writes a rank's pieces into the folder of `state.step` below `run`, a run's `checkpoints` folder. Each file appears
/// whole or not at all, and none makes the folder a checkpoint: [`crate::commit`] does. The attempt is part of the
/// file names, so that a late writer of an earlier attempt harms nothing.
///
/// # Errors
/// [`CheckpointError::Piece`] for a piece that contradicts itself; storage errors, a full disk among them.
pub async fn write_part(
    run: &Location,
    state: &State,
    rank: usize,
    pieces: Vec<Piece>,
) -> Result<Part, CheckpointError> {
    let mut writer = PartWriter::new(run, state, rank);
    writer.write(pieces).await?;
    Ok(writer.finish())
}

/// Does what [`write_part`] does with pieces that are not all in memory at one time.
#[derive(Debug)]
pub struct PartWriter {
    folder: Location,
    part: Part,
    keys: BTreeSet<String>,
}

impl PartWriter {
    /// A part without pieces.
    pub fn new(run: &Location, state: &State, rank: usize) -> PartWriter {
        let part = Part {
            rank,
            step: state.step,
            writer_epoch: state.writer_epoch,
            files: Vec::new(),
            tensors: Vec::new(),
        };
        PartWriter { folder: run.join(&step_folder(state.step)), part, keys: BTreeSet::new() }
    }

    /// Writes some pieces, in files of their own.
    ///
    /// # Errors
    /// Those of [`write_part`].
    pub async fn write(&mut self, pieces: Vec<Piece>) -> Result<(), CheckpointError> {
        check_pieces(self.part.rank, &pieces, &mut self.keys)?;
        for group in group(pieces, FILE_BYTES) {
            let Part { rank, writer_epoch, .. } = self.part;
            let number = self.part.files.len();
            let path = format!("attempt-{writer_epoch}-rank-{rank:04}-{number:02}.safetensors");
            let url = self.folder.url_of(&path);
            let name = path.clone();
            let body = blocking(url.clone(), move || Body::lay_out(name, group)).await?;
            let body = body.map_err(|reason| CheckpointError::Layout { url, reason })?;
            self.folder.put(&path, body.bytes).await?;
            self.part.files.push(body.file);
            self.part.tensors.extend(body.tensors);
        }
        Ok(())
    }

    /// What was written.
    pub fn finish(self) -> Part {
        self.part
    }
}

/// Copying and hashing gigabytes must not hold up a thread that serves connections.
async fn blocking<T: Send + 'static>(
    url: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CheckpointError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| CheckpointError::Layout { url, reason: error.to_string() })
}

/// Checks each piece, and that none has a key of `keys`, which grows by theirs.
fn check_pieces(
    rank: usize,
    pieces: &[Piece],
    keys: &mut BTreeSet<String>,
) -> Result<(), CheckpointError> {
    for piece in pieces {
        let result = match check_piece(piece) {
            Ok(()) if !keys.insert(key(piece)) => Err("the same piece twice".to_owned()),
            result => result,
        };
        result.map_err(|reason| CheckpointError::Piece {
            rank,
            name: piece.name.clone(),
            kind: piece.kind,
            reason,
        })?;
    }
    Ok(())
}

fn check_piece(piece: &Piece) -> Result<(), String> {
    let region = region(piece);
    if piece.name.is_empty() || piece.name == "__metadata__" {
        return Err("safetensors reserves this name".to_owned());
    }
    if layout::count(&piece.shape).is_none() || !region.fits(&piece.shape) {
        return Err(format!("{region:?} is not in shape {:?}", piece.shape));
    }
    let bytes = region.count().and_then(|values| values.checked_mul(piece.dtype.bytes()));
    if bytes != Some(piece.data.len() as u64) {
        let held = piece.data.len();
        return Err(format!("{held} bytes for extent {:?}", piece.extent));
    }
    Ok(())
}

fn region(piece: &Piece) -> Region<'_> {
    Region { offset: &piece.offset, extent: &piece.extent }
}

/// The key in the file. A whole parameter keeps its own name, so that other tools can use the file.
fn key(piece: &Piece) -> String {
    let mut key = match piece.kind {
        Kind::Parameter => piece.name.clone(),
        kind => format!("{kind}:{}", piece.name),
    };
    if piece.extent != piece.shape {
        let offset: Vec<String> = piece.offset.iter().map(u64::to_string).collect();
        key.push('@');
        key.push_str(&offset.join(","));
    }
    key
}

/// Cuts the pieces into groups of at most `limit` bytes, in order; a larger piece is alone.
fn group(pieces: Vec<Piece>, limit: usize) -> Vec<Vec<Piece>> {
    let mut groups: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    for piece in pieces {
        let bytes = piece.data.len();
        match groups.last_mut() {
            Some(group) if bytes <= room => group.push(piece),
            _ => {
                groups.push(vec![piece]);
                room = limit;
            }
        }
        room = room.saturating_sub(bytes);
    }
    groups
}

/// A file ready to be written.
struct Body {
    bytes: Bytes,
    file: File,
    tensors: Vec<PartTensor>,
}

impl Body {
    fn lay_out(path: String, pieces: Vec<Piece>) -> Result<Body, String> {
        let bytes = serialize(&pieces)?;
        let (header, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|error| error.to_string())?;
        let header_bytes = 8 + header;
        let mut tensors = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let info =
                metadata.info(&key(&piece)).ok_or_else(|| format!("`{}` is lost", key(&piece)))?;
            let begin = (header_bytes + info.data_offsets.0) as u64;
            tensors.push(describe(piece, &path, begin));
        }
        let file = File {
            path,
            bytes: bytes.len() as u64,
            header_bytes: header_bytes as u64,
            header_xxh3: Sum::of(&bytes[..header_bytes]),
        };
        Ok(Body { bytes: bytes.into(), file, tensors })
    }
}

fn serialize(pieces: &[Piece]) -> Result<Vec<u8>, String> {
    let mut views = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let extent = piece.extent.iter().map(|&size| size as usize).collect();
        let view = TensorView::new(piece.dtype.safetensors(), extent, &piece.data);
        views.push((key(piece), view.map_err(|error| error.to_string())?));
    }
    safetensors::serialize(views, None).map_err(|error| error.to_string())
}

fn describe(piece: Piece, file: &str, begin: u64) -> PartTensor {
    PartTensor {
        name: piece.name,
        kind: piece.kind,
        dtype: piece.dtype,
        shape: piece.shape,
        part: TensorPart {
            file: file.to_owned(),
            offset: piece.offset,
            extent: piece.extent,
            begin,
            end: begin + piece.data.len() as u64,
            xxh3: Sum::of_blocks(&piece.data, BLOCK_BYTES),
        },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn state(step: u64) -> State {
        State {
            step,
            stage: "base".into(),
            stage_step: step,
            stage_done: false,
            cursor: serde_json::json!({"consumed": 17, "share": 0.1}),
            recipe_hash: "cafe".into(),
            seed: 3,
            writer_epoch: 1,
            dp: 1,
            tp: 1,
        }
    }

    fn piece(name: &str, offset: &[u64], extent: &[u64], bytes: usize) -> Piece {
        Piece {
            name: name.into(),
            kind: Kind::ExpAvg,
            dtype: Dtype::Bf16,
            shape: vec![4, 2],
            offset: offset.into(),
            extent: extent.into(),
            data: vec![1; bytes].into(),
        }
    }

    #[test]
    fn pieces_that_contradict_themselves_are_refused() {
        let cases = [
            (piece("x", &[0, 0], &[4, 2], 15), "15 bytes"),
            (piece("x", &[1, 0], &[4, 2], 16), "not in shape"),
            (piece("x", &[0], &[4, 2], 16), "not in shape"),
            (piece("__metadata__", &[0, 0], &[4, 2], 16), "reserves"),
        ];
        for (piece, reason) in cases {
            let error =
                check_pieces(5, &[piece], &mut BTreeSet::new()).expect_err("refused").to_string();
            assert!(error.contains(reason) && error.contains("rank 5"), "{error}");
        }
        let twice = [piece("x", &[0, 0], &[4, 2], 16), piece("x", &[0, 0], &[4, 2], 16)];
        assert!(check_pieces(0, &twice, &mut BTreeSet::new()).is_err());
    }

    #[test]
    fn groups_keep_all_pieces_in_order() {
        let sized = |bytes| piece("a", &[0, 0], &[4, 2], bytes);
        let sizes = |limit| -> Vec<Vec<usize>> {
            let pieces = [4, 4, 20, 2, 6, 3].map(sized).into();
            let groups = group(pieces, limit);
            let sizes = |group: &Vec<Piece>| group.iter().map(|piece| piece.data.len()).collect();
            groups.iter().map(sizes).collect()
        };
        assert_eq!(sizes(8), [vec![4, 4], vec![20], vec![2, 6], vec![3]]);
        assert_eq!(sizes(100), [[4, 4, 20, 2, 6, 3]]);
        assert!(group(Vec::new(), 8).is_empty());
    }

    #[test]
    fn files_are_ordinary_safetensors() {
        let mut whole = piece("w", &[0, 0], &[4, 2], 16);
        whole.kind = Kind::Parameter;
        let half = piece("w", &[2, 0], &[2, 2], 8);
        let body = Body::lay_out("f".into(), vec![whole, half]).expect("lays out");
        let parsed = SafeTensors::deserialize(&body.bytes).expect("parses");
        let mut names: Vec<_> = parsed.names().into_iter().map(str::to_owned).collect();
        names.sort();
        assert_eq!(names, ["exp_avg:w@2,0", "w"]);
        let total: u64 = body.tensors.iter().map(|t| t.part.end - t.part.begin).sum();
        assert_eq!(body.file.header_bytes + total, body.file.bytes);
    }
}
