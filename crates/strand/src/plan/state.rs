//! What a stage keeps for as long as it runs: weights, gradients and the optimizer's state, divided as `train::sharded`
//! divides them.

use super::case::Case;
use crate::launch::world::cores;

/// Values to which each parameter is aligned in its flat tensor (`strand-model`'s `ALIGNMENT`).
const ALIGNMENT: u64 = 64;
/// Values that a GPU updates at a time where it needs something beside them (`train::sharded::chunks`).
const GPU_CHUNK: u64 = 1 << 24;

/// Parameters that lie in one flat tensor: of a unit those that are alike trained, matrices and divided.
#[derive(Debug, Clone, Copy, Default)]
struct Flat {
    /// Values, padding counted.
    values: u64,
    is_trained: bool,
    is_matrix: bool,
}

impl Flat {
    fn add(&mut self, numel: u64, is_trained: bool, is_matrix: bool) {
        self.values += numel.next_multiple_of(ALIGNMENT);
        (self.is_trained, self.is_matrix) = (is_trained, is_matrix);
    }

    /// Cut into equal parts by ranks.
    fn padded(self, multiple: u64) -> Flat {
        Flat { values: self.values.next_multiple_of(multiple), ..self }
    }
}

/// The training state of one rank.
pub struct State<'a> {
    case: Case<'a>,
    /// Head, layers from the last to the first, and what stands in front of them.
    units: Vec<Vec<Flat>>,
    /// Ranks that share the state.
    shards: u64,
    /// Bytes of all parameters of this rank in wide numbers, and the most there is of them while they are drawn.
    drawn: [u64; 2],
    /// Values of all weights in products, and of those that are trained.
    products: [u64; 2],
}

/// What the whole model has, over all ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Parameters.
    pub total: u64,
    /// Of them, those that the stage trains.
    pub trained: u64,
}

impl<'a> State<'a> {
    /// The state of a stage, and the counts of its model.
    pub fn of(case: Case<'a>) -> (State<'a>, Counts) {
        let layers = case.recipe.model.llama.num_hidden_layers;
        let mut counts = Counts::default();
        let mut units = vec![[Flat::default(); 8]; layers + 2];
        let (mut all, mut most, mut products) = (0, 0, [0; 2]);
        // They are drawn in the node's memory.
        let drawn_at_once = if case.is_cpu() { cores() as u64 } else { 1 };
        for one in case.recipe.parameters() {
            let is_trained = case.stage.trains(&one.name);
            let is_matrix = one.shape.len() > 1;
            let unit = one.layer().map_or_else(|| outside(&one.name, layers), |i| layers - i);
            let alike = [is_trained, is_matrix, one.split.is_some()];
            let key = alike.into_iter().fold(0, |key, is| key * 2 + usize::from(is));
            let (numel, local) = (one.numel(), one.local_numel());
            units[unit][key].add(local, is_trained, is_matrix);
            counts.total += numel;
            counts.trained += if is_trained { numel } else { 0 };
            if one.is_product() {
                products[0] += numel;
                products[1] += if is_trained { numel } else { 0 };
            }
            // Whole, in fp32, as drawn, a core one, and once as a tensor.
            most = most.max(all + (drawn_at_once + 1) * 4 * numel);
            all += local * case.wide();
        }
        let shards = if case.zero() == 0 { 1 } else { case.world.dp as u64 };
        let unit = |flats: [Flat; 8]| -> Vec<Flat> {
            let used = flats.into_iter().filter(|flat| flat.values > 0);
            used.map(|flat| flat.padded(ALIGNMENT * shards)).collect()
        };
        let units = units.into_iter().map(unit).collect();
        (State { case, units, shards, drawn: [all, most.max(all)], products }, counts)
    }

    /// As `Recipe::trained_share`.
    pub fn trained_share(&self) -> f64 {
        self.products[1] as f64 / self.products[0].max(1) as f64
    }

    /// Weights that the model computes with. With ZeRO-3 each rank keeps a part, and [`Self::gathered`] comes and goes.
    pub fn weights(&self) -> u64 {
        let shards = if self.case.zero() == 3 { self.shards } else { 1 };
        self.flats().map(|flat| flat.values / shards * self.kind(flat)).sum()
    }

    /// Master weights where they are not the weights themselves, on CPUs what these lack, and both moments.
    pub fn optimizer(&self) -> u64 {
        self.trained().map(|flat| flat.values / self.shards * self.optimizer_bytes(flat)).sum()
    }

    /// The same in the node's memory.
    pub fn offloaded(&self) -> u64 {
        let bytes = if self.case.offloads() { 3 * self.case.wide() } else { 0 };
        self.updated() * bytes
    }

    /// Gradients: wide where they are added up.
    pub fn gradients(&self) -> u64 {
        let wide = self.case.wide();
        let one = |flat: &Flat| {
            let own = flat.values / self.shards;
            match self.case.zero() {
                _ if self.shards == 1 => flat.values * self.summed(flat) + self.exact_sums(flat),
                1 => (flat.values + own) * wide,
                _ => own * wide,
            }
        };
        self.trained().map(one).sum()
    }

    /// Gradients that are under way to their ranks while the backward pass is at the layer `depth` from the last: those
    /// of its unit and of the two before it.
    pub fn reduced(&self, depth: usize) -> u64 {
        let unit = (depth + 1).min(self.units.len() - 1);
        let wide = self.case.wide();
        let trained = |flats: &[Flat]| -> u64 {
            flats.iter().filter(|flat| flat.is_trained).map(|flat| flat.values * wide).sum()
        };
        let pending = &self.units[unit.saturating_sub(2)..unit];
        let parts: u64 = pending.iter().map(|flats| trained(flats) / self.shards).sum();
        let whole: u64 = pending.iter().map(|flats| trained(flats)).sum();
        match self.case.zero() {
            _ if self.shards == 1 => 0,
            1 => parts,
            _ => whole + trained(&self.units[unit]) + parts,
        }
    }

