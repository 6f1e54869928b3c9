//! Reductions of half-precision numbers, which MPI does not know. Each step is computed in 32 bits and rounded.

#![allow(unsafe_code, reason = "functions that a C library calls")]

use std::ffi::{c_int, c_void};

use ::mpi::ffi;
use half::{bf16, f16};
use strand_torch::ReduceOp;
use tch::Kind;

use super::calls::check;
use crate::backend::BackendError;

/// MPI's handles of the reductions.
pub struct HalfOps {
    bf16: Rules,
    f16: Rules,
}

struct Rules {
    sum: ffi::MPI_Op,
    max: ffi::MPI_Op,
    min: ffi::MPI_Op,
}

impl HalfOps {
    /// Tells MPI about them.
    ///
    /// # Errors
    /// MPI's own.
    pub fn new() -> Result<HalfOps, BackendError> {
        Ok(HalfOps { bf16: rules::<bf16>()?, f16: rules::<f16>()? })
    }

    /// The reduction of a type: MPI's own but for half precision.
    pub fn of(&self, kind: Kind, op: ReduceOp) -> ffi::MPI_Op {
        let rules = match kind {
            Kind::BFloat16 => &self.bf16,
            Kind::Half => &self.f16,
            // Safety: they are constants of the library.
            _ => unsafe {
                return match op {
                    ReduceOp::Sum => ffi::RSMPI_SUM,
                    ReduceOp::Max => ffi::RSMPI_MAX,
                    ReduceOp::Min => ffi::RSMPI_MIN,
                };
            },
        };
        match op {
            ReduceOp::Sum => rules.sum,
            ReduceOp::Max => rules.max,
            ReduceOp::Min => rules.min,
        }
    }
}

/// A number of 16 bits.
trait Narrow: Copy {
    fn wide(self) -> f32;
    fn narrow(wide: f32) -> Self;
}

impl Narrow for bf16 {
    fn wide(self) -> f32 {
        self.to_f32()
    }

    fn narrow(wide: f32) -> bf16 {
        bf16::from_f32(wide)
    }
}

impl Narrow for f16 {
    fn wide(self) -> f32 {
        self.to_f32()
    }

    fn narrow(wide: f32) -> f16 {
        f16::from_f32(wide)
    }
}

const SUM: u8 = ReduceOp::Sum as u8;
const MAX: u8 = ReduceOp::Max as u8;
const MIN: u8 = ReduceOp::Min as u8;

fn rules<T: Narrow>() -> Result<Rules, BackendError> {
    Ok(Rules {
        sum: create(combine::<T, SUM>)?,
        max: create(combine::<T, MAX>)?,
        min: create(combine::<T, MIN>)?,
    })
}

type Function = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_int, *mut ffi::MPI_Datatype);

fn create(function: Function) -> Result<ffi::MPI_Op, BackendError> {
    const COMMUTES: c_int = 1;
    // Safety: the handle is set where the code says so, and the function lives as long as the program.
    unsafe {
        let mut op = ffi::RSMPI_SUM;
        let code = ffi::MPI_Op_create(Some(function), COMMUTES, &raw mut op);
        check("MPI_Op_create", code).map(|()| op)
    }
}

/// Safety of MPI: both hold `count` words of 16 bits that are numbers of type `T`.
unsafe extern "C" fn combine<T: Narrow, const RULE: u8>(
    from: *mut c_void,
    into: *mut c_void,
    count: *mut c_int,
    _data: *mut ffi::MPI_Datatype,
) {
    let (from, into) = unsafe {
        let count = *count as usize;
        let from = std::slice::from_raw_parts(from.cast::<T>(), count);
        (from, std::slice::from_raw_parts_mut(into.cast::<T>(), count))
    };
    for (into, from) in into.iter_mut().zip(from) {
        let (a, b) = (into.wide(), from.wide());
        *into = T::narrow(match RULE {
            MAX => a.max(b),
            MIN => a.min(b),
            _ => a + b,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_numbers_are_combined_as_numbers() {
        let numbers = |values: [f32; 3]| values.map(bf16::from_f32);
        let (mut from, mut count) = (numbers([1.5, -2.0, 256.0]), 3);
        let mut run = |rule: Function| {
            let mut into = numbers([2.0, -4.0, 1.0]);
            // Safety: it is a constant of the library.
            let mut data = unsafe { ffi::RSMPI_UINT16_T };
            // Safety: both hold three numbers.
            unsafe {
                let (from, into) = (from.as_mut_ptr().cast(), into.as_mut_ptr().cast());
                rule(from, into, &raw mut count, &raw mut data);
            }
            into.map(bf16::to_f32)
        };
        // 257 has no place in eight bits.
        assert_eq!(run(combine::<bf16, SUM>), [3.5, -6.0, 256.0]);
        assert_eq!(run(combine::<bf16, MAX>), [2.0, -2.0, 256.0]);
        assert_eq!(run(combine::<bf16, MIN>), [1.5, -4.0, 1.0]);
    }
}
