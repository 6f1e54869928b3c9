//! metrics.jsonl: one object an optimizer step, each step once even across restarts.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::io_error;
use crate::{TelemetryError, jsonl};

/// One optimizer step. A loss or norm that is not finite stands as `null` and reads back as NaN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Steps done in the run, from 1.
    pub step: u64,
    /// The stage.
    pub stage: String,
    /// Language-model loss: mean over the step's label tokens, in nats.
    #[serde(deserialize_with = "number_or_nan")]
    pub lm_loss: f64,
    /// Masked-video-modelling loss, in [0, 4]; null without MVM.
    pub mvm_loss: Option<f64>,
    /// What was minimised: the weighted sum.
    #[serde(deserialize_with = "number_or_nan")]
    pub loss: f64,
    /// Norm of the whole gradient before clipping.
    #[serde(deserialize_with = "number_or_nan")]
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Share of the visual tokens that were dropped.
    pub mask_rate: f64,
    /// Samples of the step over all ranks.
    pub samples: u64,
    /// Tokens of the step over all ranks.
    pub tokens: TokenCounts,
    /// Seconds of the whole step.
    pub step_s: f64,
    /// Seconds of it spent waiting for data.
    pub data_wait_s: f64,
    /// Samples of all ranks a second.
    pub samples_per_s: f64,
    /// Teraflops a second of all ranks, computed from the model's shape.
    pub tflops: Option<f64>,
    /// Share of the devices' peak; null without a known device.
    pub mfu: Option<f64>,
    /// Peak memory of the rank that used most; null where the system does not say.
    pub memory_bytes: Option<u64>,
    /// Damaged samples that the run left out so far, with a `skip_budget`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<u64>,
    /// Whether the step's update was left out: it stands in bad-steps.jsonl.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left_out: bool,
    /// Ids of the step's samples in global order, with `trace: {samples: true}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_ids: Option<Vec<String>>,
}

/// Tokens of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCounts {
    /// Visual tokens that the language model saw.
    pub visual_kept: u64,
    /// Visual tokens before masking.
    pub visual_all: u64,
    /// Text tokens.
    pub text: u64,
}

pub(crate) fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Appends to metrics.jsonl; every line is handed to the operating system at once.
#[derive(Debug)]
pub struct MetricsWriter {
    path: PathBuf,
    file: File,
}

impl MetricsWriter {
    /// Opens the file after dropping what lies after `keep_through_step`, the step that the run
    /// goes on from (0: all). The lines that stay are not touched.
    ///
    /// # Errors
    /// The file cannot be read or written, or a complete line is not a record.
    pub fn open(path: &Path, keep_through_step: u64) -> Result<MetricsWriter, TelemetryError> {
        let kept: String = jsonl::read::<Metrics>(path)?
            .into_iter()
            .filter(|line| line.record.step <= keep_through_step)
            .map(|line| line.text)
            .collect();
        jsonl::replace(path, &kept)?;
        let file = OpenOptions::new().append(true).open(path);
        Ok(MetricsWriter { path: path.to_path_buf(), file: file.map_err(io_error("open", path))? })
    }

    /// Appends one step.
    ///
    /// # Errors
    /// The disk is full or the file is gone.
    pub fn write(&mut self, metrics: &Metrics) -> Result<(), TelemetryError> {
        let line = jsonl::encode(&self.path, metrics)?;
        let written = self.file.write_all(line.as_bytes());
        written.map_err(io_error("write", &self.path))
    }
}

/// Reads all steps; none where there is no file.
///
/// # Errors
/// The file cannot be read, or a complete line is not a record.
pub fn read(path: &Path) -> Result<Vec<Metrics>, TelemetryError> {
    let lines = jsonl::read(path)?;
    Ok(lines.into_iter().map(|line| line.record).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example(step: u64) -> Metrics {
        Metrics {
            step,
            stage: "base".into(),
            lm_loss: 1.0 / step as f64,
            mvm_loss: None,
            loss: 1.0 / step as f64,
            grad_norm: 0.1,
            lr: 2e-3,
            mask_rate: 0.0,
            samples: 32,
            tokens: TokenCounts::default(),
            step_s: 0.05,
            data_wait_s: 0.001,
            samples_per_s: 640.0,
            tflops: Some(0.01),
            mfu: None,
            memory_bytes: Some(1 << 20),
            skipped: None,
            left_out: false,
            sample_ids: None,
        }
    }

    fn steps(path: &Path) -> Vec<u64> {
        read(path).unwrap().iter().map(|line| line.step).collect()
    }

    #[test]
    fn each_step_stands_once_across_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::open(&path, 0).unwrap();
        (1..=5).for_each(|step| writer.write(&example(step)).unwrap());
        let before = std::fs::read_to_string(&path).unwrap();
        let mut writer = MetricsWriter::open(&path, 3).unwrap();
        (4..=6).for_each(|step| writer.write(&example(step)).unwrap());
        assert_eq!(steps(&path), [1, 2, 3, 4, 5, 6]);
        assert!(std::fs::read_to_string(&path).unwrap().starts_with(&before));
    }

    #[test]
    fn a_line_cut_short_by_a_crash_is_dropped_and_a_damaged_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let line = jsonl::encode(&path, &example(1)).unwrap();
        std::fs::write(&path, format!("{line}{}", &line[..20])).unwrap();
        MetricsWriter::open(&path, 9).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), line);
        std::fs::write(&path, format!("{line}{{}}\n{line}")).unwrap();
        let error = MetricsWriter::open(&path, 9).unwrap_err().to_string();
        assert!(error.ends_with("metrics.jsonl:2: not a valid record"), "{error}");
    }

    #[test]
    fn a_loss_that_is_not_finite_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::open(&path, 0).unwrap();
        let bad = Metrics { loss: f64::NAN, ..example(1) };
        writer.write(&bad).unwrap();
        assert!(read(&path).unwrap()[0].loss.is_nan());
    }
}