    /// The head's gradients, the first of a backward pass.
    pub fn reduced_head(&self) -> u64 {
        let trained = self.units[0].iter().filter(|flat| flat.is_trained);
        let bytes = trained.map(|flat| flat.values * self.case.wide()).sum();
        if self.case.zero() >= 2 && self.shards > 1 { bytes } else { 0 }
    }

    /// With ZeRO-3, the weights that are there beside this rank's own part: the head and what is in front of the layers
    /// for the whole step, and `layers` of the layers.
    pub fn gathered(&self, layers: usize) -> u64 {
        if self.case.zero() < 3 {
            return 0;
        }
        let whole = |flats: &Vec<Flat>| -> u64 {
            flats.iter().map(|flat| flat.values * self.kind(flat)).sum()
        };
        let (last, count) = (self.units.len() - 1, self.units.len() - 2);
        let layer = self.units[1..last].iter().map(whole).max().unwrap_or(0);
        whole(&self.units[0]) + whole(&self.units[last]) + layer * layers.min(count) as u64
    }

    /// What an update needs for a moment: a few values of a gradient, widened and squared (as many as a CPU's cache holds),
    /// or with ZeRO-1 and 2 the copies that are gathered.
    pub fn update(&self) -> u64 {
        let squares = match self.case.is_cpu() {
            true => 0,
            false => {
                let own = self.trained().map(|flat| flat.values / self.shards).max();
                own.unwrap_or(0).min(GPU_CHUNK) * (2 * self.case.wide() + 8)
            }
        };
        let copies = match self.case.zero() {
            1 | 2 if self.shards > 1 => {
                self.trained().map(|flat| flat.values / self.shards * self.kind(flat)).sum()
            }
            _ => 0,
        };
        squares.max(copies)
    }

    /// The most that is held before the first step: all weights in wide numbers, while they are drawn and while they are
    /// divided, unit by unit. With ZeRO-3 the whole weights go last.
    pub fn setup(&self) -> u64 {
        let wide = self.case.wide();
        let [mut held, mut most] = self.drawn;
        for flat in self.flats() {
            let own = flat.values / self.shards;
            let narrowed = if self.kind(flat) < wide { flat.values * self.kind(flat) } else { 0 };
            let kept = if self.case.zero() == 3 { own * self.kind(flat) } else { 0 };
            let trained = if flat.is_trained { own * self.optimizer_bytes(flat) } else { 0 };
            most = most.max(held + (flat.values * wide).max(narrowed + kept + trained));
            held += kept + trained;
            if narrowed > 0 {
                held = (held + narrowed).saturating_sub(flat.values * wide);
            }
        }
        most.max(held)
    }

    /// Bytes of a checkpoint, over all ranks: masters and moments of what is trained, the weights of the rest.
    pub fn checkpoint(case: Case, counts: Counts) -> u64 {
        counts.trained * 3 * case.wide() + (counts.total - counts.trained) * case.narrow()
    }

    /// Values that this rank updates.
    pub fn updated(&self) -> u64 {
        self.trained().map(|flat| flat.values / self.shards).sum()
    }

    /// Values of the gradients that this rank reduces.
    pub fn trained_values(&self) -> u64 {
        self.trained().map(|flat| flat.values).sum()
    }

    /// Bytes of the layers' weights, whole.
    pub fn layers_bytes(&self) -> u64 {
        let layers = self.units[1..self.units.len() - 1].iter().flatten();
        layers.map(|flat| flat.values * self.kind(flat)).sum()
    }

    /// Bytes of the weights outside the layers, whole.
    pub fn outside_bytes(&self) -> u64 {
        let outside = self.units[0].iter().chain(&self.units[self.units.len() - 1]);
        outside.map(|flat| flat.values * self.kind(flat)).sum()
    }

    /// Bytes of the weights that are trained.
    pub fn trained_bytes(&self) -> u64 {
        self.trained().map(|flat| flat.values * self.kind(flat)).sum()
    }

    fn flats(&self) -> impl Iterator<Item = &Flat> {
        self.units.iter().flatten()
    }

    fn trained(&self) -> impl Iterator<Item = &Flat> {
        self.flats().filter(|flat| flat.is_trained)
    }

    /// Bytes of a value: vectors stay wide.
    fn kind(&self, flat: &Flat) -> u64 {
        if flat.is_matrix { self.case.narrow() } else { self.case.wide() }
    }

    /// Bytes of a gradient's value.
    fn summed(&self, flat: &Flat) -> u64 {
        if flat.is_matrix { self.case.summed() } else { self.case.wide() }
    }

    fn optimizer_bytes(&self, flat: &Flat) -> u64 {
        let (narrow, wide) = (self.kind(flat), self.case.wide());
        if self.case.offloads() {
            return 0;
        }
        let master = match narrow < wide {
            true if self.case.is_cpu() => wide - narrow,
            true => wide,
            false => 0,
        };
        master + 2 * wide
    }

    /// With `exact_tp` gradients are added in 64 bits.
    fn exact_sums(&self, flat: &Flat) -> u64 {
        if self.case.recipe.parallel.exact_tp.is_some() { flat.values * 8 } else { 0 }
    }
}

/// The unit of a parameter outside the layers.
fn outside(name: &str, layers: usize) -> usize {
    const HEAD: [&str; 3] = ["lm_head.", "model.norm.", "mvm_decoder."];
    if HEAD.iter().any(|part| name.starts_with(part)) { 0 } else { layers + 1 }
}
