//! LoRA's dropout: every layout drops the same values, and only a student that is trained drops any.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use strand_comm::{Group, Mesh, local};
use strand_model::{Config, Lora, Pass, Recompute, Sample, VideoInput, VideoLm};
use strand_train::{AdamWConfig, Objective, Sharded, Sharding, Zero, gradients};
use tch::{Device, Kind, Tensor};

const KIND: Kind = Kind::Double;
const OBJECTIVE: Objective =
    Objective { mvm_weight: 1.0, per_micro_batch: false, exact_sums: false };
const PASS: Pass =
    Pass { input: VideoInput::All, mvm: Some(true), kind: KIND, recompute: Recompute::Nothing };
/// A parameter's name, the first index of a part of it in each dimension, and the part's gradient.
type Part = (String, Vec<i64>, Tensor);

const SAMPLES: i64 = 4;

/// Whole gradients by name, and the loss.
type Gradients = (BTreeMap<String, Tensor>, f64);

#[derive(Debug, Clone, Copy)]
struct Layout {
    dp: usize,
    tp: usize,
    micro: usize,
    recompute: Recompute,
    sequence_parallel: bool,
    exact_tp: Option<i64>,
}

const ALONE: Layout = Layout {
    dp: 1,
    tp: 1,
    micro: SAMPLES as usize,
    recompute: Recompute::Nothing,
    sequence_parallel: false,
    exact_tp: None,
};

fn config(dropout: f64, layout: Layout) -> Config {
    let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    Config {
        vocab_size: 32,
        // Of 12 columns each of two ranks has 6, which is no whole number of words.
        hidden_size: 12,
        intermediate_size: 20,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: None,
        max_position_embeddings: 64,
        feature_size: 6,
        adapter_size: None,
        mvm_decoder: true,
        pad_vocab: true,
        exact_tp: layout.exact_tp,
        sequence_parallel: layout.sequence_parallel,
        lora: Some(Lora {
            rank: 3,
            alpha: 6.0,
            targets: targets.map(str::to_owned).into(),
            dropout,
        }),
    }
}

/// Values that depend on their place and on `salt`.
fn values(salt: i64, shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    ((Tensor::arange(count, (KIND, Device::Cpu)) + salt) * 1.7).sin().view(shape)
}

/// Sequences of other lengths, so that padding depends on the micro-batch.
fn sample(index: i64, dropout_key: Option<u64>) -> Sample {
    Sample {
        before: vec![1, 2],
        features: values(index, &[2, 4, 6]),
        kept: Some((0..8).filter(|token| (token + index) % 3 != 0).collect()),
        after: (3..6 + index).collect(),
        answer: vec![7 + index, 2],
        dropout_key,
    }
}

fn model(dropout: f64, tp: &Group, layout: Layout) -> Result<VideoLm> {
    let draws = |name: &str| ChaCha8Rng::seed_from_u64(name.bytes().map(u64::from).sum());
    let config = config(dropout, layout);
    let model = VideoLm::fresh(config, 0.3, tp, (KIND, Device::Cpu), draws)?;
    // Fresh factors add nothing, whatever is dropped.
    for factor in model.parameters().iter().filter(|it| it.name.ends_with("lora_B.weight")) {
        let whole = values(factor.name.len() as i64, &factor.shape) * 0.3;
        let part = cut(&whole, &factor.slice.offset, &factor.slice.extent);
        tch::no_grad(|| factor.unpadded(&factor.tensor.detach()).copy_(&part));
    }
    Ok(model)
}

/// A box of a whole tensor.
fn cut(whole: &Tensor, offset: &[i64], extent: &[i64]) -> Tensor {
    let dims = offset.iter().zip(extent).enumerate();
    dims.fold(whole.shallow_clone(), |part, (dim, (&offset, &extent))| {
        part.narrow(dim as i64, offset, extent)
    })
}

/// This rank's gradients with the places of their boxes, and the step's loss.
fn step(dropout: f64, mesh: &Mesh, layout: Layout) -> Result<(Vec<Part>, f64)> {
    let mut model = model(dropout, &mesh.tp, layout)?;
    let optimizer =
        AdamWConfig { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, groups: Vec::new() };
    let (zero, accumulates) = (Zero::Zero0, true);
    let sharding = Sharding { zero, kind: KIND, offload: false, accumulates };
    let mut sharded = Sharded::new(&mut model, mesh, sharding, optimizer)?;
    let share = SAMPLES as usize / layout.dp;
    let mine: Vec<i64> = (0..SAMPLES).skip(mesh.dp.rank() * share).take(share).collect();
    let micro_batch = |samples: &[i64]| {
        samples.iter().map(|&index| sample(index, Some(1000 + index as u64))).collect()
    };
    let batch: Vec<Vec<Sample>> = mine.chunks(layout.micro).map(micro_batch).collect();
    let pass = Pass { recompute: layout.recompute, ..PASS };
    let objective = Objective { exact_sums: layout.exact_tp.is_some(), ..OBJECTIVE };
    let losses = gradients(&model, &mut sharded, mesh, &batch, pass, objective)?;
    let held = sharded.held(model.parameters());
    let gradients = held.iter().map(|held| {
        let gradient = held.gradient().context("a gradient")?.copy();
        Ok((held.parameter.name.clone(), held.offset.clone(), gradient))
    });
    Ok((gradients.collect::<Result<_>>()?, losses.total))
}

