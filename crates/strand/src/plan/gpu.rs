//! The device that a plan is for: a GPU of the table, or this machine.

use strand_recipe::{GPUS, Gpu, Peak, closest};

use crate::doctor;
use crate::failure::Failure;
use crate::launch::world::cores;

const GB: f64 = 1e9;

/// The name of the device that is no GPU.
pub const CPU: &str = "cpu";

/// Resident memory of a worker that has no model: its program, libtorch and what both have read. Measured, see
/// docs/plan.md.
const CPU_RUNTIME: u64 = 200 << 20;

/// The names that `--gpu` takes.
pub fn names() -> impl Iterator<Item = &'static str> {
    GPUS.iter().map(|gpu| gpu.name).chain([CPU])
}

/// The device of that name; `cpu` is this machine's share for one of `ranks` ranks.
///
/// # Errors
/// There is no such device, or this machine does not say how much memory it has.
pub fn find(name: &str, ranks: usize) -> Result<Gpu, Failure> {
    let wanted = name.to_lowercase();
    if wanted == CPU {
        return cpu(ranks);
    }
    GPUS.iter().find(|gpu| gpu.name == wanted).copied().ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> Failure {
    let known: Vec<&str> = names().collect();
    let failure = Failure::usage(format!("--gpu: there is no `{name}` in the table"));
    match closest(name, known.iter().copied()) {
        Some(word) => failure.hint(format!("did you mean `{word}`? known: {}", known.join(", "))),
        None => failure.hint(format!("known: {}", known.join(", "))),
    }
}

/// A core with two 256-bit multiply-add units at 2.5 GHz: 32 fp32 values a cycle, two operations each; two channels of
/// DDR4-3200; Gloo over loopback. Orders of magnitude: a CPU's step time is better measured (`strand bench step`).
fn cpu(ranks: usize) -> Result<Gpu, Failure> {
    let ranks = ranks.max(1);
    let memory = doctor::available_memory().ok_or_else(|| {
        Failure::environment("this machine does not say how much memory is free")
            .hint("name a GPU: --gpu a100-80")
    })?;
    let fp32 = 0.08 * cores() as f64 / ranks as f64;
    Ok(Gpu {
        name: CPU,
        driver_names: &[],
        memory: memory / ranks as u64,
        // bfloat16 is widened on the way.
        flops: Peak::tera(fp32, fp32, fp32 / 2.0),
        bandwidth: 25.0 * GB / ranks as f64,
        link: GB,
        network: GB,
        share: 0.5,
        runtime: CPU_RUNTIME,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_says_what_was_meant() {
        let hint = |name| {
            let error = anyhow::Error::new(find(name, 1).unwrap_err());
            crate::failure::verdict(&error).hint.unwrap()
        };
        assert!(hint("h10").starts_with("did you mean `h100`?"), "{}", hint("h10"));
        assert!(hint("a100").starts_with("did you mean `a100-40`?"));
        assert!(hint("tpu-v5p").starts_with("known: a100-40, "));
        assert_eq!(find("H100", 8).unwrap().name, "h100");
    }

    #[test]
    fn ranks_share_the_machine() {
        let (one, two) = (find("cpu", 1).unwrap(), find("cpu", 2).unwrap());
        assert_eq!(one.flops.fp32, 2.0 * two.flops.fp32);
        assert!(one.memory > two.memory);
    }
}
