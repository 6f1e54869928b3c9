//! Which visual tokens a step drops, and what LoRA's dropout follows from.

use rand_distr::{Distribution, StandardNormal};
use strand_data::{below, draw};
use strand_recipe::{DynamicMask, Mask, MaskPeriod};

/// Draws the masks of a run. Every draw is a function of (seed, step, sample), so all layouts agree.
#[derive(Debug, Clone, Copy)]
pub struct Masks {
    seed: u64,
    mask: Mask,
}

impl Masks {
    /// Masks of a stage.
    pub fn new(seed: u64, mask: Mask) -> Masks {
        Masks { seed, mask }
    }

    /// Share of the tokens that `micro_batch` of `step` drops; none where nothing is masked.
    ///
    /// ρ = clip(Normal(mean, std), min, max): clipped after the draw, not drawn again.
    pub fn rate(&self, step: u64, micro_batch: usize) -> Option<f64> {
        match self.mask {
            Mask::None => None,
            Mask::Constant { rate } => Some(rate),
            Mask::Dynamic(dynamic) => Some(self.drawn_rate(&dynamic, step, micro_batch)),
        }
    }

    fn drawn_rate(&self, dynamic: &DynamicMask, step: u64, micro_batch: usize) -> f64 {
        let id = match dynamic.per {
            MaskPeriod::Step => String::new(),
            MaskPeriod::MicroBatch => micro_batch.to_string(),
        };
        let mut rng = draw(self.seed, step, &id, "mask rate");
        let normal: f64 = StandardNormal.sample(&mut rng);
        (dynamic.mean + dynamic.std * normal).clamp(dynamic.min, dynamic.max)
    }

    /// What the values follow from that LoRA drops of a sample.
    pub fn dropout_key(&self, step: u64, id: &str) -> u64 {
        below(&mut draw(self.seed, step, id, "lora dropout"), u64::MAX)
    }

    /// Indices of the tokens of a sample that stay, in order: floor(rate·L) of the L are dropped.
    pub fn kept(&self, step: u64, id: &str, rate: f64, num_visual: i64) -> Vec<i64> {
        let mut rng = draw(self.seed, step, id, "mask");
        let dropped = (rate * num_visual as f64).floor() as usize;
        let mut tokens: Vec<i64> = (0..num_visual).collect();
        // Fisher-Yates, as far as it is needed: the first `dropped` places are a uniform choice.
        for place in 0..dropped {
            let other = place + below(&mut rng, (tokens.len() - place) as u64) as usize;
            tokens.swap(place, other);
        }
        let mut kept = tokens.split_off(dropped);
        kept.sort_unstable();
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dynamic(per: MaskPeriod) -> Masks {
        Masks::new(7, Mask::Dynamic(DynamicMask { per, ..DynamicMask::default() }))
    }

    #[test]
    fn rates_are_clipped_normals() {
        let masks = dynamic(MaskPeriod::Step);
        let rates: Vec<f64> = (0..4000).filter_map(|step| masks.rate(step, 0)).collect();
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        let at_max = rates.iter().filter(|&&rate| rate == 0.7).count() as f64;
        assert!((mean - 0.499).abs() < 0.006, "{mean}");
        // P(Normal(0.5, 0.1) ≥ 0.7) = 2.3 %: clipped, not drawn again.
        assert!((at_max / 4000.0 - 0.0228).abs() < 0.008, "{at_max}");
        assert!(rates.iter().all(|rate| (0.1..=0.7).contains(rate)));
    }

    #[test]
    fn one_rate_a_step_or_one_a_micro_batch() {
        assert_eq!(dynamic(MaskPeriod::Step).rate(3, 0), dynamic(MaskPeriod::Step).rate(3, 1));
        let masks = dynamic(MaskPeriod::MicroBatch);
        assert_ne!(masks.rate(3, 0), masks.rate(3, 1));
    }

    #[test]
    fn every_token_is_dropped_equally_often() {
        let masks = dynamic(MaskPeriod::Step);
        let mut kept = [0; 10];
        for sample in 0..5000 {
            let tokens = masks.kept(1, &sample.to_string(), 0.37, 10);
            assert_eq!(tokens.len(), 7);
            assert!(tokens.is_sorted());
            tokens.iter().for_each(|&token| kept[token as usize] += 1);
        }
        assert!(kept.iter().all(|&count| (3350..3650).contains(&count)), "{kept:?}");
    }
}
