//! Shapes of the model, and how the mesh cuts them.

use crate::problem::Findings;
use crate::{Batch, Llama, Llama3Scaling, Recipe, RopeScaling, VideoInput};

impl Recipe {
    pub(crate) fn check_model(&self, findings: &mut Findings) {
        check_llama(&self.model.llama, findings);
        check_heads(&self.model.llama, findings);
        self.check_tensor_parallel(findings);
        findings.positive("model.feature_size", self.model.feature_size);
        findings.number("model.init_std", self.model.init_std, "0 or more", |std| std >= 0.0);
        self.check_adapter(findings);
        self.check_lora(findings);
        self.check_batch("batch", self.batch, findings);
    }

    fn check_adapter(&self, findings: &mut Findings) {
        if let Some(size) = self.model.adapter_size {
            findings.positive("model.adapter_size", size);
            return;
        }
        let needs = |input| input == VideoInput::GlobalLocal;
        if let Some(stage) = self.stages.iter().find(|stage| needs(stage.video.input)) {
            let message =
                format!("stage `{}` has `input: global_local`, which needs it", stage.name);
            let hint = "set it to a quarter of hidden_size, as the paper does".to_owned();
            findings.error("model.adapter_size", message, Some(hint));
        }
    }

    fn check_tensor_parallel(&self, findings: &mut Findings) {
        let llama = &self.model.llama;
        let tp = self.parallel.tp;
        findings.positive("parallel.tp", tp);
        if let Some(dp) = self.parallel.dp {
            findings.positive("parallel.dp", dp);
        }
        if tp == 0 {
            return;
        }
        self.check_exact_tp(findings);
        divides("num_attention_heads", llama.num_attention_heads, tp, findings);
        divides("intermediate_size", llama.intermediate_size, tp, findings);
        if !self.parallel.pad_vocab {
            divides("vocab_size", llama.vocab_size, tp, findings);
        }
        let kv_heads = llama.key_value_heads();
        if kv_heads > 0 && !kv_heads.is_multiple_of(tp) && !tp.is_multiple_of(kv_heads) {
            let message = format!(
                "{kv_heads} key and value heads and parallel.tp = {tp}: neither divides the other"
            );
            findings.error("model.llama.num_key_value_heads", message, None);
        }
    }

    fn check_exact_tp(&self, findings: &mut Findings) {
        let zero = self.memory.zero;
        if zero > 3 {
            findings.error("memory.zero", format!("{zero} is not 0, 1, 2 or 3"), None);
        }
        let Some(slices) = self.parallel.exact_tp else { return };
        if zero > 0 {
            let message = "divided gradients are added in an order that depends on dp";
            let hint = "set memory.zero: 0, or leave parallel.exact_tp out".to_owned();
            findings.error("memory.zero", message, Some(hint));
        }
        if self.parallel.sequence_parallel {
            let message = "reduce-scatters add in an order that depends on tp";
            let hint = "leave it or parallel.exact_tp out".to_owned();
            findings.error("parallel.sequence_parallel", message, Some(hint));
        }
        let (llama, tp) = (&self.model.llama, self.parallel.tp);
        if !slices.is_power_of_two() || !slices.is_multiple_of(tp) {
            let message = format!("{slices} is no power of two that parallel.tp = {tp} divides");
            let hint = "set it to the largest tp of all layouts that have to agree".to_owned();
            findings.error("parallel.exact_tp", message, Some(hint));
            return;
        }
        if self.runtime.threads_per_rank.is_some_and(|threads| threads > 1) {
            let message =
                "how a sum is cut among threads decides its bits: parallel.exact_tp needs one";
            let hint = "leave it out, or parallel.exact_tp".to_owned();
            findings.error("runtime.threads_per_rank", message, Some(hint));
        }
        let heads = llama.key_value_heads();
        let vocab = (!self.parallel.pad_vocab).then_some(llama.vocab_size);
        for (key, size) in [
            ("model.llama.num_key_value_heads", Some(heads)),
            ("model.llama.intermediate_size", Some(llama.intermediate_size)),
            ("model.llama.vocab_size", vocab),
        ] {
            let Some(size) = size else { continue };
            if !size.is_multiple_of(slices) {
                let message = format!("{size} is not a multiple of parallel.exact_tp = {slices}");
                let hint = "choose a smaller parallel.exact_tp".to_owned();
                findings.error(key, message, Some(hint));
            }
        }
    }

