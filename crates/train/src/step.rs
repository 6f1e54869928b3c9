//! One optimizer step: losses, gradients, norm, update.

use strand_comm::{Group, Mesh, ReduceOp};
use strand_model::{Parameter, Pass, Sample, VideoLm, tree_sum};
use strand_recipe::{Stage, VideoInput};
use tch::Tensor;

use crate::error::TrainError;
use crate::optimizer::{AdamW, squares};
use crate::reduce::{ExactSums, sum_gradients, zero_gradients};

/// How the step's losses are weighted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
    /// Weight of the masked-video-modelling loss.
    pub mvm_weight: f64,
    /// Average over the whole step's tokens, or over each micro-batch's and then over micro-batches.
    pub per_micro_batch: bool,
    /// Whether gradients are added in 64 bits, so that their sum does not depend on the layout.
    pub exact_sums: bool,
}

/// What a step counts, over all data-parallel ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Label tokens.
    pub labels: i64,
    /// Tokens that masked video modelling compares.
    pub compared: i64,
    /// Samples.
    pub samples: i64,
    /// Visual tokens that reached the language model.
    pub visual_kept: i64,
    /// Visual tokens before masking.
    pub visual_all: i64,
    /// Text tokens, answers counted.
    pub text: i64,
    /// Micro-batches.
    pub micro_batches: i64,
    /// Micro-batches that compare something.
    pub compared_micro_batches: i64,
    /// Sum of the squared lengths of the student's sequences.
    pub student_pairs: i64,
    /// Tokens of the teacher's sequences.
    pub teacher_tokens: i64,
    /// Sum of their squared lengths.
    pub teacher_pairs: i64,
}

impl Counts {
    /// Share of the visual tokens that was dropped.
    pub fn mask_rate(&self) -> f64 {
        (self.visual_all - self.visual_kept) as f64 / self.visual_all.max(1) as f64
    }

    /// Counts of this rank's micro-batches.
    fn local(micro_batches: &[Vec<Sample>], pass: Pass) -> Counts {
        let mut counts = Counts { micro_batches: micro_batches.len() as i64, ..Counts::default() };
        for samples in micro_batches {
            let before = counts.compared;
            samples.iter().for_each(|sample| counts.add(sample, pass));
            counts.compared_micro_batches += i64::from(counts.compared > before);
        }
        counts
    }

    fn add(&mut self, sample: &Sample, pass: Pass) {
        let (kept, all) = (sample.num_kept(pass.input), sample.num_visual(pass.input));
        let text = (sample.before.len() + sample.after.len() + sample.answer.len()) as i64;
        self.labels += sample.answer.len() as i64;
        self.samples += 1;
        self.visual_kept += kept;
        self.visual_all += all;
        self.text += text;
        self.student_pairs += (kept + text).pow(2);
        if pass.mvm.is_some() && sample.num_compared(pass.input) > 0 {
            let teacher = sample.before.len() as i64 + all;
            self.compared += kept;
            self.teacher_tokens += teacher;
            self.teacher_pairs += teacher.pow(2);
        }
    }

    fn summed(mut self, dp: &Group) -> Result<Counts, TrainError> {
        let values = Tensor::from_slice(&self.fields().map(|field| *field));
        dp.all_reduce(&values, ReduceOp::Sum)?.wait()?;
        for (i, field) in self.fields().into_iter().enumerate() {
            *field = values.int64_value(&[i as i64]);
        }
        Ok(self)
    }

    fn fields(&mut self) -> [&mut i64; 11] {
        [
            &mut self.labels,
            &mut self.compared,
            &mut self.samples,
            &mut self.visual_kept,
            &mut self.visual_all,
            &mut self.text,
            &mut self.micro_batches,
            &mut self.compared_micro_batches,
            &mut self.student_pairs,
            &mut self.teacher_tokens,
            &mut self.teacher_pairs,
        ]
    }
}

/// Losses of a step over all ranks, before its update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepLosses {
    /// Language-model loss.
    pub lm: f64,
    /// Masked-video-modelling loss; none where nothing was compared.
    pub mvm: Option<f64>,
    /// What was trained on: lm + weight · mvm.
    pub total: f64,
    /// What the step counted.
    pub counts: Counts,
}

/// Leaves a gradient only to the parameters that the stage trains: those that its patterns name and its passes use.
pub fn freeze(model: &VideoLm, stage: &Stage) {
    let decodes = stage.mvm.is_some_and(|mvm| mvm.decoder);
    let adapts = stage.video.input == VideoInput::GlobalLocal;
    for parameter in model.parameters().iter() {
        let name = &parameter.name;
        let used = (decodes || !name.starts_with("mvm_decoder."))
            && (adapts || !name.starts_with("global_local."));
        let wanted = stage.train.iter().any(|pattern| matches(pattern, name));
        let _ = parameter.tensor.set_requires_grad(used && wanted);
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            (0..=name.len()).any(|skip| name.is_char_boundary(skip) && matches(rest, &name[skip..]))
        }),
    }
}

