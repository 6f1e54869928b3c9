//! Floating-point operations of a step, for the throughput that metrics report.

use strand_model::Config;

use crate::step::Counts;

/// FLOPs of a step over all ranks: 2 a weight and token forward, 4 backward; attention 4·hidden a token pair and layer
/// forward, half of them causal (Megatron-LM, arXiv 2104.04473, appendix). The teacher runs forward only. The
/// projector, norms and the embedding are left out: below 1 %.
pub fn of_step(config: &Config, counts: &Counts) -> f64 {
    let hidden = config.hidden_size as f64;
    let kv = (config.num_key_value_heads * config.head_dim()) as f64;
    let weights = 2.0 * hidden * (hidden + kv) + 3.0 * hidden * config.intermediate_size as f64;
    let layers = config.num_hidden_layers as f64;
    let forward = |tokens: i64, pairs: i64| {
        layers * (2.0 * weights * tokens as f64 + 2.0 * hidden * pairs as f64)
    };
    let head = 2.0 * hidden * config.vocab_size as f64 * counts.labels as f64;
    let student = forward(counts.visual_kept + counts.text, counts.student_pairs);
    3.0 * (student + head) + forward(counts.teacher_tokens, counts.teacher_pairs)
}