    /// Micro-batches that are the same samples on every layout.
    fn check_exact_batch(&self, path: &str, batch: Batch, findings: &mut Findings) {
        // Where dp is left open, a launch checks again with the one it has.
        if self.loses_bits(batch, self.parallel.dp.unwrap_or(1)) {
            let message = format!(
                "parallel.exact_tp needs micro-batches that divide every rank's share of {} samples",
                batch.global
            );
            let hint = "global ÷ (the greatest dp) is a good size".to_owned();
            findings.error(format!("{path}.micro"), message, Some(hint));
        }
    }

    pub(crate) fn check_batch(&self, path: &str, batch: Batch, findings: &mut Findings) {
        findings.positive(format!("{path}.global"), batch.global);
        let dp = self.parallel.dp.unwrap_or(1);
        if batch.global > 0 && batch.global < dp {
            let message = format!("{} samples cannot feed parallel.dp = {dp} ranks", batch.global);
            findings.error(format!("{path}.global"), message, None);
        }
        self.check_exact_batch(path, batch, findings);
        let Some(micro) = batch.micro else { return };
        findings.positive(format!("{path}.micro"), micro);
        let share = batch.global.div_ceil(dp.max(1));
        if micro > share {
            let message = format!("{micro} is more than a rank's share of {share}");
            findings.warning(
                format!("{path}.micro"),
                message,
                "remove it: the whole share is the default",
            );
        }
    }
}

fn check_llama(llama: &Llama, findings: &mut Findings) {
    let sizes = [
        ("vocab_size", llama.vocab_size),
        ("hidden_size", llama.hidden_size),
        ("intermediate_size", llama.intermediate_size),
        ("num_hidden_layers", llama.num_hidden_layers),
        ("num_attention_heads", llama.num_attention_heads),
        ("num_key_value_heads", llama.key_value_heads()),
        ("max_position_embeddings", llama.max_position_embeddings),
    ];
    for (key, size) in sizes {
        if key != "num_key_value_heads" || llama.num_key_value_heads.is_some() {
            findings.positive(format!("model.llama.{key}"), size);
        }
    }
    findings.number("model.llama.rms_norm_eps", llama.rms_norm_eps, "above 0", |eps| eps > 0.0);
    findings.number("model.llama.rope_theta", llama.rope_theta, "above 0", |theta| theta > 0.0);
    if let Some(scaling) = &llama.rope_scaling {
        check_scaling(scaling, findings);
    }
}

fn check_scaling(scaling: &RopeScaling, findings: &mut Findings) {
    let path = "model.llama.rope_scaling";
    match scaling {
        RopeScaling::Linear { factor } => {
            findings.number(format!("{path}.linear.factor"), *factor, "at least 1", |f| f >= 1.0);
        }
        RopeScaling::Llama3(llama3) => {
            let path = format!("{path}.llama3");
            let Llama3Scaling { factor, low_freq_factor: low, high_freq_factor: high, .. } =
                *llama3;
            findings.number(format!("{path}.factor"), factor, "at least 1", |f| f >= 1.0);
            findings.number(format!("{path}.low_freq_factor"), low, "above 0", |f| f > 0.0);
            let words = "above low_freq_factor";
            findings.number(format!("{path}.high_freq_factor"), high, words, |f| f > low);
            let positions = llama3.original_max_position_embeddings;
            findings.positive(format!("{path}.original_max_position_embeddings"), positions);
        }
    }
}

