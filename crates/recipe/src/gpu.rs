//! What GPUs have: from their makers' data sheets.

use serde::Serialize;

use crate::Precision;

const GB: f64 = 1e9;
const GIB: u64 = 1 << 30;
const TERA: f64 = 1e12;

/// What one device has. Rates are a second's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Gpu {
    /// The name that `--gpu` takes.
    pub name: &'static str,
    /// The names that its driver gives it.
    #[serde(skip)]
    pub driver_names: &'static [&'static str],
    /// Bytes of memory.
    pub memory: u64,
    /// Peak FLOPs of dense products in bf16, fp32 and fp64.
    pub flops: Peak,
    /// Bytes to and from memory.
    pub bandwidth: f64,
    /// Bytes to another device of the node, in one direction.
    pub link: f64,
    /// Bytes of the node's network that are one device's, in one direction.
    pub network: f64,
    /// Share of the peak that large products reach.
    pub share: f64,
    /// Bytes that a process takes before the model: context, kernels, workspaces and collectives' buffers.
    pub runtime: u64,
}

/// Peak FLOPs of dense products.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Peak {
    /// In bf16, added up in fp32.
    pub bf16: f64,
    /// In fp32.
    pub fp32: f64,
    /// In fp64.
    pub fp64: f64,
}

impl Peak {
    /// From teraflops.
    pub const fn tera(bf16: f64, fp32: f64, fp64: f64) -> Peak {
        Peak { bf16: bf16 * TERA, fp32: fp32 * TERA, fp64: fp64 * TERA }
    }

    /// The peak of the type that a recipe computes in.
    pub fn of(&self, precision: Precision) -> f64 {
        match precision {
            Precision::Bf16 => self.bf16,
            Precision::Fp32 => self.fp32,
            Precision::Fp64 => self.fp64,
        }
    }
}

/// A CUDA context, the workspaces of cuBLAS and the buffers of NCCL's two communicators: an assumption.
const CUDA_RUNTIME: u64 = GIB + GIB / 2;

/// NVIDIA's data sheets: "A100 Tensor Core GPU" (SXM, both sizes), "H100 Tensor Core GPU" (SXM), "H200 Tensor Core GPU"
/// (SXM), "L40S", and the white paper "Ada GPU Architecture" for the GeForce RTX 4090. FLOPs are without sparsity and
/// accumulate in fp32; links are half of the sum of both directions that the sheets name: NVLink, else PCIe 4.0 × 16. The
/// network is that of "DGX A100" (8 × 200 Gb/s) and "DGX H100" and "DGX H200" (8 × 400 Gb/s), else 100 Gb/s for a node of
/// eight, an assumption. `share`: what large products in bf16 reach, an assumption; the faster the device for its power,
/// the smaller.
pub static GPUS: [Gpu; 6] = [
    Gpu {
        name: "a100-40",
        driver_names: &["NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"],
        memory: 40 * GIB,
        flops: Peak::tera(312.0, 19.5, 9.7),
        bandwidth: 1555.0 * GB,
        link: 300.0 * GB,
        network: 25.0 * GB,
        share: 0.75,
        runtime: CUDA_RUNTIME,
    },
    Gpu {
        name: "a100-80",
        driver_names: &["NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"],
        memory: 80 * GIB,
        flops: Peak::tera(312.0, 19.5, 9.7),
        bandwidth: 2039.0 * GB,
        link: 300.0 * GB,
        network: 25.0 * GB,
        share: 0.75,
        runtime: CUDA_RUNTIME,
    },
    Gpu {
        name: "h100",
        driver_names: &["NVIDIA H100 80GB HBM3"],
        memory: 80 * GIB,
        flops: Peak::tera(989.4, 67.0, 34.0),
        bandwidth: 3350.0 * GB,
        link: 450.0 * GB,
        network: 50.0 * GB,
        share: 0.65,
        runtime: CUDA_RUNTIME,
    },
    Gpu {
        name: "h200",
        driver_names: &["NVIDIA H200"],
        memory: 141 * GIB,
        flops: Peak::tera(989.4, 67.0, 34.0),
        bandwidth: 4800.0 * GB,
        link: 450.0 * GB,
        network: 50.0 * GB,
        share: 0.65,
        runtime: CUDA_RUNTIME,
    },
    Gpu {
        name: "l40s",
        driver_names: &["NVIDIA L40S"],
        memory: 48 * GIB,
        flops: Peak::tera(362.0, 91.6, 1.4),
        bandwidth: 864.0 * GB,
        link: 32.0 * GB,
        network: 1.5 * GB,
        share: 0.65,
        runtime: CUDA_RUNTIME,
    },
    Gpu {
        name: "rtx4090",
        driver_names: &["NVIDIA GeForce RTX 4090"],
        memory: 24 * GIB,
        flops: Peak::tera(165.2, 82.6, 1.3),
        bandwidth: 1008.0 * GB,
        link: 32.0 * GB,
        network: 1.5 * GB,
        share: 0.75,
        runtime: CUDA_RUNTIME,
    },
];

impl Gpu {
    /// The GPU that a driver calls so; none where its data sheet is not in the table.
    pub fn of_driver(name: &str) -> Option<&'static Gpu> {
        GPUS.iter().find(|gpu| gpu.driver_names.contains(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_s_name_is_one_gpu_s() {
        assert_eq!(Gpu::of_driver("NVIDIA H200").map(|gpu| gpu.name), Some("h200"));
        // A slower card of nearly the same name.
        assert!(Gpu::of_driver("NVIDIA H100 PCIe").is_none());
        let mut names: Vec<_> = GPUS.iter().flat_map(|gpu| gpu.driver_names).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