fn alone(dropout: f64, layout: Layout) -> Result<Gradients> {
    let (gradients, loss) = step(dropout, &Mesh::single(), layout)?;
    Ok((gradients.into_iter().map(|(name, _, gradient)| (name, gradient)).collect(), loss))
}

/// The greatest deviation of all ranks' gradients and losses from `expected`.
fn deviation(dropout: f64, layout: Layout, (whole, loss): &Gradients) -> Result<f64> {
    let meshes = local::meshes(layout.dp, layout.tp, Duration::from_secs(60))?;
    let results: Vec<Result<_>> = std::thread::scope(|scope| {
        let start = |mesh| scope.spawn(move || step(dropout, &mesh, layout));
        let threads: Vec<_> = meshes.into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let mut worst: f64 = 0.0;
    for result in results {
        let (gradients, actual) = result?;
        worst = worst.max((actual - loss).abs());
        for (name, offset, gradient) in gradients {
            let whole = whole.get(&name).context("the same parameters")?;
            let expected = cut(whole, &offset, &gradient.size());
            worst = worst.max((gradient - expected).abs().max().double_value(&[]));
        }
    }
    Ok(worst)
}

#[test]
fn every_layout_drops_the_same_values() -> Result<()> {
    let expected = alone(0.3, ALONE)?;
    for (dp, tp) in [(1, 1), (2, 1), (1, 2), (2, 2)] {
        for (micro, recompute, sequence_parallel) in [
            (1, Recompute::Nothing, false),
            (2, Recompute::Nothing, true),
            (1, Recompute::Layers, true),
            (2, Recompute::Layers, false),
            (2, Recompute::Gates, true),
        ] {
            let layout = Layout { dp, tp, micro, recompute, sequence_parallel, exact_tp: None };
            let worst = deviation(0.3, layout, &expected)?;
            ensure!(worst < 1e-12, "{layout:?}: deviates by {worst:e}");
        }
    }
    Ok(())
}

#[test]
fn with_exact_tp_the_same_bits_are_dropped_and_summed() -> Result<()> {
    let layout = Layout { micro: 2, exact_tp: Some(2), ..ALONE };
    let expected = alone(0.3, layout)?;
    ensure!(deviation(0.3, ALONE, &expected)? < 1e-12, "other values than without exact_tp");
    for (dp, tp) in [(2, 1), (1, 2), (2, 2)] {
        let worst = deviation(0.3, Layout { dp, tp, ..layout }, &expected)?;
        ensure!(worst == 0.0, "dp {dp} × tp {tp}: deviates by {worst:e}");
    }
    Ok(())
}

/// With all tokens there and no decoder, student and teacher are the same but for what is dropped.
#[test]
fn only_a_student_with_a_key_drops_values() -> Result<()> {
    let pass = Pass { mvm: Some(false), ..PASS };
    let distance = |dropout: f64, key: Option<u64>| -> Result<f64> {
        let model = model(dropout, &Group::single("tp"), ALONE)?;
        let sample = Sample { kept: None, ..sample(0, key) };
        let losses = tch::no_grad(|| model.losses(&[sample], pass))?;
        Ok(losses.mvm_sum.context("a video")?.double_value(&[]))
    };
    let nothing_dropped = [distance(0.3, None)?, distance(0.0, Some(7))?];
    ensure!(nothing_dropped.iter().all(|distance| distance.abs() < 1e-12), "{nothing_dropped:?}");
    ensure!(distance(0.3, Some(7))? > 1e-3, "the teacher drops the same or nothing is dropped");
    Ok(())
}

#[test]
fn a_rate_of_zero_changes_no_bit() -> Result<()> {
    let model = model(0.0, &Group::single("tp"), ALONE)?;
    let loss = |key| -> Result<Tensor> { Ok(model.losses(&[sample(1, key)], PASS)?.lm) };
    ensure!(loss(None)? == loss(Some(3))?);
    Ok(())
}

#[test]
fn keys_are_given_to_all_samples_or_to_none() -> Result<()> {
    let model = model(0.3, &Group::single("tp"), ALONE)?;
    let mixed = model.losses(&[sample(0, Some(1)), sample(1, None)], PASS);
    let words = mixed.err().context("an error")?.to_string();
    ensure!(words.starts_with("sample 1: no key of dropout"), "{words}");
    Ok(())
}
