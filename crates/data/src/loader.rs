//! Batches for a rank, fetched ahead.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::fetch::Fetcher;
use crate::groups::{Fetched, Groups};
use crate::order::cut;
use crate::salvage::{Salvage, Skipped};
use crate::sample::Visit;
use crate::{Cache, Cursor, DataError, Dataset, FrameRule, Order, OrderRules, Sample, SampleRef};

/// Finished batches that wait for the trainer.
const BATCHES_READY: usize = 2;
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
    /// Bytes fetched ahead, beyond the 16 row groups of each set that are mixed at a time.
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

/// A rank's share of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Position of the step's first sample in the order.
    pub first: u64,
    /// Samples of the step over all ranks, skipped ones included.
    pub global: usize,
    /// The rank's contiguous cut `[r·B/dp, (r+1)·B/dp)` without what was skipped; may be empty in a short batch.
    pub samples: Vec<Sample>,
    /// Damaged samples of the cut that were left out.
    pub skipped: Vec<Skipped>,
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

/// Gives a rank its batches, in order, from tasks that read ahead.
pub struct Loader {
    order: Arc<Order>,
    plan: Plan,
    consumed: u64,
    batches: mpsc::Receiver<Result<Batch, DataError>>,
    failed: bool,
    fetched: Arc<Fetched>,
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
        let visit = check(&sets, &options)?;
        let weighted: Vec<_> = sets.iter().map(|(set, weight)| (set.manifest(), *weight)).collect();
        let order = Arc::new(Order::with_rules(&weighted, options.seed, rules(&options))?);
        let consumed = cursor.map_or(Ok(0), |cursor| order.resume(&cursor))?;
        let plan = Plan::new(&options, order.clone());
        let fetched = Arc::new(Fetched::default());
        let sets: Vec<Dataset> = sets.into_iter().map(|(set, _)| set).collect();
        let fetcher = Fetcher { cache: options.cache.clone(), fetched: fetched.clone() };
        let salvage = options.skip_damaged.then(|| Salvage::new(sets.clone()));
        let groups = Groups::new(sets, options.prefetch_bytes, fetcher);
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
        };
        let (sender, batches) = mpsc::channel(BATCHES_READY);
        let task = handle.spawn(reader.run(sender));
        Ok(Loader { order, plan, consumed, batches, failed: false, fetched, task })
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
        match self.batches.blocking_recv() {
            Some(Ok(batch)) => {
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
    salvage: Option<Salvage>,
}

struct PlannedBatch {
    first: u64,
    global: u64,
    samples: Vec<SampleRef>,
}

impl Reader {
    async fn run(mut self, sender: mpsc::Sender<Result<Batch, DataError>>) {
        while let Some(batch) = self.next_batch() {
            let batch = self.assemble(batch).await;
            let failed = batch.is_err();
            if sender.send(batch).await.is_err() || failed {
                return;
            }
        }
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

    async fn assemble(&mut self, batch: PlannedBatch) -> Result<Batch, DataError> {
        let mut samples = Vec::with_capacity(batch.samples.len());
        let mut skipped = Vec::new();
        for at in batch.samples {
            match self.sample(at).await? {
                Ok(sample) => samples.push(sample),
                Err(damaged) => skipped.push(damaged),
            }
        }
        Ok(Batch { first: batch.first, global: batch.global as usize, samples, skipped })
    }

    async fn sample(&mut self, at: SampleRef) -> Result<Result<Sample, Skipped>, DataError> {
        let error = match self.groups.row(at).await {
            Ok((rows, row)) => return self.visit.sample(&rows[row], at.set, at.epoch).map(Ok),
            Err(error) => error,
        };
        let Some(salvage) = &mut self.salvage else {
            return Err(error);
        };
        match salvage.row(at, error).await? {
            Ok(row) => self.visit.sample(&row, at.set, at.epoch).map(Ok),
            Err(skipped) => Ok(Err(skipped)),
        }
    }
}
