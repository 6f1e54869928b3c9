//! A run: its stages, one after the other, from wherever it stands.

use std::path::PathBuf;
use std::sync::Arc;

use strand_checkpoint::{Reader, State};
use strand_comm::Mesh;
use strand_data::{Cursor, Prompter, draw};
use strand_model::{Config, VideoLm};
use strand_recipe::{Batch, Precision, Recipe, Start};
use strand_store::{Location, Pool};
use strand_telemetry::{Evaluation, Metrics, MetricsWriter, evaluation, skipped};
use tch::Kind;
use tokio::runtime::Handle;

use crate::batch_memory::batch_memory;
use crate::checkpoints::Checkpoints;
use crate::config::{compute_kind, model_config, pass, prompt_style, sharding};
use crate::error::TrainError;
use crate::evaluate::Examiner;
use crate::guard::Guard;
use crate::hugging_face;
use crate::plan::{StagePlan, open_set, plan};
use crate::sharded::Sharded;
use crate::state::{load_moments, load_parameters, load_weights};
use crate::step::{freeze, trained};

/// What a run is given.
pub struct Settings {
    /// The resolved recipe.
    pub recipe: Recipe,
    /// Folder of the checkpoints.
    pub checkpoints: Location,
    /// metrics.jsonl, written by rank 0.
    pub metrics: PathBuf,
    /// evaluations.jsonl, written by rank 0.
    pub evaluations: PathBuf,
    /// skipped.jsonl, written by rank 0 where damaged samples were left out.
    pub skipped: PathBuf,
    /// bad-steps.jsonl, written by rank 0 where a step's loss or gradient was of no use.
    pub bad_steps: PathBuf,
    /// Ranks on this node: they share a cache.
    pub ranks_on_node: usize,
    /// The run directory in storage, where the files above are uploaded before each commit of a checkpoint: so no
    /// checkpoint is ahead of them.
    pub publish_to: Option<Location>,
    /// Another run's checkpoint to go on from where the run has none of its own. Stages may start from the ends of
    /// stages beside it.
    pub resume_from: Option<String>,
    /// The attempt: a checkpoint's writer epoch.
    pub attempt: u64,
    /// FLOPs a second that a rank's device reaches in the recipe's precision; none where that is not known.
    pub peak_flops: Option<f64>,
    /// Runs requests to storage.
    pub handle: Handle,
}

impl Settings {
    /// Uploads metrics and evaluations, where the run directory lies in storage.
    fn publish(&self) -> Result<(), TrainError> {
        let Some(storage) = &self.publish_to else {
            return Ok(());
        };
        let files = [
            ("metrics.jsonl", &self.metrics),
            ("evaluations.jsonl", &self.evaluations),
            ("skipped.jsonl", &self.skipped),
            ("bad-steps.jsonl", &self.bad_steps),
        ];
        for (name, path) in files.into_iter().filter(|(_, path)| path.exists()) {
            self.handle.block_on(storage.put_file(name, path))?;
        }
        Ok(())
    }
}

/// Who is told about a run's progress.
pub trait Observer {
    /// A stage begins or goes on.
    ///
    /// # Errors
    /// Nobody listens any more.
    fn stage(
        &mut self,
        plan: &StagePlan,
        stages: usize,
        starts_from: &str,
    ) -> Result<(), TrainError>;
    /// A step is done; `total` counts the steps of the run.
    ///
    /// # Errors
    /// Nobody listens any more.
    fn step(&mut self, metrics: &Metrics, total: u64) -> Result<(), TrainError>;
    /// A held-out set was answered.
    ///
    /// # Errors
    /// Nobody listens any more.
    fn evaluation(&mut self, evaluation: &Evaluation) -> Result<(), TrainError>;
    /// A checkpoint was committed.
    ///
    /// # Errors
    /// Nobody listens any more.
    fn checkpoint(&mut self, step: u64, folder: &Location) -> Result<(), TrainError>;
    /// This process was asked to stop.
    fn should_stop(&self) -> bool;
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All stages are done.
    Finished,
    /// Stopped on request, with a committed checkpoint.
    Stopped,
}

