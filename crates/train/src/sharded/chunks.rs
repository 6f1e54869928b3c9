//! Flat tensors a few values at a time: what an update needs beside them is no larger.

use tch::{Device, Tensor};

/// Values that a core's cache holds in several types.
pub(crate) const CPU_CHUNK: i64 = 1 << 16;
/// Values that keep a GPU busy.
pub(crate) const GPU_CHUNK: i64 = 1 << 24;

/// How many values a device treats at a time where no result depends on it.
pub(crate) fn at_once(device: Device) -> i64 {
    match device {
        Device::Cpu => CPU_CHUNK * i64::from(tch::get_num_threads().max(1)),
        _ => GPU_CHUNK,
    }
}

/// Parts of flat tensors side by side, of `most` values; of empty tensors one part that is empty.
pub(crate) fn chunks<const N: usize>(
    tensors: [&Tensor; N],
    most: i64,
) -> impl Iterator<Item = [Tensor; N]> {
    let length = tensors[0].size()[0];
    let tensors = tensors.map(Tensor::shallow_clone);
    (0..length.max(1)).step_by(most as usize).map(move |start| {
        tensors.each_ref().map(|tensor| tensor.narrow(0, start, most.min(length - start)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::Kind;

    use super::*;

    proptest! {
        #[test]
        fn chunks_are_the_tensor(length in 0_i64..300_000) {
            let tensor = Tensor::arange(length, (Kind::Int64, Device::Cpu));
            let parts: Vec<Tensor> = chunks([&tensor], CPU_CHUNK).map(|[part]| part).collect();
            prop_assert!(parts.iter().all(|part| part.numel() <= CPU_CHUNK as usize));
            prop_assert_eq!(parts.iter().map(Tensor::numel).sum::<usize>(), length as usize);
            prop_assert_eq!(Tensor::cat(&parts, 0), tensor);
        }
    }
}