/// The parameters that a stage trains.
pub fn trained(model: &VideoLm) -> Vec<&Parameter> {
    model.parameters().iter().filter(|parameter| parameter.tensor.requires_grad()).collect()
}

/// Runs the micro-batches forward and backward and sums the gradients over the data-parallel ranks.
///
/// The losses are normalised here and nowhere else: each is divided by its count over the whole step.
///
/// # Errors
/// A sample does not fit the model, or a collective failed.
pub fn gradients(
    model: &VideoLm,
    mesh: &Mesh,
    micro_batches: &[Vec<Sample>],
    pass: Pass,
    objective: Objective,
) -> Result<StepLosses, TrainError> {
    let trained = trained(model);
    zero_gradients(trained.iter().copied());
    let counts = Counts::local(micro_batches, pass).summed(&mesh.dp)?;
    let mut sums = [0.0; 2];
    let mut exact = objective.exact_sums.then(|| ExactSums::new(&trained));
    for samples in micro_batches.iter().filter(|samples| !samples.is_empty()) {
        let losses = model.losses(samples, pass)?;
        let labels = losses.lm.size()[0];
        let (lm_divisor, mvm_divisor) = divisors(objective, &counts, labels, losses.num_compared);
        let lm = losses.lm.sum(losses.lm.kind()) / lm_divisor;
        let mvm = losses.mvm_sum.map(|sum| sum / mvm_divisor);
        let total = match &mvm {
            Some(mvm) => &lm + mvm * objective.mvm_weight,
            None => lm.shallow_clone(),
        };
        total
            .f_backward()
            .map_err(|source| TrainError::Backward { in_collective: mesh.has_failed(), source })?;
        if let Some(exact) = &mut exact {
            exact.take(&trained);
        }
        sums[0] += lm.double_value(&[]);
        sums[1] += mvm.map_or(0.0, |mvm| mvm.double_value(&[]));
    }
    match exact {
        Some(exact) => exact.finish(&trained, &mesh.dp)?,
        None => sum_gradients(&trained, &mesh.dp)?,
    }
    step_losses(sums, counts, objective, mesh)
}

/// What the sums of one micro-batch are divided by.
fn divisors(objective: Objective, counts: &Counts, labels: i64, compared: i64) -> (f64, f64) {
    if objective.per_micro_batch {
        let mvm = compared * counts.compared_micro_batches;
        ((labels * counts.micro_batches) as f64, mvm as f64)
    } else {
        (counts.labels as f64, counts.compared as f64)
    }
}

fn step_losses(
    sums: [f64; 2],
    counts: Counts,
    objective: Objective,
    mesh: &Mesh,
) -> Result<StepLosses, TrainError> {
    let sums = Tensor::from_slice(&sums);
    mesh.dp.all_reduce(&sums, ReduceOp::Sum)?.wait()?;
    let lm = sums.double_value(&[0]);
    let mvm = (counts.compared > 0).then(|| sums.double_value(&[1]));
    let total = lm + objective.mvm_weight * mvm.unwrap_or(0.0);
    Ok(StepLosses { lm, mvm, total, counts })
}

/// Norm of the whole gradient, the same on every rank.
///
/// # Errors
/// A collective failed.
pub fn gradient_norm(model: &VideoLm) -> Result<f64, TrainError> {
    let slices = model.slices();
    let (replicated, split) = squares(trained(model).into_iter(), slices);
    let split = slices.all_reduce(tree_sum(split))?;
    Ok((split.double_value(&[0]) + replicated).sqrt())
}

/// Clips the gradient to `max_norm` as `torch.nn.utils.clip_grad_norm_` does, and updates the parameters.
pub fn update(model: &VideoLm, optimizer: &mut AdamW, lr: f64, norm: f64, max_norm: Option<f64>) {
    let scale = max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
    optimizer.update(trained(model).into_iter(), lr, scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        assert!(matches("*", "proj.weight"));
        assert!(matches("model.layers.*.self_attn.?_proj", "model.layers.0.self_attn.?_proj"));
        assert!(matches("*q_proj*", "model.layers.0.self_attn.q_proj.weight"));
        assert!(!matches("proj", "proj.weight"));
        assert!(!matches("*.bias", "proj.weight"));
    }
}
