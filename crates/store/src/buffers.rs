//! Memory that is used again: to fetch fresh memory from the system costs as much as to read a file into it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::Bytes;

/// The first byte of every block lies at a multiple of this: a cache line, and wide enough for any vector load.
pub const ALIGNMENT: usize = 64;
/// Most unused bytes that [`Pool::shared`] keeps: about two windows of row groups.
const SHARED_KEPT: usize = 256 << 20;
/// Smaller blocks are not kept.
const KEPT_FROM: usize = 64 << 10;

/// Where blocks come from: ordinary memory, or a device's page-locked memory.
pub trait Memory: Send + Sync {
    /// A block of at least `bytes` bytes, aligned to [`ALIGNMENT`], with any content.
    ///
    /// # Errors
    /// There is not enough memory of this kind.
    fn allocate(&self, bytes: usize) -> io::Result<Box<dyn Block>>;
}

/// A block of memory, given back when it is dropped.
pub trait Block: AsRef<[u8]> + AsMut<[u8]> + Send + Sync {}

/// Ordinary memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ordinary;

impl Memory for Ordinary {
    fn allocate(&self, bytes: usize) -> io::Result<Box<dyn Block>> {
        // Small pages: where a host takes back what its virtual machines do not use, each huge page costs milliseconds
        // to get, and a new process read at half the rate. Where it does not, they gain a quarter until all is reused.
        let memory = vec![0; bytes + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Ok(Box::new(Aligned { memory, start, bytes }))
    }
}

/// A vector that is never resized, so that its aligned part stays where it is.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.bytes]
    }
}

impl AsMut<[u8]> for Aligned {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.bytes]
    }
}

impl Block for Aligned {}

/// Blocks that wait to be used again.
pub struct Pool {
    memory: Box<dyn Memory>,
    /// Most bytes that wait.
    kept: usize,
    free: Mutex<VecDeque<Box<dyn Block>>>,
}

impl Pool {
    /// An empty pool that keeps up to `kept` bytes of unused blocks.
    pub fn new(memory: impl Memory + 'static, kept: usize) -> Arc<Pool> {
        Arc::new(Pool { memory: Box::new(memory), kept, free: Mutex::default() })
    }

    /// The pool of ordinary memory that all readers of this process share, so that the next one finds what the last
    /// one used.
    pub fn shared() -> Arc<Pool> {
        static SHARED: LazyLock<Arc<Pool>> = LazyLock::new(|| Pool::new(Ordinary, SHARED_KEPT));
        SHARED.clone()
    }

    /// A buffer of `bytes` bytes, with any content.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn take(self: &Arc<Self>, bytes: usize) -> io::Result<Buffer> {
        let block = match self.find(bytes) {
            Some(block) => block,
            None => self.memory.allocate(rounded(bytes))?,
        };
        Ok(Buffer { block: Some(block), bytes, pool: self.clone() })
    }

    /// The block used last that is large enough and not twice as large: its memory may still be in a cache.
    fn find(&self, bytes: usize) -> Option<Box<dyn Block>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = bytes..=rounded(bytes).saturating_mul(2);
        let at = free.iter().rposition(|block| fits.contains(&size(block.as_ref())))?;
        free.remove(at)
    }

    fn give(&self, block: Box<dyn Block>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dropped = Vec::new();
        if size(block.as_ref()) >= KEPT_FROM {
            free.push_back(block);
        }
        let mut held: usize = free.iter().map(|block| size(block.as_ref())).sum();
        while held > self.kept
            && let Some(oldest) = free.pop_front()
        {
            held -= size(oldest.as_ref());
            dropped.push(oldest);
        }
        // The system takes its time to unmap memory: not under the lock.
        drop(free);
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} bytes kept at most)", self.kept)
    }
}

fn size(block: &dyn Block) -> usize {
    block.as_ref().len()
}

/// Sizes of blocks: an eighth apart at most, so that row groups of about the same size share blocks.
fn rounded(bytes: usize) -> usize {
    bytes.next_multiple_of((bytes / 16).next_power_of_two().max(KEPT_FROM))
}

/// Some bytes that go back to their pool when they are dropped.
pub struct Buffer {
    block: Option<Box<dyn Block>>,
    bytes: usize,
    pool: Arc<Pool>,
}

impl Buffer {
    /// The same memory, no longer to be changed. It goes back when the last slice of it is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.block.as_ref().map_or(&[], |block| &block.as_ref().as_ref()[..self.bytes])
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self.block.as_mut().map_or(&mut [], |block| &mut block.as_mut().as_mut()[..self.bytes])
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.pool.give(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(bytes: &[u8]) -> usize {
        bytes.as_ptr() as usize
    }

    #[test]
    fn memory_is_aligned_and_used_again() {
        let pool = Pool::new(Ordinary, 1 << 20);
        let mut buffer = pool.take(100_001).expect("memory");
        buffer.as_mut()[100_000] = 7;
        let first = address(buffer.as_ref());
        assert_eq!(first % ALIGNMENT, 0);
        let frozen = buffer.freeze();
        let slice = frozen.slice(99_999..);
        drop(frozen);
        let other = pool.take(100_000).expect("memory");
        assert_ne!(address(other.as_ref()), first, "a slice of it is still in use");
        assert_eq!(&slice[..], [0, 7]);
        drop(slice);
        let again = pool.take(99_000).expect("memory");
        assert_eq!((address(again.as_ref()), again.as_ref().len()), (first, 99_000));
    }

    #[test]
    fn no_more_is_kept_than_allowed_and_no_block_is_wasted() {
        let pool = Pool::new(Ordinary, 600_000);
        let buffers: Vec<_> = (0..4).map(|_| pool.take(200_000).expect("memory")).collect();
        drop(buffers);
        assert_eq!(pool.free.lock().expect("a lock").len(), 2);
        let small = pool.take(10).expect("memory");
        assert_eq!(pool.free.lock().expect("a lock").len(), 2, "a large block for 10 bytes");
        drop(small);
        assert!(rounded(6_300_000) < 6_900_000 && rounded(1) == KEPT_FROM);
    }
}
