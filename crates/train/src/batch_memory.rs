//! The memory that batches arrive in.

use std::io;
use std::sync::Arc;

use strand_store::{Block, Memory, Pool};
use strand_torch::PageLocked;
use tch::Device;

/// Most unused bytes that are kept: some batches of long clips.
const KEPT: usize = 1 << 30;

/// Memory that the device copies from by itself: page-locked for a GPU.
pub fn batch_memory(device: Device) -> Arc<Pool> {
    match device {
        Device::Cuda(_) => Pool::new(PageLockedMemory, KEPT),
        _ => Pool::shared(),
    }
}

struct PageLockedMemory;

impl Memory for PageLockedMemory {
    fn allocate(&self, bytes: usize) -> io::Result<Box<dyn Block>> {
        Ok(Box::new(PageLockedBlock(PageLocked::new(bytes).map_err(io::Error::other)?)))
    }
}

struct PageLockedBlock(PageLocked);

impl AsRef<[u8]> for PageLockedBlock {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl AsMut<[u8]> for PageLockedBlock {
    fn as_mut(&mut self) -> &mut [u8] {
        self.0.as_mut()
    }
}

impl Block for PageLockedBlock {}