/// Runs the stages that are left.
///
/// # Errors
/// See [`TrainError`].
pub fn run(
    settings: &Settings,
    mesh: &Mesh,
    observer: &mut dyn Observer,
) -> Result<Outcome, TrainError> {
    let mut run = Run::open(settings, mesh)?;
    let plans = plan(&settings.recipe, &settings.handle)?;
    let mut position = run.position(&plans)?;
    run.skipped = position.skipped();
    run.open_metrics(position.step(&plans))?;
    for plan in plans.iter().skip(position.stage) {
        if position.stage_step < plan.steps {
            if run.train(plan, &plans, &position, observer)? == Outcome::Stopped {
                return Ok(Outcome::Stopped);
            }
        } else if let Some((folder, _)) = &position.resumed {
            run.load_model(folder)?;
        }
        run.evaluate(plan, observer)?;
        position = Position::start_of(plan.index + 1);
    }
    Ok(Outcome::Finished)
}

/// Where a run goes on.
pub(crate) struct Position {
    /// Index of the stage.
    pub stage: usize,
    /// Steps of it that are done.
    pub stage_step: u64,
    /// The checkpoint to go on from, and the loader's state in it; none at the start of a stage.
    pub resumed: Option<(Location, Cursor)>,
}

impl Position {
    pub fn start_of(stage: usize) -> Position {
        Position { stage, stage_step: 0, resumed: None }
    }

    /// Steps of the run that are done.
    pub fn step(&self, plans: &[StagePlan]) -> u64 {
        plans.get(self.stage).map_or(0, |plan| plan.first_step) + self.stage_step
    }

    /// Damaged samples that were left out until then.
    pub fn skipped(&self) -> u64 {
        self.resumed.as_ref().map_or(0, |(_, cursor)| cursor.skipped)
    }
}

/// What the stages share.
pub(crate) struct Run<'a> {
    pub settings: &'a Settings,
    pub mesh: &'a Mesh,
    pub prompter: Prompter,
    pub model: VideoLm,
    pub checkpoints: Checkpoints,
    /// Rank 0's.
    pub metrics: Option<MetricsWriter>,
    /// Damaged samples of the run that were left out so far, by all ranks.
    pub skipped: u64,
    pub guard: Guard,
    /// Memory of the batches.
    pub pool: Arc<Pool>,
}

