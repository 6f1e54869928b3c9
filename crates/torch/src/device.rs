//! A GPU's side of a step: copies that nobody waits for, memory of the host that a GPU reads by itself, and how much of
//! its own it has used.

use tch::{Cuda, Device, Tensor};

use crate::{Error, tensor};

#[cxx::bridge(namespace = "strand")]
mod ffi {
    unsafe extern "C++" {
        include!("device.h");

        #[namespace = "at"]
        type Tensor = crate::tensor::CxxTensor;

        fn page_locked(bytes: i64) -> Result<UniquePtr<Tensor>>;
        fn peak_device_memory(index: i32) -> Result<u64>;
        fn trim_heap();
    }
}

/// A tensor of the CPU on a device. A GPU copies it when it comes to it, behind what it has to do already: the host goes
/// on. The tensor's memory must stay as it is until then, where it is page-locked memory of a [`PageLocked`]; libtorch
/// sees to all other memory.
///
/// # Errors
/// libtorch's own: no memory.
pub fn upload(tensor: &Tensor, device: Device) -> Result<Tensor, Error> {
    if tensor.device() == device {
        return Ok(tensor.shallow_clone());
    }
    // From other memory the driver would copy twice, and wait for the GPU.
    let locked = tensor.f_contiguous()?.f_pin_memory(device)?;
    Ok(locked.f_to_device_(device, tensor.kind(), true, false)?)
}

/// Waits until a device has done all that it was asked to.
pub fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

/// Most bytes of a GPU's memory that tensors of this process have held at one time; none on a CPU.
///
/// # Errors
/// There is no such GPU.
pub fn peak_device_memory(device: Device) -> Result<Option<u64>, Error> {
    match device {
        Device::Cuda(index) => Ok(Some(ffi::peak_device_memory(index as i32)?)),
        _ => Ok(None),
    }
}

/// Gives free memory of the heap back to the system, where that is glibc's: after large tensors that will not come
/// again.
pub fn trim_heap() {
    ffi::trim_heap();
}

/// Page-locked bytes: a GPU reads them by itself while the host goes on.
pub struct PageLocked {
    tensor: Tensor,
    bytes: usize,
}

impl PageLocked {
    /// New memory, with any content. It begins at a multiple of 512 bytes.
    ///
    /// # Errors
    /// There is no CUDA, or not enough memory of this kind.
    pub fn new(bytes: usize) -> Result<PageLocked, Error> {
        let tensor = tensor::from_cxx(ffi::page_locked(bytes.max(1) as i64)?);
        Ok(PageLocked { tensor, bytes })
    }
}

impl AsRef<[u8]> for PageLocked {
    fn as_ref(&self) -> &[u8] {
        // Safety: the tensor has so many bytes, lives as long as `self`, and nobody else has a handle on it.
        unsafe { std::slice::from_raw_parts(self.tensor.data_ptr().cast(), self.bytes) }
    }
}

impl AsMut<[u8]> for PageLocked {
    fn as_mut(&mut self) -> &mut [u8] {
        // Safety: as above, and `self` is borrowed by nobody else.
        unsafe { std::slice::from_raw_parts_mut(self.tensor.data_ptr().cast(), self.bytes) }
    }
}

// Safety: only `&mut self` gives a way to write, and the tensor itself is never handed out.
unsafe impl Sync for PageLocked {}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn on_its_own_device_a_tensor_stays_where_it_is() {
        let tensor = Tensor::ones([3], (Kind::Float, Device::Cpu));
        assert_eq!(upload(&tensor, Device::Cpu).unwrap().data_ptr(), tensor.data_ptr());
        assert_eq!(peak_device_memory(Device::Cpu).unwrap(), None);
    }

    #[test]
    fn without_cuda_there_is_no_page_locked_memory() {
        if Cuda::device_count() > 0 {
            let mut memory = PageLocked::new(3).unwrap();
            memory.as_mut()[2] = 7;
            return assert_eq!(memory.as_ref()[2], 7);
        }
        assert!(PageLocked::new(1).is_err());
    }
}