fn check_heads(llama: &Llama, findings: &mut Findings) {
    let (hidden, heads, kv_heads) =
        (llama.hidden_size, llama.num_attention_heads, llama.key_value_heads());
    if heads == 0 || kv_heads == 0 {
        return;
    }
    if !hidden.is_multiple_of(heads) {
        let message = format!("{hidden} is not a multiple of num_attention_heads = {heads}");
        findings.error("model.llama.hidden_size", message, None);
    } else if !(hidden / heads).is_multiple_of(2) {
        let message = format!(
            "heads of {} values: the rotary embedding needs an even number",
            hidden / heads
        );
        findings.error("model.llama.hidden_size", message, None);
    }
    if !heads.is_multiple_of(kv_heads) {
        let message = format!("{kv_heads} does not divide num_attention_heads = {heads}");
        findings.error("model.llama.num_key_value_heads", message, None);
    }
}

fn divides(key: &str, size: usize, tp: usize, findings: &mut Findings) {
    if !size.is_multiple_of(tp) {
        let message = format!("{size} is not a multiple of parallel.tp = {tp}");
        let hint = match key {
            "vocab_size" => "set parallel.pad_vocab: true".to_owned(),
            _ => "choose another parallel.tp".to_owned(),
        };
        findings.error(format!("model.llama.{key}"), message, Some(hint));
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::{assert_problem, problems};

    #[test]
    fn heads_must_fit_the_width() {
        assert_problem(&["model.llama.hidden_size=98"], "not a multiple of num_attention_heads");
        assert_problem(&["model.llama.hidden_size=100"], "even number");
        assert_problem(&["model.llama.num_key_value_heads=3"], "does not divide");
        assert_problem(&["model.llama.num_hidden_layers=0"], "at least 1");
        assert_problem(&["model.llama.rms_norm_eps=0"], "rms_norm_eps: must be above 0, not 0");
    }

    #[test]
    fn scaled_positions_are_in_range() {
        let scaling = |text: &str| format!("model.llama.rope_scaling={text}");
        assert_eq!(problems(&[&scaling("{linear: {factor: 2}}")]), [""; 0]);
        assert_problem(&["model.llama.rope_scaling.linear.factor=0.5"], "at least 1, not 0.5");
        let llama3 = |high: u32| {
            scaling(&format!(
                "{{llama3: {{factor: 8, low_freq_factor: 1, high_freq_factor: {high}, original_max_position_embeddings: 64}}}}"
            ))
        };
        assert_eq!(problems(&[&llama3(4)]), [""; 0]);
        assert_problem(&[&llama3(1)], "above low_freq_factor");
    }

    #[test]
    fn tensor_parallel_must_cut_evenly() {
        let tp = "parallel.tp=3";
        let found = problems(&[tp, "parallel.pad_vocab=false"]);
        for key in [
            "num_attention_heads: 4",
            "intermediate_size: 256",
            "vocab_size: 101",
            "num_key_value_heads: 4",
        ] {
            assert!(found.iter().any(|one| one.contains(key)), "{key} in {found:#?}");
        }
        assert_eq!(found.len(), 4);
        assert_problem(&["parallel.tp=0"], "at least 1");
        assert_problem(&["parallel.exact_tp=3", "batch.micro=4"], "no power of two");
        assert_problem(&["parallel.exact_tp=2"], "needs micro-batches");
        let exact = ["parallel.exact_tp=2", "batch.micro=4"];
        let with = |change| [exact.as_slice(), &[change]].concat();
        assert_problem(&with("runtime.threads_per_rank=2"), "needs one");
        let odd = [with("parallel.pad_vocab=false"), vec!["model.llama.vocab_size=513"]].concat();
        assert_problem(&odd, "513 is not a multiple of parallel.exact_tp");
        assert_eq!(problems(&["parallel.tp=4", "model.llama.num_key_value_heads=2"]), [""; 0]);
    }

    #[test]
    fn a_step_feeds_every_rank() {
        assert_problem(&["parallel.dp=16"], "8 samples cannot feed");
        assert_problem(&["batch.global=0"], "at least 1");
        assert_problem(&["batch.micro=9"], "more than a rank's share of 8");
    }

    #[test]
    fn global_local_needs_its_adapter() {
        let input = "stages.all.video.input=global_local";
        assert_problem(&[input], "stage `all` has `input: global_local`");
        assert_eq!(problems(&[input, "model.adapter_size=24"]), [""; 0]);
    }
}
