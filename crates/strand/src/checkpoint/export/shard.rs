//! The files of an export: parts merged to whole tensors, one tensor in memory at a time.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use strand_checkpoint::weights::{
    ADAPTER, EXTRA, FileWriter, Head, INDEX, Overflow, from_f32, to_f32,
};
use strand_checkpoint::{Dtype, Kind, Reader};
use strand_control::ExitCode;
use strand_store::{Location, StoreError};
use tempfile::TempDir;

use super::merge::add_product;
use super::plan::{AdapterPlan, Item, Plan};
use crate::failure::Failure;

/// What is written, and how.
pub struct Shards<'a> {
    pub reader: &'a Reader,
    pub out: &'a Location,
    pub dtype: Dtype,
    /// Bytes of a file.
    pub size: u64,
}

/// What was written.
#[derive(Debug)]
pub struct Files {
    /// The file of each tensor of the LLaMA.
    places: Vec<(String, String)>,
    has_extra: bool,
    /// Bytes of all tensors of the LLaMA.
    pub bytes: u64,
}

impl Shards<'_> {
    /// Writes all tensors; `progress` hears how many.
    pub async fn write(
        &self,
        plan: &Plan,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> anyhow::Result<Files> {
        let groups = self.groups(&plan.llama);
        let total = (plan.llama.len() + plan.extra.len()) as u64;
        let mut done = 0;
        let mut advance = || {
            done += 1;
            progress(done, total);
        };
        let mut places = Vec::new();
        for (number, group) in (1..).zip(&groups) {
            let file = format!("model-{number:05}-of-{:05}.safetensors", groups.len());
            self.write_file(&file, group, &mut advance).await?;
            places.extend(group.iter().map(|item| (item.name.clone(), file.clone())));
        }
        if !plan.extra.is_empty() {
            let extra: Vec<&Item> = plan.extra.iter().collect();
            self.write_file(EXTRA, &extra, &mut advance).await?;
        }
        Ok(Files { places, has_extra: !plan.extra.is_empty(), bytes: self.bytes(&plan.llama) })
    }

    /// Writes the tensors of an adapter's folder. Returns its files.
    pub async fn write_adapter(
        &self,
        plan: &AdapterPlan,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> anyhow::Result<Vec<&'static str>> {
        let files = [(ADAPTER, &plan.factors), (EXTRA, &plan.extra)];
        let total = (plan.factors.len() + plan.extra.len()) as u64;
        let mut done = 0;
        let mut advance = || {
            done += 1;
            progress(done, total);
        };
        let mut written = Vec::new();
        for (file, items) in files.into_iter().filter(|(_, items)| !items.is_empty()) {
            self.write_file(file, &items.iter().collect::<Vec<_>>(), &mut advance).await?;
            written.push(file);
        }
        Ok(written)
    }

    /// Bytes of tensors as they are written.
    pub fn bytes(&self, items: &[Item]) -> u64 {
        items.iter().map(|item| self.head(item).bytes()).sum()
    }

    /// Cuts the tensors into groups of at most `size` bytes, in order; a larger one is alone.
    fn groups<'a>(&self, items: &'a [Item]) -> Vec<Vec<&'a Item>> {
        let mut groups: Vec<Vec<&Item>> = Vec::new();
        let mut room = 0;
        for item in items {
            let bytes = self.head(item).bytes();
            match groups.last_mut() {
                Some(group) if bytes <= room => group.push(item),
                _ => {
                    groups.push(vec![item]);
                    room = self.size;
                }
            }
            room = room.saturating_sub(bytes);
        }
        groups
    }

    fn head(&self, item: &Item) -> Head {
        Head { name: item.written_name(), dtype: self.dtype, shape: item.shape.clone() }
    }

    async fn write_file(
        &self,
        file: &str,
        items: &[&Item],
        advance: &mut impl FnMut(),
    ) -> anyhow::Result<()> {
        let staged = Staged::new(self.out, file)?;
        let failed = |error: std::io::Error| {
            let message = format!("{}: cannot be written", staged.path.display());
            Failure::new(ExitCode::Storage, message).because(error)
        };
        let heads: Vec<Head> = items.iter().map(|item| self.head(item)).collect();
        let mut writer = FileWriter::create(&staged.path, &heads).map_err(failed)?;
        for item in items {
            let values = self.values(item).await?;
            writer.write(&values).map_err(failed)?;
            advance();
        }
        writer.finish().map_err(failed)?;
        Ok(staged.publish(self.out, file).await?)
    }

    /// The values of a whole tensor in the type of the export.
    async fn values(&self, item: &Item) -> anyhow::Result<Vec<u8>> {
        let mut values = self.read(&item.name).await?;
        if let Some(factors) = &item.factors {
            let (a, b) = (self.read(&factors.a).await?, self.read(&factors.b).await?);
            let rank = b.len() / (item.shape[0] as usize).max(1);
            add_product(&mut values, &a, &b, rank, factors.scale);
        }
        let too_great = |overflow: Overflow| {
            let failure = Failure::new(ExitCode::Storage, format!("{}: {overflow}", item.name));
            failure.hint("export with --dtype bf16 or fp32")
        };
        Ok(from_f32(&values, self.dtype).map_err(too_great)?)
    }

    async fn read(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        let bytes = self.reader.read_tensor(name, Kind::Parameter).await?;
        let stored = self.reader.manifest().tensor(name, Kind::Parameter);
        // A tensor that is not there has been reported by the read.
        Ok(to_f32(&bytes, stored.map_or(Dtype::F32, |stored| stored.dtype)))
    }
}

impl Files {
    /// The names of the files.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.places.iter().map(|(_, file)| file.as_str()).collect();
        names.dedup();
        names.extend(self.has_extra.then_some(EXTRA));
        names
    }

    /// Writes the index, without which the folder is no model: also for a single file, beside which there may be one that
    /// is not meant for readers of the model.
    pub async fn write_index(&self, out: &Location) -> anyhow::Result<()> {
        let map = self.places.iter().map(|(name, file)| (name.clone(), file.as_str().into()));
        let map: Map<String, Value> = map.collect();
        let index = json!({"metadata": {"total_size": self.bytes}, "weight_map": map});
        Ok(out.put(INDEX, format!("{index:#}\n").into()).await?)
    }
}

/// A local file on its way to its place.
struct Staged {
    path: PathBuf,
    _folder: Option<TempDir>,
}

impl Staged {
    /// In the folder itself where that is local, else in a temporary one.
    fn new(out: &Location, file: &str) -> anyhow::Result<Staged> {
        let failed = |error: std::io::Error| {
            Failure::new(ExitCode::Storage, "cannot make a folder").because(error)
        };
        if let Some(folder) = out.local_path() {
            std::fs::create_dir_all(&folder).map_err(failed)?;
            return Ok(Staged { path: folder.join(partial(file)), _folder: None });
        }
        let folder = tempfile::tempdir().map_err(failed)?;
        Ok(Staged { path: folder.path().join(file), _folder: Some(folder) })
    }

    async fn publish(self, out: &Location, file: &str) -> Result<(), StoreError> {
        match out.local_path() {
            Some(_) => out.rename(&partial(file), file).await.map(drop),
            None => out.put_file(file, Path::new(&self.path)).await,
        }
    }
}

fn partial(file: &str) -> String {
    format!("{file}.partial")
}
