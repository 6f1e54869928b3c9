//! From 8-bit pixels to what the vision transformer takes.
//!
//! A frame is brought to `image_size` × `image_size` by bicubic interpolation with antialiasing (Pillow's BICUBIC on 8
//! bits, the whole frame, its aspect ratio not kept) before it comes here; then v ↦ (v · rescale − mean) / std for
//! each channel, in fp32. That is what `BlipImageProcessor` does, and the evaluation transform of LAVIS and ST-LLM.
//! ST-LLM trains on random crops of at least half the frame instead, one crop a clip and visit: features that are
//! stored once hold the whole frame.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::config::Config;
use crate::error::VisionError;
use crate::folder::read_small;

/// CLIP's mean of red, green and blue, from 0 to 1.
const MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];

/// CLIP's standard deviation.
const STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// Pillow's number of the bicubic filter.
const BICUBIC: u32 = 3;

/// How frames are prepared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Preprocess {
    /// Height and width in pixels.
    pub image_size: usize,
    /// Mean of red, green and blue after rescaling.
    pub mean: [f64; 3],
    /// Standard deviation.
    pub std: [f64; 3],
    /// What 8-bit values are multiplied with.
    pub rescale: f64,
}

/// The keys of `preprocessor_config.json` that are looked at.
#[derive(Deserialize)]
#[serde(default)]
struct Document {
    do_resize: bool,
    do_rescale: bool,
    do_normalize: bool,
    do_center_crop: Option<bool>,
    resample: u32,
    size: Option<Size>,
    rescale_factor: f64,
    image_mean: [f64; 3],
    image_std: [f64; 3],
}