impl<'a> Run<'a> {
    fn open(settings: &'a Settings, mesh: &'a Mesh) -> Result<Run<'a>, TrainError> {
        let recipe = &settings.recipe;
        let prompter = open_prompter(recipe, &settings.handle)?;
        let checkpoints = Checkpoints {
            folder: settings.checkpoints.clone(),
            beside: settings.resume_from.as_deref().map(beside).transpose()?,
            keep: recipe.checkpoint.keep,
            handle: settings.handle.clone(),
        };
        let model = fresh_model(model_config(recipe), recipe, mesh)?;
        let guard = Guard::open(recipe.runtime.bad_steps, &settings.bad_steps, mesh)?;
        let (metrics, skipped, pool) = (None, 0, batch_memory(mesh.device));
        Ok(Run { settings, mesh, prompter, model, checkpoints, metrics, skipped, guard, pool })
    }

    pub fn position(&self, plans: &[StagePlan]) -> Result<Position, TrainError> {
        let folder = match self.checkpoints.latest()? {
            Some(manifest) => self.checkpoints.at(manifest.state.step),
            None => match &self.settings.resume_from {
                Some(url) => Location::open(url)?,
                None => return Ok(Position::start_of(0)),
            },
        };
        let state = self.checkpoints.open(&folder)?.manifest().state.clone();
        if state.recipe_hash != self.settings.recipe.hash()? {
            return Err(TrainError::OtherRecipe { step: state.step });
        }
        let other_stage = || TrainError::OtherStage {
            step: state.step,
            stage: state.stage.clone(),
            stage_step: state.stage_step,
        };
        let plan = plans.iter().find(|plan| plan.stage.name == state.stage);
        let plan = plan.filter(|plan| state.stage_step <= plan.steps).ok_or_else(other_stage)?;
        let cursor = serde_json::from_value(state.cursor)?;
        tracing::info!(step = state.step, stage = state.stage, "going on from {}", folder.url());
        Ok(Position {
            stage: plan.index,
            stage_step: state.stage_step,
            resumed: Some((folder, cursor)),
        })
    }

    pub fn open_metrics(&mut self, keep_through_step: u64) -> Result<(), TrainError> {
        if self.mesh.world.rank() == 0 {
            evaluation::keep_through(&self.settings.evaluations, keep_through_step)?;
            skipped::keep_through(&self.settings.skipped, keep_through_step)?;
            self.metrics = Some(MetricsWriter::open(&self.settings.metrics, keep_through_step)?);
        }
        Ok(())
    }

    /// Loads the weights of a stage's start, or weights and moments of where it goes on. Says in words which.
    pub fn start(
        &mut self,
        plan: &StagePlan,
        position: &Position,
    ) -> Result<(Sharded, String), TrainError> {
        // What a checkpoint or another tool's weights lack must not be an earlier stage's.
        let is_fresh = !matches!(plan.stage.start, Start::Stage(_));
        if is_fresh && position.resumed.is_none() {
            let recipe = &self.settings.recipe;
            self.model = fresh_model(self.model.config().clone(), recipe, self.mesh)?;
        }
        freeze(&self.model, &plan.stage);
        if trained(&self.model).is_empty() {
            return Err(TrainError::NothingTrained { stage: plan.stage.name.clone() });
        }
        let sharding = sharding(&self.settings.recipe, &plan.stage, self.mesh.dp.size());
        let optimizer = (&plan.stage.optimizer).into();
        let mut sharded = Sharded::new(&mut self.model, self.mesh, sharding, optimizer)?;
        if let Some((folder, _)) = &position.resumed {
            let reader = self.load_into(&mut sharded, folder)?;
            load_moments(&self.model, &sharded, &reader, &self.settings.handle)?;
            sharded.resume_at(position.stage_step);
            return Ok((sharded, format!("step {} of itself", position.stage_step)));
        }
        let words = match &plan.stage.start {
            Start::Scratch => "fresh weights".into(),
            Start::Stage(from) => {
                let end = self.checkpoints.end_of_stage(from)?.ok_or_else(|| {
                    TrainError::NoStart { stage: plan.stage.name.clone(), from: from.clone() }
                })?;
                self.load_into(&mut sharded, &end.folder)?;
                format!("the end of {from} (step {})", end.step)
            }
            Start::Checkpoint(url) => {
                self.load_into(&mut sharded, &Location::open(url)?)?;
                url.clone()
            }
            Start::HuggingFace(start) => {
                let Settings { recipe, handle, .. } = self.settings;
                let weights = hugging_face::open(start, recipe, handle)?;
                let fresh = hugging_face::load(&self.model, &mut sharded, &weights, handle)?;
                let adapter = start.adapter.iter().map(|adapter| format!(" with {adapter}"));
                let words = start.llama.clone() + &adapter.collect::<String>();
                self.tell_fresh(&words, &fresh);
                words
            }
        };
        Ok((sharded, words))
    }

    /// Loads weights that are trained.
    fn load_into(&self, sharded: &mut Sharded, folder: &Location) -> Result<Reader, TrainError> {
        let reader = self.checkpoints.open(folder)?;
        let fresh = load_weights(&self.model, sharded, &reader, &self.settings.handle)?;
        self.tell_fresh(&folder.url(), &fresh);
        Ok(reader)
    }

    /// Loads weights that are only used.
    fn load_model(&self, folder: &Location) -> Result<(), TrainError> {
        let reader = self.checkpoints.open(folder)?;
        let fresh = load_parameters(&self.model, &reader, &self.settings.handle)?;
        self.tell_fresh(&folder.url(), &fresh);
        // As a stage leaves them, whose matrices are of the type that it computed with.
        let kind = compute_kind(&self.settings.recipe);
        let matrices = self.model.parameters().iter().filter(|it| it.shape.len() > 1);
        for matrix in matrices {
            matrix.tensor.shallow_clone().set_data(&matrix.tensor.detach().f_to_kind(kind)?);
        }
        Ok(())
    }

    fn tell_fresh(&self, url: &str, fresh: &[String]) {
        if !fresh.is_empty() && self.mesh.world.rank() == 0 {
            tracing::info!("{url} has no {}: they stay fresh", fresh.join(", "));
        }
    }

    /// Writes a checkpoint and tells the observer.
    pub fn save(
        &self,
        plan: &StagePlan,
        sharded: &Sharded,
        cursor: &Cursor,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let stage_step = sharded.updates();
        let state = State {
            step: plan.first_step + stage_step,
            stage: plan.stage.name.clone(),
            stage_step,
            stage_done: stage_step == plan.steps,
            cursor: serde_json::to_value(cursor)?,
            recipe_hash: self.settings.recipe.hash()?,
            seed: self.settings.recipe.seed,
            writer_epoch: self.settings.attempt,
            dp: self.mesh.dp.size(),
            tp: self.mesh.tp.size(),
        };
        let folder = self
            .checkpoints
            .save(&self.model, sharded, &state, self.mesh, || self.settings.publish())?;
        observer.checkpoint(state.step, &folder)
    }

    fn evaluate(&self, plan: &StagePlan, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let step = plan.first_step + plan.steps;
        for wanted in &plan.stage.evaluate {
            let set = open_set(&self.settings.recipe, &wanted.set, &self.settings.handle)?;
            let examiner = Examiner {
                model: &self.model,
                mesh: self.mesh,
                prompter: &self.prompter,
                video: plan.stage.video,
                pass: self.pass(plan, false),
                sequences: sequences(plan.batch, self.mesh.dp.size()),
            };
            let scores = examiner.scores(&set, wanted.limit, &self.settings.handle)?;
            let evaluation = Evaluation::new(step, &plan.stage.name, &wanted.set, scores);
            if self.mesh.world.rank() == 0 {
                evaluation::record(&self.settings.evaluations, &evaluation)?;
            }
            observer.evaluation(&evaluation)?;
        }
        Ok(())
    }

    /// How the stage's samples go through the model.
    pub fn pass(&self, plan: &StagePlan, training: bool) -> strand_model::Pass {
        pass(&self.settings.recipe, &plan.stage, training)
    }
}

