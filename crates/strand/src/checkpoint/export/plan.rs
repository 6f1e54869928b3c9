//! Which tensors an export writes, and where to.

use strand_checkpoint::weights::ADAPTER_PREFIX;
use strand_checkpoint::{Kind, Manifest};
use strand_control::ExitCode;
use strand_recipe::{Lora, Recipe};

use crate::failure::Failure;

const FACTORS: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];

/// Tensors that a message names.
const MOST_NAMES: usize = 20;

/// The tensors of an export.
#[derive(Debug)]
pub struct Plan {
    /// The LLaMA, in the order of its layers.
    pub llama: Vec<Item>,
    /// What transformers' LLaMA does not have.
    pub extra: Vec<Item>,
}

/// A tensor that is written.
#[derive(Debug, PartialEq)]
pub struct Item {
    /// Its name in the checkpoint.
    pub name: String,
    /// What is put in front of it.
    pub prefix: &'static str,
    /// Its shape.
    pub shape: Vec<u64>,
    /// What is added to it.
    pub factors: Option<Factors>,
}

/// Low-rank factors beside a weight.
#[derive(Debug, PartialEq)]
pub struct Factors {
    /// `[rank, in]`
    pub a: String,
    /// `[out, rank]`
    pub b: String,
    /// What their product is multiplied with.
    pub scale: f64,
}

impl Item {
    fn plain(name: String, shape: Vec<u64>) -> Item {
        Item { name, prefix: "", shape, factors: None }
    }

    fn is_of_llama(&self) -> bool {
        is_of_llama(&self.name)
    }

    /// Its name in the file.
    pub fn written_name(&self) -> String {
        format!("{}{}", self.prefix, self.name)
    }

    /// Whether this is a factor of LoRA.
    pub fn is_factor(&self) -> bool {
        FACTORS.iter().any(|part| self.name.ends_with(part))
    }
}

impl Plan {
    /// Finds the recipe's model in a checkpoint.
    pub fn new(manifest: &Manifest, recipe: &Recipe, merge: bool) -> anyhow::Result<Plan> {
        let wanted = recipe.model.llama.tensors();
        check(manifest, &wanted)?;
        let lora = if merge { Some(adaptation(recipe, "--merge-lora")?) } else { None };
        if let Some(lora) = lora {
            check(manifest, &lora.tensors(&recipe.model.llama))?;
        }
        let llama: Vec<Item> = wanted
            .into_iter()
            .map(|(name, shape)| {
                let factors = lora.and_then(|lora| factors(manifest, &name, lora));
                Item { factors, ..Item::plain(name, shape) }
            })
            .collect();
        let extra = parameters(manifest)
            .filter(|item| llama.iter().all(|of_llama| of_llama.name != item.name))
            .filter(|item| !(merge && item.is_factor()))
            .collect();
        Ok(Plan { llama, extra })
    }
}

/// The tensors of an adapter's folder.
#[derive(Debug)]
pub struct AdapterPlan {
    /// LoRA's factors, in the order of the layers.
    pub factors: Vec<Item>,
    /// Trained parts of the model beside the LLaMA.
    pub extra: Vec<Item>,
    /// Whether the LLaMA itself was trained, so that the factors are not all that the run changed.
    pub changes_llama: bool,
}

impl AdapterPlan {
    /// Finds the factors of the recipe's model in a checkpoint, and what else its stages trained.
    pub fn new(manifest: &Manifest, recipe: &Recipe) -> anyhow::Result<AdapterPlan> {
        let wanted = adaptation(recipe, "--adapter")?.tensors(&recipe.model.llama);
        check(manifest, &wanted)?;
        let factor = |(name, shape)| Item { prefix: ADAPTER_PREFIX, ..Item::plain(name, shape) };
        let factors = wanted.into_iter().map(factor).collect();
        let trained = parameters(manifest)
            .filter(|item| !item.is_factor() && is_trained(&item.name, manifest, recipe));
        let (llama, extra): (Vec<Item>, Vec<Item>) = trained.partition(Item::is_of_llama);
        Ok(AdapterPlan { factors, extra, changes_llama: !llama.is_empty() })
    }
}

/// Whether the checkpoint's stage or one before it trains a parameter. An imported checkpoint is of no stage: what it
/// holds beside the LLaMA was given to it.
fn is_trained(name: &str, manifest: &Manifest, recipe: &Recipe) -> bool {
    let last = recipe.stages.iter().position(|stage| stage.name == manifest.state.stage);
    match last {
        Some(last) => recipe.stages[..=last].iter().any(|stage| stage.trains(name)),
        None => !is_of_llama(name),
    }
}

fn is_of_llama(name: &str) -> bool {
    ["model.", "lm_head."].iter().any(|part| name.starts_with(part))
}

fn parameters(manifest: &Manifest) -> impl Iterator<Item = Item> {
    let parameters = manifest.tensors.iter().filter(|tensor| tensor.kind == Kind::Parameter);
    parameters.map(|tensor| Item::plain(tensor.name.clone(), tensor.shape.clone()))
}

/// Every tensor of the model is there, in its shape.
fn check(manifest: &Manifest, wanted: &[(String, Vec<u64>)]) -> Result<(), Failure> {
    let reason = |(name, shape): &(String, Vec<u64>)| match manifest.tensor(name, Kind::Parameter) {
        None => Some(format!("{name} is missing")),
        Some(found) if found.shape != *shape => {
            Some(format!("{name} has shape {:?}, not {shape:?}", found.shape))
        }
        Some(_) => None,
    };
    let mut reasons: Vec<String> = wanted.iter().filter_map(reason).collect();
    if reasons.is_empty() {
        return Ok(());
    }
    let count = reasons.len();
    reasons.truncate(MOST_NAMES);
    let message = format!(
        "the checkpoint is of another model than the recipe, {count} tensors differ\n  {}",
        reasons.join("\n  ")
    );
    Err(Failure::new(ExitCode::Storage, message).hint("name its recipe with --recipe"))
}

/// The recipe's adaptation, which `option` asks for.
fn adaptation<'a>(recipe: &'a Recipe, option: &str) -> Result<&'a Lora, Failure> {
    recipe.model.lora.as_ref().filter(|lora| lora.rank > 0).ok_or_else(|| {
        Failure::usage(format!("{option}: the recipe's model has no `lora`"))
            .hint("leave the option out")
    })
}

fn factors(manifest: &Manifest, name: &str, lora: &Lora) -> Option<Factors> {
    let product = name.strip_suffix(".weight")?;
    let [a, b] = FACTORS.map(|part| format!("{product}{part}"));
    manifest.tensor(&a, Kind::Parameter)?;
    Some(Factors { a, b, scale: lora.alpha / lora.rank as f64 })
}
