//! One group over two backends: tensors of the CPU and of the GPU.

use std::sync::Arc;

use strand_torch::ReduceOp;
use tch::{Device, Tensor};

use crate::backend::{Backend, BackendError, Pending};
use crate::history::Call;

/// Carries each tensor where it lies. Once the GPUs' side has failed, so has the whole: what the CPUs would agree on might
/// come from tensors that were never summed.
pub struct Dispatch<Gpu> {
    /// For tensors of the CPU, barriers, and what is known about missing ranks.
    pub cpu: Arc<dyn Backend>,
    /// For tensors of the GPU.
    pub cuda: Arc<Gpu>,
}

impl<Gpu: Backend> Dispatch<Gpu> {
    fn of(&self, tensor: &Tensor) -> Result<&dyn Backend, BackendError> {
        self.cuda.check()?;
        match tensor.device() {
            Device::Cpu => Ok(self.cpu.as_ref()),
            Device::Cuda(_) => Ok(self.cuda.as_ref()),
            found => Err(BackendError::Device { found, expected: "CPUs and CUDA GPUs".into() }),
        }
    }
}

impl<Gpu: Backend> Backend for Dispatch<Gpu> {
    fn all_reduce(
        &self,
        call: &Call,
        tensor: &Tensor,
        op: ReduceOp,
    ) -> Result<Box<dyn Pending>, BackendError> {
        self.of(tensor)?.all_reduce(call, tensor, op)
    }

    fn all_gather(
        &self,
        call: &Call,
        output: &Tensor,
        input: &Tensor,
    ) -> Result<Box<dyn Pending>, BackendError> {
        self.of(input)?.all_gather(call, output, input)
    }

    fn reduce_scatter(
        &self,
        call: &Call,
        output: &Tensor,
        input: &Tensor,
        op: ReduceOp,
    ) -> Result<Box<dyn Pending>, BackendError> {
        self.of(input)?.reduce_scatter(call, output, input, op)
    }

    fn broadcast(
        &self,
        call: &Call,
        tensor: &Tensor,
        root: usize,
    ) -> Result<Box<dyn Pending>, BackendError> {
        self.of(tensor)?.broadcast(call, tensor, root)
    }

    /// The CPUs meet; what is in the GPUs' queues may still be there.
    fn barrier(&self, call: &Call) -> Result<Box<dyn Pending>, BackendError> {
        self.cuda.check()?;
        self.cpu.barrier(call)
    }

    fn check(&self) -> Result<(), BackendError> {
        self.cuda.check()?;
        self.cpu.check()
    }

    fn missing_ranks(&self, sequence: u64) -> Vec<usize> {
        self.cpu.missing_ranks(sequence)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::Location;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use tch::Kind;

    use super::*;
    use crate::history::Op;
    use crate::{CommError, Group};

    /// Notes what it is asked to do, and fails when told to.
    #[derive(Default)]
    struct Fake {
        calls: Mutex<Vec<Op>>,
        has_failed: AtomicBool,
    }

    impl Fake {
        fn note(&self, call: &Call) -> Result<Box<dyn Pending>, BackendError> {
            self.calls.lock().unwrap().push(call.op);
            Ok(Box::new(Done))
        }

        fn calls(&self) -> Vec<Op> {
            self.calls.lock().unwrap().clone()
        }
    }

    struct Done;

    impl Pending for Done {
        fn wait(&mut self, _timeout: Duration) -> Result<(), BackendError> {
            Ok(())
        }
    }

    impl Backend for Fake {
        fn all_reduce(
            &self,
            call: &Call,
            _: &Tensor,
            _: ReduceOp,
        ) -> Result<Box<dyn Pending>, BackendError> {
            self.note(call)
        }

        fn all_gather(
            &self,
            call: &Call,
            _: &Tensor,
            _: &Tensor,
        ) -> Result<Box<dyn Pending>, BackendError> {
            self.note(call)
        }

        fn reduce_scatter(
            &self,
            call: &Call,
            _: &Tensor,
            _: &Tensor,
            _: ReduceOp,
        ) -> Result<Box<dyn Pending>, BackendError> {
            self.note(call)
        }

        fn broadcast(
            &self,
            call: &Call,
            _: &Tensor,
            _: usize,
        ) -> Result<Box<dyn Pending>, BackendError> {
            self.note(call)
        }

        fn barrier(&self, call: &Call) -> Result<Box<dyn Pending>, BackendError> {
            self.note(call)
        }

        fn check(&self) -> Result<(), BackendError> {
            if !self.has_failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let call = Call { sequence: 3, op: Op::AllGather, bytes: 8, site: Location::caller() };
            Err(BackendError::Earlier { call, source: Arc::new(BackendError::PeerLeft) })
        }

        fn missing_ranks(&self, sequence: u64) -> Vec<usize> {
            if sequence == 3 { vec![1] } else { Vec::new() }
        }
    }

    fn group() -> (Group, Arc<Fake>, Arc<Fake>) {
        let (cpu, cuda) = (Arc::new(Fake::default()), Arc::new(Fake::default()));
        let both = Dispatch { cpu: Arc::clone(&cpu) as Arc<dyn Backend>, cuda: Arc::clone(&cuda) };
        (Group::new("world", 0, 2, Duration::from_secs(1), Arc::new(both)), cpu, cuda)
    }

    #[test]
    fn tensors_of_the_cpu_and_barriers_stay_with_the_cpus() {
        let (group, cpu, cuda) = group();
        let tensor = Tensor::zeros([2], (Kind::Float, Device::Cpu));
        group.all_reduce(&tensor, ReduceOp::Sum).unwrap().wait().unwrap();
        group.broadcast(&tensor, 1).unwrap().wait().unwrap();
        group.barrier().unwrap();
        assert_eq!(cpu.calls(), [Op::AllReduce, Op::Broadcast, Op::Barrier]);
        assert_eq!(cuda.calls(), []);
    }

    #[test]
    fn a_failure_of_the_gpus_is_the_whole_groups() {
        let (group, cpu, cuda) = group();
        cuda.has_failed.store(true, Ordering::Relaxed);
        let error = group.barrier().unwrap_err();
        let CommError::Collective { call, missing, .. } = &error else { panic!("{error}") };
        assert_eq!((call.sequence, call.op), (3, Op::AllGather));
        assert_eq!(missing, &[1]);
        assert!(group.has_failed() && cpu.calls().is_empty());
    }
}
