//! One optimizer step: losses and gradients.

use strand_comm::{Group, Mesh, ReduceOp};
use strand_model::{Direction, Losses, Parameter, Pass, Sample, VideoLm};
use strand_recipe::{Stage, Work};
use tch::{Device, Kind, Tensor};

use crate::error::TrainError;
use crate::exact::ExactSums;
use crate::sharded::{Sharded, Zero};

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

    /// What there was to compute.
    pub fn work(&self) -> Work {
        Work {
            student_tokens: self.visual_kept + self.text,
            student_pairs: self.student_pairs,
            student_read: self.labels + self.compared,
            labels: self.labels,
            teacher_tokens: self.teacher_tokens,
            teacher_pairs: self.teacher_pairs,
            teacher_read: self.compared,
        }
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
    for parameter in model.parameters().iter() {
        let _ = parameter.tensor.set_requires_grad(stage.trains(&parameter.name));
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
    sharded: &mut Sharded,
    mesh: &Mesh,
    micro_batches: &[Vec<Sample>],
    pass: Pass,
    objective: Objective,
) -> Result<StepLosses, TrainError> {
    let own: Vec<&[Sample]> =
        micro_batches.iter().map(Vec::as_slice).filter(|samples| !samples.is_empty()).collect();
    let counts = Counts::local(micro_batches, pass).summed(&mesh.dp)?;
    let passes = passes(&own, pass, sharded.zero(), mesh)?;
    sharded.begin()?;
    let exact = objective.exact_sums.then(|| ExactSums::new(&sharded.own_gradients()));
    let mut exact = exact.transpose()?;
    // Where the model is: nobody waits for a GPU before all of the step is in its queue.
    let mut sums = Tensor::zeros([2], (Kind::Double, mesh.device));
    for (i, has_teacher) in passes.iter().copied().enumerate() {
        // Exact sums are reduced when all are there.
        sharded.begin_pass(i + 1 == passes.len() && exact.is_none());
        match own.get(i) {
            Some(samples) => {
                let losses = model.losses(samples, pass)?;
                if has_teacher && losses.mvm_sum.is_none() {
                    sharded.walk(Direction::Forward)?;
                }
                sums += backward(&losses, objective, &counts, mesh)?;
            }
            None => {
                sharded.walk(Direction::Forward)?;
                if has_teacher {
                    sharded.walk(Direction::Forward)?;
                }
                sharded.walk(Direction::Backward)?;
            }
        }
        sharded.end_pass()?;
        if let Some(exact) = &mut exact {
            exact.take(&sharded.own_gradients());
        }
    }
    if let Some(exact) = exact {
        exact.finish(&sharded.own_gradients(), &mesh.dp)?;
    }
    step_losses(sums, counts, objective, mesh)
}

/// The passes of a step, and whether a teacher runs in each. Where ranks meet in every pass they agree on both.
fn passes(own: &[&[Sample]], pass: Pass, zero: Zero, mesh: &Mesh) -> Result<Vec<bool>, TrainError> {
    let compares = |samples: &&[Sample]| {
        pass.mvm.is_some() && samples.iter().any(|sample| sample.num_compared(pass.input) > 0)
    };
    let mut teachers: Vec<bool> = own.iter().map(compares).collect();
    // Gradients are reduced once at least.
    let mut count = teachers.len().max(1);
    if zero >= Zero::Zero2 {
        let most = Tensor::from_slice(&[count as i64]);
        mesh.dp.all_reduce(&most, ReduceOp::Max)?.wait()?;
        count = most.int64_value(&[0]) as usize;
    }
    teachers.resize(count, false);
    if zero == Zero::Zero3 {
        let any: Vec<i64> = teachers.iter().copied().map(i64::from).collect();
        let any = Tensor::from_slice(&any);
        mesh.dp.all_reduce(&any, ReduceOp::Max)?.wait()?;
        teachers = (0..count).map(|i| any.int64_value(&[i as i64]) > 0).collect();
    }
    Ok(teachers)
}

/// The backward pass of a micro-batch. Returns what it adds to the step's losses, `[2]`.
fn backward(
    losses: &Losses,
    objective: Objective,
    counts: &Counts,
    mesh: &Mesh,
) -> Result<Tensor, TrainError> {
    let labels = losses.lm.size()[0];
    let (lm_divisor, mvm_divisor) = divisors(objective, counts, labels, losses.num_compared);
    let lm = losses.lm.sum(losses.lm.kind()) / lm_divisor;
    let mvm = losses.mvm_sum.as_ref().map(|sum| sum / mvm_divisor);
    let total = match &mvm {
        Some(mvm) => &lm + mvm * objective.mvm_weight,
        None => lm.shallow_clone(),
    };
    total
        .f_backward()
        .map_err(|source| TrainError::Backward { in_collective: mesh.has_failed(), source })?;
    let mvm = mvm.unwrap_or_else(|| lm.zeros_like());
    Ok(Tensor::stack(&[lm.detach(), mvm.detach()], 0).to_kind(Kind::Double))
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
    sums: Tensor,
    counts: Counts,
    objective: Objective,
    mesh: &Mesh,
) -> Result<StepLosses, TrainError> {
    mesh.dp.all_reduce(&sums, ReduceOp::Sum)?.wait()?;
    // Here the host waits for the passes.
    let sums = sums.f_to_device(Device::Cpu)?;
    let lm = sums.double_value(&[0]);
    let mvm = (counts.compared > 0).then(|| sums.double_value(&[1]));
    let total = lm + objective.mvm_weight * mvm.unwrap_or(0.0);
    Ok(StepLosses { lm, mvm, total, counts })
}
