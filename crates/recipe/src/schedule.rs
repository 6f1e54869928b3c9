//! The learning rate at a step.

use std::f64::consts::PI;

use crate::{Decay, Optimizer, Schedule, Warmup};

/// Learning rate at `step` (from 0) of a stage of `total_steps`.
///
/// A line from 0 over the w steps of the warm-up, peak · step/w; then, with p the share of the remaining steps that
/// is done, peak · (1 + cos πp)/2 (cosine), peak · (1 − p) (linear) or the peak (constant).
pub fn learning_rate(
    optimizer: &Optimizer,
    schedule: &Schedule,
    step: u64,
    total_steps: u64,
) -> f64 {
    let warmup = warmup_steps(schedule, total_steps);
    if step < warmup {
        return optimizer.lr * step as f64 / warmup as f64;
    }
    let rest = total_steps.saturating_sub(warmup).max(1);
    let progress = ((step - warmup) as f64 / rest as f64).min(1.0);
    let factor = match schedule.decay {
        Decay::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
        Decay::Linear => 1.0 - progress,
        Decay::Constant => 1.0,
    };
    optimizer.lr * factor
}

/// Steps of the warm-up of a stage of `total_steps`; a share is rounded up.
pub fn warmup_steps(schedule: &Schedule, total_steps: u64) -> u64 {
    match schedule.warmup {
        Warmup::Steps(steps) => steps,
        Warmup::Share(share) => (share * total_steps as f64).ceil() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(warmup: Warmup, decay: Decay, total: u64) -> Vec<f64> {
        let optimizer = Optimizer {
            lr: 0.003,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            clip_grad_norm: None,
            groups: Vec::new(),
        };
        let schedule = Schedule { warmup, decay };
        (0..total).map(|step| learning_rate(&optimizer, &schedule, step, total)).collect()
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
    }

    /// The rates of the golden trajectories.
    #[test]
    fn warm_up_and_cosine_are_the_reference_s() {
        let expected = [
            0.0,
            0.001,
            0.002,
            0.003,
            0.002909538931178863,
            0.002649066664678467,
            0.0022500000000000003,
            0.0017604722665003959,
            0.0012395277334996046,
            0.0007500000000000003,
            0.0003509333353215332,
            9.046106882113752e-05,
        ];
        assert_close(&rates(Warmup::Steps(3), Decay::Cosine, 12), &expected);
        assert_close(&rates(Warmup::Share(0.17), Decay::Cosine, 12), &expected);
    }

    #[test]
    fn other_decays_keep_their_shape() {
        assert_close(&rates(Warmup::Steps(0), Decay::Linear, 3), &[0.003, 0.002, 0.001]);
        assert_close(&rates(Warmup::Share(0.0), Decay::Constant, 2), &[0.003, 0.003]);
        assert_close(&rates(Warmup::Steps(2), Decay::Cosine, 1), &[0.0]);
    }
}
