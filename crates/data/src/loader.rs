//! Batches for a rank, fetched ahead.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use strand_store::{Pool, Traffic};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::batch::{Held, Unmade, assemble};
use crate::demand::Demand;
use crate::fetch::Fetcher;
use crate::groups::{Fetched, Groups};
use crate::order::cut;
use crate::parallel::cores;
use crate::salvage::Salvage;
use crate::sample::Visit;
use crate::{
    Batch, Cache, Cursor, DataError, Dataset, FrameRule, Order, OrderRules, SampleRef, Skipped,
};

/// Batches that wait for the trainer or are being copied for it.
const BATCHES_READY: usize = 3;
/// Samples that are planned ahead at most; they cost a few words each.
const SAMPLES_PLANNED: usize = 1 << 12;

/// What a rank reads and how.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Seed of the order and of all draws.
    pub seed: u64,
    /// This rank's place among the data-parallel ranks.
    pub dp_rank: usize,
    /// The number of data-parallel ranks.
    pub dp_size: usize,
    /// Samples of a step over all ranks.
    pub global_batch: usize,
    /// Frames of a video sample; all that its row has where not given.
    pub frames: Option<usize>,
    /// Which frames of a longer row.
    pub sampling: FrameRule,
    /// Most bytes fetched ahead, beyond the 16 row groups of each set that are mixed at a time. Less for a trainer
    /// that does not use as much in 10 s.
    pub prefetch_bytes: u64,
    /// Times through the data; without end where not given.
    pub epochs: Option<u64>,
    /// Leave a last, short batch out.
    pub drop_last: bool,
    /// Steps from the beginning (not from a cursor); without end where not given.
    pub steps: Option<u64>,
    /// Every step's samples come from one set.
    pub one_set: bool,
    /// Row groups of similar length are read together.
    pub by_length: bool,
    /// Leave damaged samples out and list them, instead of ending with an error.
    pub skip_damaged: bool,
    /// The node's cache, for data sets in object storage.
    pub cache: Option<Cache>,
}

impl LoaderOptions {
    /// One epoch of all frames by one rank, a batch after the other, the middle frames where some are chosen.
    pub fn epoch(global_batch: usize) -> LoaderOptions {
        LoaderOptions {
            seed: 0,
            dp_rank: 0,
            dp_size: 1,
            global_batch,
            frames: None,
            sampling: FrameRule::Middle,
            prefetch_bytes: 64 << 20,
            epochs: Some(1),
            drop_last: false,
            steps: None,
            one_set: false,
            by_length: false,
            skip_damaged: false,
            cache: None,
        }
    }
}

/// Where each step begins and ends: a function of the options, the same on every rank.
#[derive(Clone, Debug)]
struct Plan {
    order: Arc<Order>,
    batch: u64,
    /// Samples of the whole run.
    total: Option<u64>,
    drop_last: bool,
}

impl Plan {
    fn new(options: &LoaderOptions, order: Arc<Order>) -> Plan {
        let batch = options.global_batch as u64;
        let by_steps = options.steps.map(|steps| order.step_start(steps, batch));
        let by_epochs = options.epochs.map(|epochs| epochs.saturating_mul(order.epoch_len()));
        let total = [by_steps, by_epochs].into_iter().flatten().min();
        Plan { order, batch, total, drop_last: options.drop_last }
    }

    /// The end of the step that begins at a position; `None` where there is no such step.
    fn end(&self, first: u64) -> Option<u64> {
        let total = self.total.unwrap_or(u64::MAX);
        if first >= total {
            return None;
        }
        let full = self.order.step_end(first, self.batch);
        let end = full.min(total);
        (end == full || !self.drop_last).then_some(end)
    }

    fn steps(&self) -> Option<u64> {
        let total = self.total?;
        let steps = self.order.steps_before(total, self.batch);
        let last = self.order.step_start(steps.saturating_sub(1), self.batch);
        let is_dropped = steps > 0 && self.end(last).is_none();
        Some(steps - u64::from(is_dropped))
    }
}

