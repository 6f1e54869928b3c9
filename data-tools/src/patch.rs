//! The `patch` encoder: average-pooled patches through a fixed random projection.
//!
//! It is the demo's encoder, not a vision model: nothing in it is learned, and it knows nothing but where a patch is
//! and roughly what colours it holds. It exists so that the whole system runs end to end without weights.
//!
//! A frame is brought to `image_size` by area average (the aspect ratio is not kept) and cut into `grid` × `grid`
//! patches. Each is averaged to `pool` × `pool` cells of 3 channels, scaled to −1..1, and projected by random signs
//! (Achlioptas 2003) to `dim` values; the random signs of the patch's place are added. The sum is brought to mean 0
//! and variance 1 and stored as half floats: features that are small or sparse were seen not to train.

use futures::future::BoxFuture;
use half::f16;
use rand::Rng;
use serde::{Deserialize, Serialize};
use strand_data::{Dtype, Encoder, draw};

use crate::ToolsError;
use crate::encoder::{ClipEncoder, Output};
use crate::image::Frame;

/// Settings of a [`PatchEncoder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchConfig {
    /// Height and width in pixels that frames are brought to; a multiple of `grid` × `pool`.
    pub image_size: usize,
    /// Patches along a side; a frame has `grid`² tokens.
    pub grid: usize,
    /// Cells along a side of a patch.
    pub pool: usize,
    /// F, the values of a token.
    pub dim: usize,
    /// Seed of the projection and of the places' codes.
    pub seed: u64,
}

impl Default for PatchConfig {
    /// 16 tokens of 64 values from 32 × 32 pixels.
    fn default() -> Self {
        PatchConfig { image_size: 32, grid: 4, pool: 4, dim: 64, seed: 0 }
    }
}

impl PatchConfig {
    /// K, the tokens of a frame.
    pub fn tokens(&self) -> usize {
        self.grid * self.grid
    }

    fn check(&self) -> Result<(), ToolsError> {
        let PatchConfig { image_size, grid, pool, dim, .. } = *self;
        if !(1..=256).contains(&grid) || !(1..=64).contains(&pool) || !(2..=65_536).contains(&dim) {
            return Err(ToolsError::Options(format!(
                "a grid of {grid}, {pool} cells a patch and {dim} values a token: 1 to 256, 1 to 64 and 2 to 65536 are allowed"
            )));
        }
        if image_size == 0 || image_size > 4096 || !image_size.is_multiple_of(grid * pool) {
            return Err(ToolsError::Options(format!(
                "the image size {image_size} is not a multiple of {grid} patches × {pool} cells, at most 4096"
            )));
        }
        Ok(())
    }
}

/// Turns frames into tokens. The same configuration gives the same bytes on every machine.
#[derive(Clone, Debug)]
pub struct PatchEncoder {
    config: PatchConfig,
    /// `[pool * pool * 3, dim]`, scaled so that projected values keep their variance.
    projection: Vec<f32>,
    /// `[grid * grid, dim]`.
    places: Vec<f32>,
}

impl PatchEncoder {
    /// Draws the projection.
    ///
    /// # Errors
    /// [`ToolsError::Options`] for sizes that do not fit one another.
    pub fn new(config: PatchConfig) -> Result<PatchEncoder, ToolsError> {
        config.check()?;
        let inputs = config.pool * config.pool * 3;
        let scale = 1.0 / (inputs as f32).sqrt();
        let mut projection = signs(config.seed, "patch projection", inputs * config.dim);
        projection.iter_mut().for_each(|sign| *sign *= scale);
        let places = signs(config.seed, "patch places", config.tokens() * config.dim);
        Ok(PatchEncoder { config, projection, places })
    }

    /// The settings.
    pub fn config(&self) -> &PatchConfig {
        &self.config
    }

    /// How the manifest of a data set describes this encoder; `sampling` says how frames were chosen.
    pub fn describe(&self, sampling: String) -> Encoder {
        let config = serde_json::json!({ "patch": 1, "config": self.config }).to_string();
        Encoder {
            kind: "patch".to_owned(),
            hash: format!("{:016x}", strand_store::xxh3(config.as_bytes())),
            config: String::new(),
            // Checked to be at most 4096.
            image_size: self.config.image_size as u32,
            sampling,
            question_conditioned: false,
        }
    }

