//! Floating-point operations of a step: for the throughput that metrics report and for plans.

use crate::Llama;

/// What a step computes, over all ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Tokens of the student's sequences.
    pub student_tokens: i64,
    /// Sum of the sequences' squared lengths.
    pub student_pairs: i64,
    /// Positions that losses read: labels, and tokens that are compared.
    pub student_read: i64,
    /// Label tokens: only they have logits.
    pub labels: i64,
    /// Tokens of the teacher's sequences.
    pub teacher_tokens: i64,
    /// Sum of their squared lengths.
    pub teacher_pairs: i64,
    /// Positions that are compared.
    pub teacher_read: i64,
}

impl Llama {
    /// FLOPs of a step: 2 a weight and token forward, 4 backward, of which 2 for the gradients of weights: only the
    /// share that is trained has some ([`Recipe::trained_share`](crate::Recipe::trained_share)). The teacher runs forward
    /// only. What is computed again to save memory does not count; the projector, norms and the embedding are left out:
    /// below 1 %.
    pub fn step_flops(&self, work: &Work, trained_share: f64) -> f64 {
        let head = 2.0 * self.hidden_size as f64 * self.vocab_size as f64 * work.labels as f64;
        (2.0 + trained_share) * (self.student_flops(work) + head) + self.teacher_flops(work)
    }

    /// FLOPs of the student's forward pass through the layers.
    pub fn student_flops(&self, work: &Work) -> f64 {
        self.forward_flops(work.student_tokens, work.student_pairs, work.student_read)
    }

    /// FLOPs of the teacher's pass through the layers.
    pub fn teacher_flops(&self, work: &Work) -> f64 {
        self.forward_flops(work.teacher_tokens, work.teacher_pairs, work.teacher_read)
    }

    /// 2 a weight and token, and in attention 4·hidden a token pair and layer, half of them causal (Megatron-LM, arXiv
    /// 2104.04473, appendix). Behind the last attention only what is `read` counts.
    fn forward_flops(&self, tokens: i64, pairs: i64, read: i64) -> f64 {
        let hidden = self.hidden_size as f64;
        let kv = (self.key_value_heads() * self.head_dim()) as f64;
        let behind = hidden * hidden + 3.0 * hidden * self.intermediate_size as f64;
        let weights = hidden * (hidden + 2.0 * kv) + behind;
        let layers = self.num_hidden_layers as f64;
        layers * (2.0 * weights * tokens as f64 + 2.0 * hidden * pairs as f64)
            - 2.0 * behind * (tokens - read) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::example;

    /// Megatron-LM's formula, 72·B·s·l·h²·(1 + s/6h + V/12lh) with a feed-forward of 4·h in two matrices, as far as the
    /// sizes are the same: three matrices of 8/3·h have as many weights, attention is causal.
    #[test]
    fn a_dense_step_has_the_known_count() {
        let mut llama = example().model.llama;
        (llama.hidden_size, llama.intermediate_size) = (96, 256);
        (llama.num_hidden_layers, llama.vocab_size) = (2, 101);
        let (batch, length) = (3.0, 40.0);
        let (hidden, layers, vocab) = (96.0, 2.0, 101.0);
        let tokens = (batch * length) as i64;
        let work = Work {
            student_tokens: tokens,
            student_pairs: tokens * 40,
            student_read: tokens,
            labels: tokens,
            ..Work::default()
        };
        let bracket = 1.0 + length / (12.0 * hidden) + vocab / (12.0 * layers * hidden);
        let expected = 72.0 * batch * length * layers * hidden * hidden * bracket;
        assert!((llama.step_flops(&work, 1.0) / expected - 1.0).abs() < 1e-12);
        assert!((llama.step_flops(&work, 0.0) / expected - 2.0 / 3.0).abs() < 1e-12);
    }
}
