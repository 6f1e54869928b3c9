//! Tensors of known values, cut into layouts.

use bytes::Bytes;
use strand_checkpoint::{Dtype, Kind, Manifest, Piece, State, commit, write_part};
use strand_store::Location;

/// A whole tensor: its `i`-th byte is a function of its name and `i`.
#[derive(Clone, Debug)]
pub struct Whole {
    pub name: String,
    pub kind: Kind,
    pub dtype: Dtype,
    pub shape: Vec<u64>,
}

impl Whole {
    pub fn values(&self) -> Vec<u8> {
        let bytes = self.shape.iter().product::<u64>() * self.dtype.bytes();
        let salt: u64 = self.name.bytes().map(u64::from).sum::<u64>() + self.kind as u64;
        (0..bytes).map(|i| ((i + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    /// The bytes of a box, one value at a time: slow and plain.
    pub fn slice(&self, offset: &[u64], extent: &[u64]) -> Bytes {
        let width = self.dtype.bytes() as usize;
        let values = self.values();
        let mut out = Vec::new();
        for flat in 0..extent.iter().product::<u64>() {
            let (mut rest, mut position, mut stride) = (flat, 0, 1);
            for axis in (0..extent.len()).rev() {
                position += (offset[axis] + rest % extent[axis]) * stride;
                rest /= extent[axis];
                stride *= self.shape[axis];
            }
            let begin = position as usize * width;
            out.extend(&values[begin..begin + width]);
        }
        out.into()
    }

    pub fn piece(&self, offset: &[u64], extent: &[u64]) -> Piece {
        Piece {
            name: self.name.clone(),
            kind: self.kind,
            dtype: self.dtype,
            shape: self.shape.clone(),
            offset: offset.into(),
            extent: extent.into(),
            data: self.slice(offset, extent),
        }
    }
}

/// Cuts a length into `count` neighbouring ranges (start, size), as even as can be; some may be empty.
pub fn cuts(length: u64, count: u64) -> Vec<(u64, u64)> {
    let at = |i: u64| length * i / count;
    (0..count).map(|i| (at(i), at(i + 1) - at(i))).collect()
}

/// The boxes of a tensor under tp × dp: tp cuts `axis`, dp cuts the first other axis (or the same one again). Empty
/// ones are left out. In the order of ranks, tp fastest.
pub fn boxes(shape: &[u64], axis: usize, dp: u64, tp: u64) -> Vec<(u64, Vec<u64>, Vec<u64>)> {
    if shape.is_empty() {
        return vec![(0, vec![], vec![])];
    }
    let axis = axis % shape.len();
    let other = (axis + 1) % shape.len();
    let mut boxes = Vec::new();
    for (t, &(start, size)) in cuts(shape[axis], tp).iter().enumerate() {
        let length = if other == axis { size } else { shape[other] };
        for (d, &(inner, inner_size)) in cuts(length, dp).iter().enumerate() {
            let (mut offset, mut extent) = (vec![0; shape.len()], shape.to_vec());
            (offset[axis], extent[axis]) = (start, size);
            offset[other] += inner;
            extent[other] = inner_size;
            if !extent.contains(&0) {
                boxes.push((d as u64 * tp + t as u64, offset, extent));
            }
        }
    }
    boxes
}

pub fn state(step: u64, dp: u64, tp: u64) -> State {
    State {
        step,
        stage: "base".into(),
        stage_step: step,
        stage_done: false,
        cursor: serde_json::json!({"consumed": 17, "share": 0.1}),
        recipe_hash: "cafe".into(),
        seed: 3,
        writer_epoch: 1,
        dp: dp as usize,
        tp: tp as usize,
    }
}

/// Writes and commits tensors, each cut along its own axis.
pub async fn save(
    run: &Location,
    state: &State,
    tensors: &[(Whole, usize)],
) -> Result<Manifest, strand_checkpoint::CheckpointError> {
    let mut parts = Vec::new();
    for rank in 0..state.dp * state.tp {
        let mut pieces = Vec::new();
        for (tensor, axis) in tensors {
            let all = boxes(&tensor.shape, *axis, state.dp as u64, state.tp as u64);
            let mine = all.into_iter().filter(|(owner, ..)| *owner == rank as u64);
            pieces.extend(mine.map(|(_, offset, extent)| tensor.piece(&offset, &extent)));
        }
        parts.push(write_part(run, state, rank, pieces).await?);
    }
    commit(run, state, parts).await
}

pub fn folder() -> (tempfile::TempDir, Location) {
    let guard = tempfile::tempdir().expect("a folder");
    let location = Location::open(guard.path().to_str().expect("UTF-8")).expect("opens");
    (guard, location)
}
