//! Tensors in memory that Rust owns.

use tch::{Device, Kind, Tensor};

use crate::{Error, tensor};

#[cxx::bridge(namespace = "strand")]
mod ffi {
    extern "Rust" {
        type Owner;
    }

    unsafe extern "C++" {
        include!("blob.h");

        #[namespace = "at"]
        type Tensor = crate::tensor::CxxTensor;

        fn with_owner(view: &Tensor, owner: Box<Owner>) -> Result<UniquePtr<Tensor>>;
    }
}

/// What keeps the memory of a tensor.
struct Owner(Box<dyn AsRef<[u8]> + Send>);

/// A tensor on the CPU whose elements are these very bytes, in C order and the machine's byte order. The bytes are
/// dropped with the last tensor that shares them, on whatever thread that is.
///
/// It must not be written to: no operation in place, for others may hold the bytes too.
///
/// # Errors
/// [`Error::Memory`] where the bytes are not as many as the shape has, or not aligned to its elements.
pub fn from_bytes(
    bytes: impl AsRef<[u8]> + Send + 'static,
    shape: &[i64],
    kind: Kind,
) -> Result<Tensor, Error> {
    let owner = Owner(Box::new(bytes));
    let memory = (*owner.0).as_ref();
    let size = kind.elt_size_in_bytes();
    let elements =
        shape.iter().try_fold(1_usize, |all, &one| all.checked_mul(usize::try_from(one).ok()?));
    let fits = elements.and_then(|all| all.checked_mul(size)) == Some(memory.len());
    if fits && memory.is_empty() {
        return Ok(Tensor::f_empty(shape, (kind, Device::Cpu))?);
    }
    if !fits || memory.as_ptr().align_offset(size) != 0 {
        let (bytes, shape) = (memory.len(), shape.to_vec());
        return Err(Error::Memory { bytes, shape, kind });
    }
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    // Safety: the memory has the size and the alignment of the shape, and lives as long as `owner`, which the tensor
    // that is returned keeps. `view` ends before.
    let view = unsafe { Tensor::f_from_blob(memory.as_ptr(), shape, &strides, kind, Device::Cpu) }?;
    let owned = ffi::with_owner(tensor::as_cxx(&view), Box::new(owner))?;
    Ok(tensor::from_cxx(owned))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone)]
    #[repr(align(64))]
    struct Aligned([u8; 24]);

    struct Shared(Arc<Aligned>);

    impl AsRef<[u8]> for Shared {
        fn as_ref(&self) -> &[u8] {
            &self.0.0
        }
    }

    fn numbers() -> Arc<Aligned> {
        let mut bytes = [0; 24];
        for (number, place) in bytes.chunks_exact_mut(4).enumerate() {
            place.copy_from_slice(&(number as f32).to_ne_bytes());
        }
        Arc::new(Aligned(bytes))
    }

    #[test]
    fn the_bytes_are_shared_and_dropped_with_the_last_tensor() {
        let numbers = numbers();
        let tensor = from_bytes(Shared(numbers.clone()), &[2, 3], Kind::Float).unwrap();
        assert_eq!(tensor.data_ptr().cast_const().cast(), numbers.0.as_ptr());
        let row = tensor.get(1);
        drop(tensor);
        assert_eq!(Vec::<f32>::try_from(&row).unwrap(), [3.0, 4.0, 5.0]);
        assert_eq!(Arc::strong_count(&numbers), 2);
        drop(row);
        assert_eq!(Arc::strong_count(&numbers), 1);
    }

    #[test]
    fn bytes_of_another_size_or_alignment_are_refused() {
        let numbers = numbers();
        for (from, shape) in
            [(0, &[2, 4][..]), (0, &[-1, 6]), (0, &[i64::MAX, i64::MAX]), (2, &[5])]
        {
            let bytes: &'static [u8] =
                Box::leak(Box::new((*numbers).clone())).0.get(from..).unwrap();
            let bytes = if from == 0 { bytes } else { &bytes[..20] };
            let error = from_bytes(bytes, shape, Kind::Float).unwrap_err();
            assert!(matches!(error, Error::Memory { .. }), "{error}");
        }
        let empty = from_bytes([0_u8; 0], &[0, 3], Kind::Half).unwrap();
        assert_eq!(empty.size(), [0, 3]);
    }
}
