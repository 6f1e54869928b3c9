//! The functions of `libnccl.so.2`, found at run time.
//!
//! cudarc knows their types, but would look for a file `libnccl.so`, which NVIDIA's wheels do not have, or take one of
//! another version. libtorch's CUDA side depends on `libnccl.so.2`: asked for by that name after it, the loader hands
//! out the one that libtorch uses.

#![allow(unsafe_code, reason = "functions of a C library")]

use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use cudarc::nccl::sys::{
    cudaStream_t, ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId,
};
use libloading::Library;

use crate::backend::BackendError;

/// What the functions return: NCCL's codes, also those that came after cudarc's list.
pub type Code = c_int;

/// All is well.
pub const SUCCESS: Code = 0;
/// A communicator that does not block is still at it.
pub const IN_PROGRESS: Code = 7;

/// The file that libtorch depends on.
const FILE: &str = "libnccl.so.2";

/// From that version on `ncclCommSplit` and configurations are as they are used here: 2.18.3.
const LEAST_VERSION: c_int = 21_803;

/// NCCL's functions, with the signatures of `nccl.h`.
#[allow(clippy::type_complexity, reason = "the signatures are NCCL's")]
pub struct Nccl {
    pub get_unique_id: unsafe extern "C" fn(*mut ncclUniqueId) -> Code,
    pub comm_init_rank_config: unsafe extern "C" fn(
        *mut ncclComm_t,
        c_int,
        ncclUniqueId,
        c_int,
        *mut ncclConfig_t,
    ) -> Code,
    pub comm_split:
        unsafe extern "C" fn(ncclComm_t, c_int, c_int, *mut ncclComm_t, *mut ncclConfig_t) -> Code,
    pub comm_get_async_error: unsafe extern "C" fn(ncclComm_t, *mut Code) -> Code,
    pub comm_finalize: unsafe extern "C" fn(ncclComm_t) -> Code,
    pub comm_destroy: unsafe extern "C" fn(ncclComm_t) -> Code,
    pub comm_abort: unsafe extern "C" fn(ncclComm_t) -> Code,
    pub all_reduce: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        ncclDataType_t,
        ncclRedOp_t,
        ncclComm_t,
        cudaStream_t,
    ) -> Code,
    pub all_gather: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        ncclDataType_t,
        ncclComm_t,
        cudaStream_t,
    ) -> Code,
    pub reduce_scatter: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        ncclDataType_t,
        ncclRedOp_t,
        ncclComm_t,
        cudaStream_t,
    ) -> Code,
    pub broadcast: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        ncclDataType_t,
        c_int,
        ncclComm_t,
        cudaStream_t,
    ) -> Code,
    get_error_string: unsafe extern "C" fn(Code) -> *const c_char,
    get_last_error: unsafe extern "C" fn(ncclComm_t) -> *const c_char,
    // The functions above lie in it.
    _library: Library,
}

impl Nccl {
    /// The library of this process, loaded at the first call.
    ///
    /// # Errors
    /// There is none, it is too old, or libtorch's CUDA side is not there.
    pub fn get() -> Result<&'static Nccl, BackendError> {
        static LOADED: OnceLock<Result<Nccl, String>> = OnceLock::new();
        strand_torch::load_cuda().map_err(|error| match error {
            strand_torch::Error::NoCuda { library, reason } => {
                BackendError::Library { library, reason }
            }
            other => other.into(),
        })?;
        let loaded = LOADED.get_or_init(|| Nccl::load(FILE)).as_ref();
        loaded.map_err(|reason| BackendError::Library { library: FILE, reason: reason.clone() })
    }

    fn load(file: &str) -> Result<Nccl, String> {
        // Safety: NCCL's initialisers do nothing but register themselves.
        let library = unsafe { Library::new(file) }.map_err(|error| reason(&error))?;
        let version = version(&library)?;
        if version < LEAST_VERSION {
            return Err(format!("its version is {version}, and {LEAST_VERSION} is needed"));
        }
        tracing::info!(version, "NCCL is loaded");
        Ok(Nccl {
            get_unique_id: find(&library, c"ncclGetUniqueId")?,
            comm_init_rank_config: find(&library, c"ncclCommInitRankConfig")?,
            comm_split: find(&library, c"ncclCommSplit")?,
            comm_get_async_error: find(&library, c"ncclCommGetAsyncError")?,
            comm_finalize: find(&library, c"ncclCommFinalize")?,
            comm_destroy: find(&library, c"ncclCommDestroy")?,
            comm_abort: find(&library, c"ncclCommAbort")?,
            all_reduce: find(&library, c"ncclAllReduce")?,
            all_gather: find(&library, c"ncclAllGather")?,
            reduce_scatter: find(&library, c"ncclReduceScatter")?,
            broadcast: find(&library, c"ncclBroadcast")?,
            get_error_string: find(&library, c"ncclGetErrorString")?,
            get_last_error: find(&library, c"ncclGetLastError")?,
            _library: library,
        })
    }

    /// A failure of `call`, in NCCL's words.
    pub fn error(&self, call: &'static str, code: Code) -> BackendError {
        // Safety: both return strings that live as long as the library; no communicator means the process's last.
        let (text, last) = unsafe {
            let last = (self.get_last_error)(std::ptr::null_mut());
            (words((self.get_error_string)(code)), words(last))
        };
        let reason = if last.is_empty() { text } else { format!("{text}: {last}") };
        BackendError::Native { library: "NCCL", call, reason }
    }

    /// An error unless `code` is success or says that work goes on.
    pub fn started(&self, call: &'static str, code: Code) -> Result<(), BackendError> {
        match code {
            SUCCESS | IN_PROGRESS => Ok(()),
            code => Err(self.error(call, code)),
        }
    }
}

/// Whether there is a CUDA driver: cudarc panics where it needs one that is not there.
pub fn has_driver() -> bool {
    // Safety: the driver's initialisers may run at any time.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// The loader's own words.
fn reason(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Looks a function up; `F` is its pointer type.
fn find<F: Copy>(library: &Library, name: &CStr) -> Result<F, String> {
    // Safety: callers give the signature that `nccl.h` declares.
    let symbol = unsafe { library.get::<F>(name.to_bytes_with_nul()) };
    symbol.map(|symbol| *symbol).map_err(|error| reason(&error))
}

fn version(library: &Library) -> Result<c_int, String> {
    let get: unsafe extern "C" fn(*mut c_int) -> Code = find(library, c"ncclGetVersion")?;
    let mut version = 0;
    // Safety: it writes one int.
    match unsafe { get(&raw mut version) } {
        SUCCESS => Ok(version),
        code => Err(format!("ncclGetVersion returns {code}")),
    }
}

/// Safety of the callers: `text` is null or a C string.
unsafe fn words(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_or_not_nccl_is_named() {
        let reason = Nccl::load("libno-such-nccl.so.2").err().unwrap();
        assert!(reason.contains("libno-such-nccl.so.2"), "{reason}");
        let reason = Nccl::load("libc.so.6").err().unwrap();
        assert!(reason.contains("ncclGetVersion"), "{reason}");
    }
}