/// A batch that is being put together.
type Coming = oneshot::Receiver<Result<Batch, DataError>>;

/// Gives a rank its batches, in order, from tasks that read ahead.
pub struct Loader {
    order: Arc<Order>,
    plan: Plan,
    consumed: u64,
    batches: mpsc::Receiver<Coming>,
    failed: bool,
    demand: Arc<Demand>,
    fetched: Arc<Fetched>,
    sets: Vec<Dataset>,
    /// What the sets had cost before.
    traffic: Vec<Traffic>,
    task: JoinHandle<()>,
}

impl Loader {
    /// Starts to read, from the cursor where there is one. `handle` is a multi-threaded runtime's. Sets come with
    /// their weights, all or none.
    ///
    /// # Errors
    /// [`DataError::Settings`] for options that cannot work and for sets of different encoders or shapes,
    /// [`DataError::Cursor`] for a cursor of other data.
    pub fn open(
        handle: Handle,
        sets: Vec<(Dataset, Option<f64>)>,
        options: LoaderOptions,
        cursor: Option<Cursor>,
    ) -> Result<Loader, DataError> {
        Self::open_in(&Pool::shared(), handle, sets, options, cursor)
    }

    /// As [`Self::open`], with batches in memory of `pool`: a GPU's page-locked memory, or what another loader used
    /// before.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_in(
        pool: &Arc<Pool>,
        handle: Handle,
        sets: Vec<(Dataset, Option<f64>)>,
        options: LoaderOptions,
        cursor: Option<Cursor>,
    ) -> Result<Loader, DataError> {
        let visit = check(&sets, &options)?;
        let weighted: Vec<_> = sets.iter().map(|(set, weight)| (set.manifest(), *weight)).collect();
        let order = Arc::new(Order::with_rules(&weighted, options.seed, rules(&options))?);
        let consumed = cursor.map_or(Ok(0), |cursor| order.resume(&cursor))?;
        let plan = Plan::new(&options, order.clone());
        let fetched = Arc::new(Fetched::default());
        let sets: Vec<Dataset> = sets.into_iter().map(|(set, _)| set).collect();
        let traffic = sets.iter().map(|set| set.location().traffic()).collect();
        let demand = Arc::new(Demand::default());
        let fetcher = Fetcher { cache: options.cache.clone(), fetched: fetched.clone() };
        let salvage =
            options.skip_damaged.then(|| Arc::new(Mutex::new(Salvage::new(sets.clone()))));
        let groups = Groups::new(sets.clone(), options.prefetch_bytes, demand.clone(), fetcher);
        let (rank, size) = (options.dp_rank, options.dp_size);
        let planned = VecDeque::new();
        let reader = Reader {
            order: order.clone(),
            plan: plan.clone(),
            rank,
            size,
            visit,
            next: consumed,
            planned,
            groups,
            salvage,
            pool: pool.clone(),
            demand: demand.clone(),
        };
        let (sender, batches) = mpsc::channel(BATCHES_READY);
        let task = handle.spawn(reader.run(sender));
        let failed = false;
        Ok(Loader { order, plan, consumed, batches, failed, demand, fetched, sets, traffic, task })
    }

    /// The next batch; `None` once the planned steps are done. Waits for it: not to be called from a task.
    ///
    /// # Errors
    /// What went wrong with a sample of this very batch; after that, [`DataError::Stopped`].
    #[allow(clippy::should_implement_trait, reason = "a trainer wants `?` before `while let Some`")]
    pub fn next(&mut self) -> Result<Option<Batch>, DataError> {
        if self.failed {
            return Err(DataError::Stopped);
        }
        let (batch, waited) = self.receive();
        match batch {
            Some(Ok(batch)) => {
                self.demand.took(batch.features.len() as u64, waited);
                self.consumed = batch.first + batch.global as u64;
                Ok(Some(batch))
            }
            None if self.plan.end(self.consumed).is_none() => Ok(None),
            Some(Err(error)) => {
                self.failed = true;
                Err(error)
            }
            None => Err(DataError::Stopped),
        }
    }

    /// The next batch, and whether it had to be waited for.
    fn receive(&mut self) -> (Option<Result<Batch, DataError>>, bool) {
        let ready = self.batches.try_recv().ok();
        let waited = ready.is_none();
        let Some(mut coming) = ready.or_else(|| self.batches.blocking_recv()) else {
            return (None, waited);
        };
        match coming.try_recv() {
            Ok(batch) => (Some(batch), waited),
            Err(_) => (coming.blocking_recv().ok(), true),
        }
    }

    /// The position after the last batch that was returned, for all ranks.
    pub fn cursor(&self) -> Cursor {
        self.order.cursor(self.consumed)
    }

    /// Steps of the whole run, from its beginning; `None` without an end.
    pub fn steps_total(&self) -> Option<u64> {
        self.plan.steps()
    }

    /// Samples of one epoch of all sets.
    pub fn epoch_len(&self) -> u64 {
        self.order.epoch_len()
    }

    /// What the data sets' storage was asked for since this loader was opened: with retries, with second requests for
    /// slow ones, and with what other loaders of the same [`Dataset`]s asked for.
    pub fn traffic(&self) -> Traffic {
        let since = self.sets.iter().zip(&self.traffic);
        since.map(|(set, before)| set.location().traffic().since(*before)).sum()
    }

    /// Row groups and bytes fetched so far, for the share of bytes that were fetched more than once.
    pub fn fetched(&self) -> (u64, u64) {
        (self.fetched.groups.load(Ordering::Relaxed), self.fetched.bytes.load(Ordering::Relaxed))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn rules(options: &LoaderOptions) -> OrderRules {
    let one_set = options.one_set.then_some(options.global_batch as u64);
    OrderRules { one_set, by_length: options.by_length }
}

fn check(sets: &[(Dataset, Option<f64>)], options: &LoaderOptions) -> Result<Visit, DataError> {
    let bad = |reason: String| Err(DataError::Settings(reason));
    let LoaderOptions { seed, dp_rank, dp_size, global_batch, frames, sampling, .. } = *options;
    if dp_rank >= dp_size || global_batch == 0 || frames == Some(0) {
        return bad(format!(
            "rank {dp_rank} of {dp_size}, batches of {global_batch} and frames {frames:?} cannot be read"
        ));
    }
    let Some((first, _)) = sets.first() else {
        return bad("no data set to read".to_owned());
    };
    let one = first.manifest();
    for (set, _) in sets {
        let other = set.manifest();
        let shape = |manifest: &crate::Manifest| (manifest.tokens, manifest.dim, manifest.dtype);
        let same_encoder = one.encoder.kind == other.encoder.kind
            && one.encoder.hash == other.encoder.hash
            && one.encoder.image_size == other.encoder.image_size
            && one.encoder.question_conditioned == other.encoder.question_conditioned;
        if !same_encoder || shape(one) != shape(other) {
            return bad(format!(
                "{} and {} were made by different encoders",
                first.location(),
                set.location()
            ));
        }
    }
    Ok(Visit { seed, frames, sampling, dim: one.dim, dtype: one.dtype })
}

/// The task that reads ahead.
struct Reader {
    order: Arc<Order>,
    plan: Plan,
    rank: usize,
    size: usize,
    visit: Visit,
    /// Position of the next step to plan.
    next: u64,
    planned: VecDeque<PlannedBatch>,
    groups: Groups,
    /// Where damage is skipped.
    salvage: Option<Arc<Mutex<Salvage>>>,
    /// Memory of the batches.
    pool: Arc<Pool>,
    demand: Arc<Demand>,
}

struct PlannedBatch {
    first: u64,
    global: u64,
    samples: Vec<SampleRef>,
}

impl Reader {
    async fn run(mut self, sender: mpsc::Sender<Coming>) {
        while let Some(batch) = self.next_batch() {
            let (done, coming) = oneshot::channel();
            let copying = match self.hold(&batch.samples).await {
                Ok(rows) => Some(self.copy(&batch, rows, done)),
                Err(error) => {
                    // A trainer that went away wants no error.
                    let _ = done.send(Err(error));
                    None
                }
            };
            let is_first = self.demand.is_first();
            if sender.send(coming).await.is_err() {
                return;
            }
            match copying {
                // What the first batch needs comes before all else. A panic shows in the batch that does not come.
                Some(task) if is_first => drop(task.await),
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Makes a batch of rows, beside the reading of the next ones.
    fn copy(
        &self,
        batch: &PlannedBatch,
        rows: (Vec<Held>, Vec<Skipped>),
        done: oneshot::Sender<Result<Batch, DataError>>,
    ) -> JoinHandle<()> {
        // Later ones are copied side by side.
        let threads = if self.demand.is_first() { cores() } else { 1 };
        let (first, global, visit) = (batch.first, batch.global, self.visit);
        let (pool, salvage) = (self.pool.clone(), self.salvage.clone());
        tokio::spawn(async move {
            let (mut held, mut skipped) = rows;
            let made = loop {
                let pool = pool.clone();
                let copy = move || {
                    let made = assemble(first, global, &held, visit, &pool, threads);
                    (made, held)
                };
                let Ok((made, rows)) = tokio::task::spawn_blocking(copy).await else { return };
                held = rows;
                match (made, &salvage) {
                    (Ok(made), _) => break Ok(Batch { skipped, ..made }),
                    (Err(Unmade { error, row: Some(row) }), Some(salvage)) => {
                        match salvage.lock().await.held(held[row].at, error).await {
                            Ok(Ok(intact)) => held[row] = intact,
                            Ok(Err(damaged)) => {
                                held.remove(row);
                                skipped.push(damaged);
                            }
                            Err(error) => break Err(error),
                        }
                    }
                    (Err(Unmade { error, .. }), _) => break Err(error),
                }
            };
            // A trainer that went away wants no batch.
            let _ = done.send(made);
        })
    }

    /// Plans ahead until the budget of bytes is spent, and gives the step that is due.
    fn next_batch(&mut self) -> Option<PlannedBatch> {
        let mut samples: usize = self.planned.iter().map(|batch| batch.samples.len()).sum();
        while (self.groups.start() && samples < SAMPLES_PLANNED) || self.planned.is_empty() {
            let Some(batch) = self.plan_one() else { break };
            // An empty cut still counts, or a rank without samples would plan for ever.
            samples += batch.samples.len().max(1);
            self.planned.push_back(batch);
        }
        self.planned.pop_front()
    }

    fn plan_one(&mut self) -> Option<PlannedBatch> {
        let first = self.next;
        let end = self.plan.end(first)?;
        self.next = end;
        let own = cut(end - first, self.rank, self.size);
        let samples: Vec<SampleRef> = own.map(|offset| self.order.at(first + offset)).collect();
        samples.iter().for_each(|&at| self.groups.plan(at));
        Some(PlannedBatch { first, global: end - first, samples })
    }

    /// The rows of some samples, once they are there, and those that are left out.
    async fn hold(
        &mut self,
        samples: &[SampleRef],
    ) -> Result<(Vec<Held>, Vec<Skipped>), DataError> {
        let (mut held, mut skipped) = (Vec::with_capacity(samples.len()), Vec::new());
        for &at in samples {
            match (self.groups.row(at).await, &self.salvage) {
                (Ok((group, row)), _) => held.push(Held { group, row, at }),
                (Err(error), None) => return Err(error),
                (Err(error), Some(salvage)) => match salvage.lock().await.held(at, error).await? {
                    Ok(intact) => held.push(intact),
                    Err(damaged) => skipped.push(damaged),
                },
            }
        }
        Ok((held, skipped))
    }
}
