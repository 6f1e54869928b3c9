//! c10d's key-value store and Gloo process groups.

use std::time::Duration;

use cxx::SharedPtr;
use tch::Tensor;

use crate::{Error, tensor::as_cxx};

#[cxx::bridge(namespace = "strand")]
mod ffi {
    unsafe extern "C++" {
        include!("c10d.h");

        #[namespace = "at"]
        type Tensor = crate::tensor::CxxTensor;
        type Store;
        type ProcessGroup;
        type Work;

        fn tcp_store(
            host: &str,
            port: u16,
            listen_fd: i32,
            is_server: bool,
            timeout_ms: i64,
        ) -> Result<SharedPtr<Store>>;
        fn store_set(store: &Store, key: &str, value: &[u8]) -> Result<()>;
        fn store_get(store: &Store, key: &str) -> Result<Vec<u8>>;
        fn store_has(store: &Store, key: &str) -> Result<bool>;
        fn gloo_group(
            store: &Store,
            name: &str,
            host: &str,
            rank: i32,
            size: i32,
            timeout_ms: i64,
        ) -> Result<SharedPtr<ProcessGroup>>;
        fn set_timeout(group: &ProcessGroup, timeout_ms: i64) -> Result<()>;
        fn all_reduce(group: &ProcessGroup, tensor: &Tensor, op: u8) -> Result<SharedPtr<Work>>;
        fn all_gather(
            group: &ProcessGroup,
            output: &Tensor,
            input: &Tensor,
        ) -> Result<SharedPtr<Work>>;
        fn reduce_scatter(
            group: &ProcessGroup,
            output: &Tensor,
            input: &Tensor,
            op: u8,
        ) -> Result<SharedPtr<Work>>;
        fn broadcast(group: &ProcessGroup, tensor: &Tensor, root: i32) -> Result<SharedPtr<Work>>;
        fn barrier(group: &ProcessGroup) -> Result<SharedPtr<Work>>;
        fn wait(work: &Work, timeout_ms: i64) -> Result<()>;
        fn is_completed(work: &Work) -> Result<bool>;
    }
}

/// How values of several ranks become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ReduceOp {
    /// Their sum.
    Sum = 0,
    /// The greatest.
    Max = 1,
    /// The least.
    Min = 2,
}

/// c10d's TCPStore: keys and values that all ranks see.
pub struct Store(SharedPtr<ffi::Store>);

// Safety: TCPStore serialises its calls with a mutex.
unsafe impl Send for Store {}
unsafe impl Sync for Store {}

impl Store {
    /// Connects to the store at `host:port`; `is_server` starts it, on the listening socket `listen_fd` where given.
    ///
    /// # Errors
    /// The address cannot be bound or reached within `timeout`.
    pub fn tcp(
        host: &str,
        port: u16,
        listen_fd: Option<i32>,
        is_server: bool,
        timeout: Duration,
    ) -> Result<Store, Error> {
        let fd = listen_fd.unwrap_or(-1);
        Ok(Store(ffi::tcp_store(host, port, fd, is_server, millis(timeout))?))
    }

    /// Sets a key.
    ///
    /// # Errors
    /// The server is gone.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        Ok(ffi::store_set(&self.0, key, value)?)
    }

    /// Waits for a key and returns its value.
    ///
    /// # Errors
    /// Nobody has set the key within the store's time-out, or the server is gone.
    pub fn get(&self, key: &str) -> Result<Vec<u8>, Error> {
        Ok(ffi::store_get(&self.0, key)?)
    }

    /// Whether a key is set, without waiting.
    ///
    /// # Errors
    /// The server is gone.
    pub fn has(&self, key: &str) -> Result<bool, Error> {
        Ok(ffi::store_has(&self.0, key)?)
    }
}

/// A Gloo process group.
pub struct ProcessGroup(SharedPtr<ffi::ProcessGroup>);

// Safety: ProcessGroupGloo queues its work under a mutex and runs it on threads of its own.
unsafe impl Send for ProcessGroup {}
unsafe impl Sync for ProcessGroup {}

impl ProcessGroup {
    /// Joins the group `name` as `rank` of `size`, with connections on the interface of `host`. Meeting the others and
    /// each collective may take `timeout`.
    ///
    /// # Errors
    /// Not all ranks have come within `timeout`.
    pub fn gloo(
        store: &Store,
        name: &str,
        host: &str,
        (rank, size): (usize, usize),
        timeout: Duration,
    ) -> Result<ProcessGroup, Error> {
        let (rank, size) = (rank as i32, size as i32);
        Ok(ProcessGroup(ffi::gloo_group(&store.0, name, host, rank, size, millis(timeout))?))
    }

    /// How long a collective may take from now on.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn set_timeout(&self, timeout: Duration) -> Result<(), Error> {
        Ok(ffi::set_timeout(&self.0, millis(timeout))?)
    }

    /// Starts reducing `tensor` over the ranks, in place.
    ///
    /// # Errors
    /// The tensor's type or layout is not supported.
    pub fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<Work, Error> {
        Ok(Work(ffi::all_reduce(&self.0, as_cxx(tensor), op as u8)?))
    }

    /// Starts collecting every rank's `input` in `output`, `[size × input]` in rank order.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn all_gather(&self, output: &Tensor, input: &Tensor) -> Result<Work, Error> {
        Ok(Work(ffi::all_gather(&self.0, as_cxx(output), as_cxx(input))?))
    }

    /// Starts reducing `input`, of which `output` gets this rank's part.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn reduce_scatter(
        &self,
        output: &Tensor,
        input: &Tensor,
        op: ReduceOp,
    ) -> Result<Work, Error> {
        Ok(Work(ffi::reduce_scatter(&self.0, as_cxx(output), as_cxx(input), op as u8)?))
    }

    /// Starts copying `tensor` from rank `root` to all.
    ///
    /// # Errors
    /// The tensor's layout is not supported.
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<Work, Error> {
        Ok(Work(ffi::broadcast(&self.0, as_cxx(tensor), root as i32)?))
    }

    /// Starts a barrier.
    ///
    /// # Errors
    /// The group is broken.
    pub fn barrier(&self) -> Result<Work, Error> {
        Ok(Work(ffi::barrier(&self.0)?))
    }
}

/// A collective under way. c10d keeps its tensors alive until it ends.
pub struct Work(SharedPtr<ffi::Work>);

// Safety: c10d's Work guards its state with a mutex.
unsafe impl Send for Work {}

impl Work {
    /// Waits for the end.
    ///
    /// # Errors
    /// A peer is gone, or `timeout` has passed.
    pub fn wait(&self, timeout: Duration) -> Result<(), Error> {
        Ok(ffi::wait(&self.0, millis(timeout))?)
    }

    /// Whether it has ended, well or not.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn is_completed(&self) -> Result<bool, Error> {
        Ok(ffi::is_completed(&self.0)?)
    }
}

fn millis(duration: Duration) -> i64 {
    duration.as_millis().try_into().unwrap_or(i64::MAX)
}
