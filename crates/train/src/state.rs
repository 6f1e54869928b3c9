//! A model and an optimizer as pieces of a checkpoint, and back.

use bytes::Bytes;
use strand_checkpoint::{Dtype, Kind, Piece, Reader};
use strand_model::{Parameter, Slice, VideoLm};
use tch::Tensor;
use tokio::runtime::Handle;

use crate::error::TrainError;
use crate::sharded::{Held, Sharded};

/// What is written of a parameter.
const KINDS: [Kind; 3] = [Kind::Parameter, Kind::ExpAvg, Kind::ExpAvgSq];

/// The pieces that this rank writes. Ranks that hold the same values share the work: each piece has one writer.
///
/// # Errors
/// A tensor cannot be read.
pub fn pieces(model: &VideoLm, sharded: &Sharded) -> Result<Vec<Piece>, TrainError> {
    let mut pieces = Vec::new();
    for held in sharded.held(model.parameters()).iter().filter(|held| held.is_written) {
        for kind in KINDS {
            if let Some(values) = held.values(kind)? {
                pieces.push(piece(held, kind, &values)?);
            }
        }
    }
    Ok(pieces)
}

fn piece(held: &Held, kind: Kind, values: &Tensor) -> Result<Piece, TrainError> {
    let values = values.contiguous();
    let dtype = match values.kind() {
        tch::Kind::Double => Dtype::F64,
        tch::Kind::BFloat16 => Dtype::Bf16,
        _ => Dtype::F32,
    };
    let mut data = vec![0; values.numel() * dtype.bytes() as usize];
    values.view(-1).f_copy_data_u8(&mut data, values.numel())?;
    Ok(Piece {
        name: held.parameter.name.clone(),
        kind,
        dtype,
        shape: unsigned(&held.parameter.shape),
        offset: unsigned(&held.offset),
        extent: unsigned(&held.extent),
        data: Bytes::from(data),
    })
}

pub(crate) fn unsigned(sizes: &[i64]) -> Vec<u64> {
    sizes.iter().map(|&size| size as u64).collect()
}

/// Parameters that a checkpoint of a plain language model lacks: they may keep their fresh values.
const ADDED: [&str; 3] = ["proj.", "global_local.", "mvm_decoder."];

/// The factors of LoRA, which may be added to any product.
const FACTORS: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];

/// Reads this rank's slices of the parameters. Returns the names that the checkpoint lacks and that stay fresh.
///
/// # Errors
/// A parameter of the language model is missing, has another shape, or cannot be read.
pub fn load_parameters(
    model: &VideoLm,
    reader: &Reader,
    handle: &Handle,
) -> Result<Vec<String>, TrainError> {
    let mut fresh = Vec::new();
    for parameter in model.parameters().iter() {
        if may_stay_fresh(parameter, reader) {
            fresh.push(parameter.name.clone());
        } else if !parameter.slice.extent.contains(&0) {
            let Slice { offset, extent } = &parameter.slice;
            let values = stored(parameter, Kind::Parameter, (offset, extent), reader, handle)?;
            let mut own = parameter.unpadded(&parameter.tensor.detach());
            tch::no_grad(|| own.f_copy_(&values))?;
        }
    }
    Ok(fresh)
}

/// Reads the parameters that this rank keeps, as [`load_parameters`] does.
///
/// # Errors
/// As [`load_parameters`].
pub fn load_weights(
    model: &VideoLm,
    sharded: &mut Sharded,
    reader: &Reader,
    handle: &Handle,
) -> Result<Vec<String>, TrainError> {
    let stays = |parameter: &Parameter| may_stay_fresh(parameter, reader);
    let fresh = model.parameters().iter().filter(|parameter| stays(parameter));
    let fresh = fresh.map(|parameter| parameter.name.clone()).collect();
    let held = sharded.held(model.parameters());
    load_held(held.iter().filter(|held| !stays(held.parameter)), Kind::Parameter, reader, handle)?;
    drop(held);
    sharded.publish()?;
    Ok(fresh)
}

/// Reads the moments that this rank keeps.
///
/// # Errors
/// A moment is missing, has another shape, or cannot be read.
pub fn load_moments(
    model: &VideoLm,
    sharded: &Sharded,
    reader: &Reader,
    handle: &Handle,
) -> Result<(), TrainError> {
    let held = sharded.held(model.parameters());
    load_held(held.iter(), Kind::ExpAvg, reader, handle)?;
    load_held(held.iter(), Kind::ExpAvgSq, reader, handle)
}

fn may_stay_fresh(parameter: &Parameter, reader: &Reader) -> bool {
    let name = &parameter.name;
    let is_added = ADDED.iter().any(|part| name.starts_with(part));
    (is_added || FACTORS.iter().any(|part| name.ends_with(part)))
        && reader.manifest().tensor(name, Kind::Parameter).is_none()
}

fn load_held<'a>(
    held: impl Iterator<Item = &'a Held<'a>>,
    kind: Kind,
    reader: &Reader,
    handle: &Handle,
) -> Result<(), TrainError> {
    for held in held {
        if held.has(kind) {
            let region = (&held.offset, &held.extent);
            held.set(kind, &stored(held.parameter, kind, region, reader, handle)?)?;
        }
    }
    Ok(())
}

/// Reads a box of a tensor, in the type that it is stored in.
fn stored(
    parameter: &Parameter,
    kind: Kind,
    (offset, extent): (&Vec<i64>, &Vec<i64>),
    reader: &Reader,
    handle: &Handle,
) -> Result<Tensor, TrainError> {
    check_shape(parameter, kind, reader)?;
    let dtype = reader.manifest().tensor(&parameter.name, kind).map(|stored| stored.dtype);
    let region = (unsigned(offset), unsigned(extent));
    let read = reader.read_slice(&parameter.name, kind, &region.0, &region.1);
    let bytes = handle.block_on(read)?;
    // A tensor that is not there has been reported by `read_slice`.
    from_bytes(&bytes, extent, dtype.unwrap_or(Dtype::F32))
}

/// Stored bytes as a tensor.
pub(crate) fn from_bytes(bytes: &[u8], extent: &[i64], dtype: Dtype) -> Result<Tensor, TrainError> {
    Ok(Tensor::f_from_data_size(bytes, extent, kind_of(dtype))?)
}

fn kind_of(dtype: Dtype) -> tch::Kind {
    match dtype {
        Dtype::F64 => tch::Kind::Double,
        Dtype::F32 => tch::Kind::Float,
        Dtype::Bf16 => tch::Kind::BFloat16,
        Dtype::F16 => tch::Kind::Half,
    }
}

fn check_shape(parameter: &Parameter, kind: Kind, reader: &Reader) -> Result<(), TrainError> {
    let (name, shape) = (parameter.name.clone(), unsigned(&parameter.shape));
    match reader.manifest().tensor(&name, kind) {
        Some(stored) if stored.shape != shape => {
            Err(TrainError::Shape { name, stored: stored.shape.clone(), shape })
        }
        _ => Ok(()),
    }
}
