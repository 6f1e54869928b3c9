//! What a plan keeps to, whatever the recipe.

use strand_recipe::{ActivationCheckpointing, Lora, Mask, Recipe};

use super::case::World;
use super::gpu;
use super::shapes::{SampleArgs, SampleShape};
use super::stage::{Given, StagePlan};
use super::suggest::suggest;

/// A 7B model as the paper trains it.
const RECIPE: &str = "
name: planned
model:
  llama: {vocab_size: 32001, hidden_size: 4096, intermediate_size: 11008, num_hidden_layers: 32, num_attention_heads: 32}
  feature_size: 768
  adapter_size: 1024
tokenizer: t.json
data: {qa: {url: \"s3://bucket/qa\"}}
precision: bf16
memory: {zero: 3, activation_checkpointing: full}
batch: {global: 128, micro: 4}
stages:
  - name: qa
    data: [{set: qa}]
    video: {input: all, frames: 16}
    mask: {dynamic: {}}
    mvm: {}
    optimizer: {lr: 2.0e-5}
    length: {epochs: 2}
";

const ARGS: SampleArgs = SampleArgs { frames: None, tokens: None, prompt: 48, answer: 16 };

fn recipe(change: impl Fn(&mut Recipe)) -> Recipe {
    let mut recipe = Recipe::parse(RECIPE, "planned").unwrap();
    change(&mut recipe);
    recipe
}

fn sample(recipe: &Recipe) -> SampleShape {
    SampleShape::of(recipe, &recipe.stages[0], &ARGS).unwrap()
}

fn plan_on(recipe: &Recipe, name: &str, world_size: usize) -> StagePlan {
    let gpu = gpu::find(name, 8).unwrap();
    let world = World::of(recipe, world_size, 8).unwrap();
    let given = Given { world, ranks_per_node: 8, gpu: &gpu, storage: 1e9 };
    StagePlan::of(recipe, &recipe.stages[0], sample(recipe), given)
}

fn plan(change: impl Fn(&mut Recipe)) -> StagePlan {
    plan_on(&recipe(change), "a100-80", 8)
}

#[test]
fn the_parts_add_up() {
    let memory = plan(|_| {}).memory;
    for moment in &memory.moments {
        assert_eq!(moment.total, moment.bytes.total(), "{}", moment.at);
        let parts = moment.bytes.parts().iter().map(|(_, bytes)| bytes).sum::<u64>();
        assert_eq!(moment.total, parts);
    }
    assert_eq!(memory.peak.total, memory.moments.iter().map(|it| it.total).max().unwrap());
    let time = plan(|_| {}).time;
    let parts = time.products_s
        + time.elementwise_s
        + time.tensor_parallel_s
        + time.data_parallel_s
        + time.update_s;
    assert!((parts - time.step_s).abs() < 1e-12);
}

#[test]
fn dropout_keeps_what_it_leaves_and_its_masks() {
    let activations = |dropout: f64| {
        let change = |recipe: &mut Recipe| {
            let targets = vec!["q_proj".into(), "v_proj".into()];
            recipe.model.lora = Some(Lora { rank: 8, alpha: 16.0, targets, dropout });
            recipe.stages[0].train = vec!["*.lora_*".into()];
            recipe.stages[0].mask = Mask::None;
            recipe.stages[0].mvm = None;
            recipe.memory.activation_checkpointing = ActivationCheckpointing::None;
        };
        let moments = plan(change).memory.moments;
        moments.iter().map(|moment| moment.bytes.activations).max().unwrap()
    };
    let (without, with) = (activations(0.0), activations(0.05));
    assert!(with > without, "{with} of {without}");
}

#[test]
fn the_state_is_what_zero_says() {
    let state = |zero| {
        let bytes = plan(|recipe| recipe.memory.zero = zero).memory.moments.last().unwrap().bytes;
        [bytes.weights, bytes.gradients, bytes.optimizer].map(|bytes| bytes as f64 / 6.76e9)
    };
    // Bytes a parameter: 2 + 4 + 12, of which dp = 8 ranks divide more and more.
    for (zero, expected) in
        [(0, [2.0, 4.0, 12.0]), (1, [2.0, 4.5, 1.5]), (2, [2.0, 0.5, 1.5]), (3, [0.25, 0.5, 1.5])]
    {
        for (found, expected) in state(zero).into_iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 0.01, "ZeRO-{zero}: {:?}", state(zero));
        }
    }
}

