//! Rows as a pure function of seed, split and index.

use strand_data::{Dtype, Media, Row, WriterOptions};

use super::mix::Kind;
use super::path::{MAX_STEPS, MAX_TURNS, Paths};
use super::questions::{dense, question, texts};
use super::render::render;
use super::scene::{RowKey, Scene};
use super::{Split, SynthOptions};
use crate::ToolsError;
use crate::image::Frame;
use crate::patch::{PatchConfig, PatchEncoder};
use crate::tokenizer;

/// Bounds of the cells along a side: with fewer than 3, left and right are the same; a column is one letter.
const GRID: std::ops::RangeInclusive<usize> = 3..=16;

/// Seed of the encoder: data sets of different seeds have the same features and can be mixed.
const ENCODER_SEED: u64 = 0;

/// Enough for every word of the largest grid.
const MOST_TOKENS: usize = 8192;

/// Makes rows; see the module.
#[derive(Debug)]
pub struct Generator {
    options: SynthOptions,
    grid: usize,
    encoder: PatchEncoder,
    paths: Paths,
}

impl Generator {
    /// Checks the options.
    ///
    /// # Errors
    /// [`ToolsError::Options`] for sizes that cannot work or that leave no fair clip for a kind.
    pub fn new(options: &SynthOptions) -> Result<Generator, ToolsError> {
        let refuse = |reason: String| Err(ToolsError::Options(reason));
        let grid = options.patches.isqrt();
        if grid * grid != options.patches || !GRID.contains(&grid) {
            return refuse(format!(
                "{} patches: a square number from 9 to 256 is needed",
                options.patches
            ));
        }
        let (frames, hold) = (options.frames, options.hold);
        if hold == 0 || frames == 0 || !frames.is_multiple_of(hold) || frames / hold > MAX_STEPS {
            return refuse(format!(
                "{frames} frames held for {hold}: a whole number of steps from 1 to {MAX_STEPS} is needed"
            ));
        }
        if options.train_rows == 0 || options.held_out_rows == 0 {
            return refuse("both data sets need at least one row".to_owned());
        }
        let paths = Paths::new(frames / hold, grid);
        for kind in options.kinds.kinds() {
            if !possible(kind, &paths, frames / hold) {
                return refuse(format!(
                    "{} steps around {grid} cells leave no clip for the kind `{}` whose mean is silent: leave the kind out, or take more frames",
                    frames / hold,
                    kind.name()
                ));
            }
        }
        let encoder = PatchEncoder::new(encoder_config(options, grid))?;
        let options = options.clone();
        Ok(Generator { options, grid, encoder, paths })
    }

    /// Row `index` of a split. Training rows have the question of their kind and a dense one, held-out rows only
    /// the first.
    pub fn row(&self, split: Split, index: u64) -> Row {
        let (scene, kind) = self.scene(split, index);
        let key = self.key(split, index);
        let mut qa = vec![question(&scene, kind, &key)];
        if split == Split::Train {
            qa.push(dense(&scene, kind));
        }
        let id = format!("{}-{index:08}", split.name());
        Row {
            video: format!("synth-{}/{id}", self.options.seed),
            id,
            media: if self.options.frames == 1 { Media::Image } else { Media::Video },
            frames: self.options.frames,
            tokens: self.options.patches,
            features: self.features(&scene).into(),
            seconds: (0..self.options.frames).map(|frame| frame as f32).collect(),
            qa,
        }
    }

    /// The pictures of a row, one for each step.
    pub fn pictures(&self, split: Split, index: u64) -> Vec<Frame> {
        let (scene, _) = self.scene(split, index);
        let steps = 0..self.steps();
        steps.map(|step| render(&scene, step, self.options.size)).collect()
    }

    #[cfg(test)]
    pub(super) fn encoded(&self, picture: &Frame) -> Vec<u8> {
        let mut features = Vec::new();
        self.encoder.encode(picture, &mut features);
        features
    }

    pub(super) fn scene(&self, split: Split, index: u64) -> (Scene, Kind) {
        let (kind, answer) = self.options.kinds.at(self.options.seed, split.name(), index);
        let key = self.key(split, index);
        let scene = Scene::draw(&self.paths, self.grid, &key, kind, answer);
        (scene, kind)
    }

    pub(super) fn tokenizer(&self) -> Result<(Vec<u8>, usize), ToolsError> {
        let texts = texts(self.grid);
        tokenizer::train(texts.iter().map(String::as_str), MOST_TOKENS)
    }

    pub(super) fn writer_options(&self) -> WriterOptions {
        let SynthOptions { patches, feature_size, frames, .. } = self.options;
        let encoder = self.encoder.describe(format!("all:{frames}"));
        WriterOptions {
            rows_per_group: self.options.rows_per_group,
            ..WriterOptions::new(encoder, patches, feature_size, Dtype::F16)
        }
    }

    fn key(&self, split: Split, index: u64) -> RowKey {
        RowKey { seed: self.options.seed, split, index }
    }

    fn steps(&self) -> usize {
        self.options.frames / self.options.hold
    }

    fn features(&self, scene: &Scene) -> Vec<u8> {
        let frame = self.options.patches * self.options.feature_size * Dtype::BYTES;
        let mut features = Vec::with_capacity(self.options.frames * frame);
        let mut held = Vec::with_capacity(frame);
        for step in 0..self.steps() {
            held.clear();
            self.encoder.encode(&render(scene, step, self.options.size), &mut held);
            (0..self.options.hold).for_each(|_| features.extend_from_slice(&held));
        }
        features
    }
}

fn possible(kind: Kind, paths: &Paths, steps: usize) -> bool {
    match kind {
        Kind::Turns => (0..=MAX_TURNS).all(|turns| paths.has(turns)),
        Kind::Direction | Kind::First => steps >= 2,
        _ => true,
    }
}

/// Cells are patches; a patch has as many as 4 × 4 pooled cells, which is enough to tell the shapes.
fn encoder_config(options: &SynthOptions, grid: usize) -> PatchConfig {
    PatchConfig {
        image_size: options.size,
        grid,
        pool: 4,
        dim: options.feature_size,
        seed: ENCODER_SEED,
    }
}