/// Sequences of an evaluation that go through the model at once: as many as in training, where each needs more, but not
/// so few that it takes long.
fn sequences(batch: Batch, dp: usize) -> usize {
    batch.micro.unwrap_or_else(|| batch.global.div_ceil(dp)).max(8)
}

/// The folder that a checkpoint lies in.
fn beside(checkpoint: &str) -> Result<Location, TrainError> {
    let url = checkpoint.trim_end_matches('/');
    Ok(Location::open(url.rsplit_once('/').map_or(".", |(folder, _)| folder))?)
}

fn open_prompter(recipe: &Recipe, handle: &Handle) -> Result<Prompter, TrainError> {
    let (folder, file) = recipe.tokenizer.rsplit_once('/').unwrap_or((".", &recipe.tokenizer));
    let bytes = handle.block_on(Location::open(folder)?.get(file))?;
    let prompter = Prompter::open(&bytes, prompt_style(recipe.model.prompt))?;
    let (ids, vocab) = (prompter.vocab_size(), recipe.model.llama.vocab_size);
    if ids > vocab {
        return Err(TrainError::Vocabulary { path: recipe.tokenizer.clone(), ids, vocab });
    }
    Ok(prompter)
}

/// A model with the recipe's fresh weights.
pub(crate) fn fresh_model(
    config: Config,
    recipe: &Recipe,
    mesh: &Mesh,
) -> Result<VideoLm, TrainError> {
    let draws = |name: &str| draw(recipe.seed, 0, name, "initial weights");
    let kind = match recipe.precision {
        Precision::Fp32 | Precision::Bf16 => Kind::Float,
        Precision::Fp64 => Kind::Double,
    };
    Ok(VideoLm::fresh(config, recipe.model.init_std, &mesh.tp, (kind, mesh.device), draws)?)
}