#[test]
fn more_sharing_never_needs_more_memory() {
    let bytes = |change: &dyn Fn(&mut Recipe)| plan(|recipe| change(recipe)).memory.step.total;
    // ZeRO-1 keeps the reduced part beside the whole gradient, which one rank's moments outweigh.
    let zero = [0, 1, 2, 3].map(|zero| bytes(&move |recipe| recipe.memory.zero = zero));
    assert!(zero.is_sorted_by(|a, b| a > b), "{zero:?}");
    let tp = [1, 2, 4, 8].map(|tp| {
        bytes(&move |recipe| {
            recipe.parallel.tp = tp;
            recipe.parallel.sequence_parallel = true;
            recipe.memory.zero = 0;
        })
    });
    assert!(tp.is_sorted_by(|a, b| a > b), "{tp:?}");
    let modes = [
        ActivationCheckpointing::None,
        ActivationCheckpointing::Selective,
        ActivationCheckpointing::Full,
    ];
    let again =
        modes.map(|mode| bytes(&move |recipe| recipe.memory.activation_checkpointing = mode));
    assert!(again.is_sorted_by(|a, b| a > b), "{again:?}");
    let offloaded = [false, true].map(|on| {
        bytes(&move |recipe| {
            recipe.memory.zero = 2;
            recipe.memory.offload_optimizer = on;
        })
    });
    // A master and two moments, which eight ranks divide.
    let saved = (offloaded[0] - offloaded[1]) as f64;
    assert!((saved / (6.76e9 * 12.0 / 8.0) - 1.0).abs() < 0.01, "{offloaded:?}");
    let micro = [16, 8, 4, 1].map(|micro| bytes(&move |recipe| recipe.batch.micro = Some(micro)));
    assert!(micro.is_sorted_by(|a, b| a > b), "{micro:?}");
    let divided = [false, true].map(|on| {
        bytes(&move |recipe| {
            recipe.parallel.tp = 4;
            recipe.parallel.sequence_parallel = on;
        })
    });
    assert!(divided[0] > divided[1], "{divided:?}");
}

#[test]
fn a_suggestion_fits_when_it_is_planned() {
    for (name, world_size) in [("a100-40", 8), ("l40s", 8), ("rtx4090", 8), ("h100", 1)] {
        let recipe = recipe(|recipe| {
            recipe.memory = strand_recipe::Memory::default();
            recipe.batch.micro = None;
        });
        assert!(!plan_on(&recipe, name, world_size).fits, "{name}");
        let gpu = gpu::find(name, 8).unwrap();
        let world = World::of(&recipe, world_size, 8).unwrap();
        let given = Given { world, ranks_per_node: 8, gpu: &gpu, storage: 1e9 };
        let found = suggest(&recipe, &[sample(&recipe)], given).expect(name);
        let changed = recipe.with_overrides(&found.set).unwrap();
        assert_eq!(changed.validate().unwrap(), []);
        let plan = plan_on(&changed, name, found.world_size);
        assert!(plan.fits, "{name}: {found:?}");
        assert_eq!((plan.memory.needed, plan.time.step_s), (found.needed, found.step_s));
    }
}

#[test]
fn micro_batches_with_masks_of_their_own_stay() {
    let recipe = recipe(|recipe| {
        recipe.memory = strand_recipe::Memory::default();
        recipe.batch.micro = None;
        recipe.stages[0].mask =
            serde_json::from_str(r#"{"dynamic": {"per": "micro_batch"}}"#).expect("a mask");
    });
    let gpu = gpu::find("rtx4090", 8).unwrap();
    let world = World::of(&recipe, 8, 8).unwrap();
    let given = Given { world, ranks_per_node: 8, gpu: &gpu, storage: 1e9 };
    let found = suggest(&recipe, &[sample(&recipe)], given).expect("a layout");
    assert!(!found.set.iter().any(|set| set.contains("micro")), "{found:?}");
}

#[test]
fn frozen_weights_have_no_state() {
    let frozen = plan(|recipe| recipe.stages[0].train = vec!["proj.*".into()]);
    let bytes = frozen.memory.moments.last().unwrap().bytes;
    assert_eq!(frozen.parameters.trained, 768 * 4096 + 4096);
    assert!(bytes.optimizer < 64 << 20 && bytes.gradients < 64 << 20, "{bytes:?}");
    assert!(frozen.checkpoint.bytes < plan(|_| {}).checkpoint.bytes / 5);
}

#[test]
fn the_teacher_and_what_is_computed_again_cost_time() {
    let without = plan(|recipe| recipe.stages[0].mvm = None);
    let with = plan(|_| {});
    assert_eq!(without.flops.teacher, 0.0);
    assert!(with.time.step_s > without.time.step_s);
    let kept =
        plan(|recipe| recipe.memory.activation_checkpointing = ActivationCheckpointing::None);
    assert_eq!(kept.flops.model, with.flops.model);
    assert!(kept.time.step_s < with.time.step_s && kept.time.mfu > with.time.mfu);
    assert!(with.time.mfu > 0.1 && with.time.mfu < 0.75, "{}", with.time.mfu);
}

#[test]
fn a_sample_that_is_too_long_is_refused() {
    let recipe = recipe(|recipe| recipe.stages[0].video.frames = Some(128));
    let error = SampleShape::of(&recipe, &recipe.stages[0], &ARGS).unwrap_err();
    assert!(error.to_string().contains("max_position_embeddings = 2048"), "{error}");
    assert_eq!(crate::failure::verdict(&error).exit, strand_control::ExitCode::Usage);
}