    /// Appends the tokens of a frame, `[grid * grid, dim]` little-endian half floats, to `features`.
    pub fn encode(&self, frame: &Frame, features: &mut Vec<u8>) {
        let PatchConfig { grid, pool, dim, .. } = self.config;
        // Averaging to `image_size` first would give the same means: its pixels fill the cells exactly.
        let side = grid * pool;
        let cells = frame.area_average(side);
        let mut token = vec![0.0; dim];
        for (patch, place) in self.places.chunks_exact(dim).enumerate() {
            token.copy_from_slice(place);
            let corner = (patch / grid * pool) * side + patch % grid * pool;
            for row in 0..pool {
                let start = (corner + row * side) * 3;
                self.project(row, &cells[start..start + pool * 3], &mut token);
            }
            normalise(&mut token);
            features.extend(token.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()));
        }
    }

    fn project(&self, row: usize, cells: &[f32], token: &mut [f32]) {
        let first = row * cells.len();
        for (input, &value) in cells.iter().enumerate() {
            let at = (first + input) * token.len();
            let signs = &self.projection[at..at + token.len()];
            for (sum, sign) in token.iter_mut().zip(signs) {
                *sum += (2.0 * value - 1.0) * sign;
            }
        }
    }
}

impl ClipEncoder for PatchEncoder {
    fn output(&self) -> Output {
        Output {
            encoder: self.describe(String::new()),
            tokens: self.config.tokens(),
            dim: self.config.dim,
            dtype: Dtype::F16,
            computed: "portable".to_owned(),
        }
    }

    fn prepare(&self, frame: &Frame) -> Vec<u8> {
        let mut tokens = Vec::new();
        PatchEncoder::encode(self, frame, &mut tokens);
        tokens
    }

    fn encode<'a>(
        &'a self,
        _clip: &'a str,
        frames: &'a [Vec<u8>],
        _questions: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Vec<u8>>, ToolsError>> {
        Box::pin(async move { Ok(vec![frames.concat()]) })
    }
}

fn signs(seed: u64, purpose: &str, count: usize) -> Vec<f32> {
    let mut rng = draw(seed, 0, "patch encoder", purpose);
    let sign = |_| if rng.next_u32() & 1 == 0 { -1.0 } else { 1.0 };
    (0..count).map(sign).collect()
}

/// Mean 0, variance 1.
fn normalise(token: &mut [f32]) {
    let count = token.len() as f32;
    let mean = token.iter().sum::<f32>() / count;
    let variance = token.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / count;
    let scale = 1.0 / (variance + 1e-6).sqrt();
    token.iter_mut().for_each(|value| *value = (*value - mean) * scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(config: PatchConfig, frame: &Frame) -> Vec<Vec<f32>> {
        let mut bytes = Vec::new();
        PatchEncoder::encode(&PatchEncoder::new(config).unwrap(), frame, &mut bytes);
        let values: Vec<f32> = bytes
            .chunks_exact(2)
            .map(|value| f16::from_le_bytes([value[0], value[1]]).to_f32())
            .collect();
        values.chunks(config.dim).map(<[f32]>::to_vec).collect()
    }

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>() / a.len() as f32
    }

    #[test]
    fn every_token_has_mean_0_and_variance_1() {
        for frame in [Frame::filled(32, 32, [0; 3]), Frame::filled(640, 360, [200, 10, 90])] {
            let tokens = tokens(PatchConfig::default(), &frame);
            assert_eq!(tokens.len(), 16);
            for token in tokens {
                let mean = token.iter().sum::<f32>() / 64.0;
                assert!(mean.abs() < 1e-2 && (cosine(&token, &token) - 1.0).abs() < 1e-2);
            }
        }
    }

    #[test]
    fn tokens_tell_place_and_content() {
        let dark = Frame::filled(32, 32, [20; 3]);
        let mut red = dark.clone();
        for at in 0..64 {
            red.set(8 + at % 8, at / 8, [255, 0, 0]);
        }
        let (dark, red) =
            (tokens(PatchConfig::default(), &dark), tokens(PatchConfig::default(), &red));
        for patch in (0..16).filter(|&patch| patch != 1) {
            assert_eq!(dark[patch], red[patch]);
        }
        assert!(cosine(&dark[1], &red[1]) < 0.9);
        assert!(cosine(&dark[1], &dark[2]) < 0.9);
    }

    #[test]
    fn the_hash_follows_the_configuration() {
        let hash = |config| PatchEncoder::new(config).unwrap().describe("x".into()).hash;
        let config = PatchConfig::default();
        assert_eq!(hash(config), hash(config));
        assert_ne!(hash(config), hash(PatchConfig { seed: 1, ..config }));
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let config = PatchConfig::default();
        for config in [
            PatchConfig { image_size: 33, ..config },
            PatchConfig { grid: 0, ..config },
            PatchConfig { dim: 1, ..config },
        ] {
            let error = PatchEncoder::new(config).expect_err("refused");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
