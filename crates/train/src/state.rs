//! A model and an optimizer as pieces of a checkpoint, and back.

use bytes::Bytes;
use strand_checkpoint::{Dtype, Kind, Piece, Reader};
use strand_comm::Mesh;
use strand_model::{Parameter, VideoLm};
use tch::Tensor;
use tokio::runtime::Handle;

use crate::error::TrainError;
use crate::optimizer::AdamW;

/// The pieces that this rank writes. Ranks that hold the same values share the work: each piece has one writer.
///
/// # Errors
/// A tensor cannot be read.
pub fn pieces(model: &VideoLm, optimizer: &AdamW, mesh: &Mesh) -> Result<Vec<Piece>, TrainError> {
    let mut pieces = Vec::new();
    for (index, parameter) in model.parameters().iter().enumerate() {
        if !is_writer(index, parameter, mesh) || parameter.slice.extent.contains(&0) {
            continue;
        }
        pieces.push(piece(parameter, Kind::Parameter, &parameter.tensor)?);
        if let Some(moments) = optimizer.moments(&parameter.name) {
            pieces.push(piece(parameter, Kind::ExpAvg, &moments.exp_avg)?);
            pieces.push(piece(parameter, Kind::ExpAvgSq, &moments.exp_avg_sq)?);
        }
    }
    Ok(pieces)
}

fn is_writer(index: usize, parameter: &Parameter, mesh: &Mesh) -> bool {
    let holders = if parameter.is_split() { &mesh.dp } else { &mesh.world };
    index % holders.size() == holders.rank()
}

fn piece(parameter: &Parameter, kind: Kind, tensor: &Tensor) -> Result<Piece, TrainError> {
    let part = parameter.unpadded(&tensor.detach()).contiguous();
    let dtype = if part.kind() == tch::Kind::Double { Dtype::F64 } else { Dtype::F32 };
    let mut data = vec![0; part.numel() * dtype.bytes() as usize];
    part.view(-1).f_copy_data_u8(&mut data, part.numel()).map_err(TrainError::Tensor)?;
    Ok(Piece {
        name: parameter.name.clone(),
        kind,
        dtype,
        shape: unsigned(&parameter.shape),
        offset: unsigned(&parameter.slice.offset),
        extent: unsigned(&parameter.slice.extent),
        data: Bytes::from(data),
    })
}

fn unsigned(sizes: &[i64]) -> Vec<u64> {
    sizes.iter().map(|&size| size as u64).collect()
}

/// Parameters that a checkpoint of a plain language model lacks: they may keep their fresh values.
const ADDED: [&str; 3] = ["proj.", "global_local.", "mvm_decoder."];

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
        let name = &parameter.name;
        if ADDED.iter().any(|part| name.starts_with(part))
            && reader.manifest().tensor(name, Kind::Parameter).is_none()
        {
            fresh.push(name.clone());
        } else {
            load(parameter, Kind::Parameter, &parameter.tensor, reader, handle)?;
        }
    }
    Ok(fresh)
}

/// Reads this rank's slices of the moments.
///
/// # Errors
/// A moment is missing, has another shape, or cannot be read.
pub fn load_moments(
    model: &VideoLm,
    optimizer: &AdamW,
    reader: &Reader,
    handle: &Handle,
) -> Result<(), TrainError> {
    for parameter in model.parameters().iter() {
        if let Some(moments) = optimizer.moments(&parameter.name) {
            load(parameter, Kind::ExpAvg, &moments.exp_avg, reader, handle)?;
            load(parameter, Kind::ExpAvgSq, &moments.exp_avg_sq, reader, handle)?;
        }
    }
    Ok(())
}

fn load(
    parameter: &Parameter,
    kind: Kind,
    tensor: &Tensor,
    reader: &Reader,
    handle: &Handle,
) -> Result<(), TrainError> {
    if parameter.slice.extent.contains(&0) {
        return Ok(());
    }
    let (offset, extent) = (unsigned(&parameter.slice.offset), unsigned(&parameter.slice.extent));
    check_shape(parameter, kind, reader)?;
    let stored = reader.manifest().tensor(&parameter.name, kind).map(|stored| stored.dtype);
    let bytes = handle.block_on(reader.read_slice(&parameter.name, kind, &offset, &extent))?;
    // A tensor that is not there has been reported by `read_slice`.
    let stored = kind_of(stored.unwrap_or(Dtype::F32));
    let values = Tensor::f_from_data_size(&bytes, &parameter.slice.extent, stored)
        .map_err(TrainError::Tensor)?;
    tch::no_grad(|| {
        parameter.unpadded(&tensor.detach()).f_copy_(&values).map_err(TrainError::Tensor)
    })
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