impl Default for Document {
    fn default() -> Self {
        Document {
            do_resize: true,
            do_rescale: true,
            do_normalize: true,
            do_center_crop: None,
            resample: BICUBIC,
            size: None,
            rescale_factor: 1.0 / 255.0,
            image_mean: MEAN,
            image_std: STD,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Sides { height: usize, width: usize },
    Side(usize),
}

impl Size {
    fn is_square_of(&self, side: usize) -> bool {
        match *self {
            Size::Sides { height, width } => (height, width) == (side, side),
            Size::Side(given) => given == side,
        }
    }
}

impl Preprocess {
    /// Reads `preprocessor_config.json` where there is one; else values are CLIP's and the size is the model's.
    ///
    /// # Errors
    /// [`VisionError::Read`] and [`VisionError::File`], also for steps that are not those of the module's text.
    pub fn load(folder: &Path, config: &Config) -> Result<Preprocess, VisionError> {
        let path = folder.join("preprocessor_config.json");
        let document: Document = match path.is_file() {
            false => Document::default(),
            true => serde_json::from_slice(&read_small(&path)?).map_err(|error| {
                VisionError::File { path: path.clone(), reason: error.to_string() }
            })?,
        };
        // Checked to be at most 4096.
        let image_size = config.vision.image_size as usize;
        match document.refuse(image_size) {
            Some(reason) => Err(VisionError::File { path, reason }),
            None => Ok(Preprocess {
                image_size,
                mean: document.image_mean,
                std: document.image_std,
                rescale: document.rescale_factor,
            }),
        }
    }

    /// `pixels` `[frames, image_size, image_size, 3]`, 8 bits → `[frames, 3, image_size, image_size]` of `kind` on
    /// `device`.
    ///
    /// # Errors
    /// [`VisionError::Input`] for another number of bytes, [`VisionError::Torch`].
    pub fn normalise(
        &self,
        pixels: &[u8],
        kind: Kind,
        device: Device,
    ) -> Result<Tensor, VisionError> {
        let side = self.image_size;
        let frames = pixels.len() / (side * side * 3);
        if frames == 0 || frames * side * side * 3 != pixels.len() {
            let reason = format!("{} bytes are no frames of {side} × {side} pixels", pixels.len());
            return Err(VisionError::Input(reason));
        }
        let size = [frames as i64, side as i64, side as i64, 3];
        let pixels = Tensor::f_from_data_size(pixels, &size, Kind::Uint8)?.f_to_device(device)?;
        let wide = pixels.f_permute([0, 3, 1, 2])?.f_to_kind(Kind::Float)?;
        let channel = |values: &[f64; 3]| {
            Tensor::f_from_slice(values)?.f_view([1, 3, 1, 1])?.f_to_device(device)
        };
        let mean = channel(&self.mean)?.f_to_kind(Kind::Float)?;
        let std = channel(&self.std)?.f_to_kind(Kind::Float)?;
        let normal = wide.f_mul_scalar(self.rescale)?.f_sub(&mean)?.f_div(&std)?;
        Ok(normal.f_to_kind(kind)?.f_contiguous()?)
    }
}

impl Document {
    /// Why these steps cannot be taken.
    fn refuse(&self, side: usize) -> Option<String> {
        let steps = [self.do_resize, self.do_rescale, self.do_normalize];
        let size = self.size.as_ref().is_none_or(|size| size.is_square_of(side));
        let std = self.image_std.iter().all(|std| *std > 0.0);
        let reason = match (steps == [true; 3], self.do_center_crop, self.resample, size, std) {
            (false, ..) => "do_resize, do_rescale and do_normalize have to be true".to_owned(),
            (_, Some(true), ..) => "do_center_crop is not supported".to_owned(),
            (_, _, resample, ..) if resample != BICUBIC => {
                format!("resample {resample} is not supported: {BICUBIC} (bicubic) is")
            }
            (_, _, _, false, _) => format!("size is not the model's {side} × {side}"),
            (.., false) => "image_std has to be above 0".to_owned(),
            _ => return None,
        };
        Some(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;

    fn load(json: &str) -> Result<Preprocess, VisionError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("preprocessor_config.json"), json).unwrap();
        Preprocess::load(folder.path(), &config(true))
    }

    #[test]
    fn without_a_file_the_values_are_clip_s() {
        let folder = tempfile::tempdir().unwrap();
        let preprocess = Preprocess::load(folder.path(), &config(true)).unwrap();
        assert_eq!(preprocess, load("{}").unwrap());
        assert_eq!((preprocess.image_size, preprocess.mean), (28, MEAN));
    }

    #[test]
    fn the_file_s_values_count() {
        let json = r#"{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1], "resample": 3,
            "size": {"height": 28, "width": 28}, "image_processor_type": "BlipImageProcessor"}"#;
        let preprocess = Preprocess { image_size: 2, ..load(json).unwrap() };
        let pixels = [[0, 51, 255], [255, 0, 0], [0; 3], [0; 3]].concat();
        let normal = preprocess.normalise(&pixels, Kind::Float, Device::Cpu).unwrap();
        assert_eq!(normal.size(), [1, 3, 2, 2]);
        let values = Vec::<f32>::try_from(normal.view(-1)).unwrap();
        let expected = [-2.0, 2.0, -2.0, -2.0, -0.6, -1.0, -1.0, -1.0, 0.5, -0.5, -0.5, -0.5];
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{values:?}");
        }
        assert!(preprocess.normalise(&pixels[1..], Kind::Float, Device::Cpu).is_err());
    }

    #[test]
    fn other_steps_are_refused() {
        for (json, named) in [
            (r#"{"do_resize": false}"#, "do_resize"),
            (r#"{"do_center_crop": true}"#, "do_center_crop"),
            (r#"{"resample": 2}"#, "resample 2"),
            (r#"{"size": {"height": 384, "width": 384}}"#, "28 × 28"),
            (r#"{"size": {"shortest_edge": 28}}"#, "preprocessor_config.json"),
            (r#"{"image_std": [1, 0, 1]}"#, "image_std"),
        ] {
            let error = load(json).expect_err(named);
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
