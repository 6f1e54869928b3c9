//! Models and videos that need no download.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use strand_vision::{Config, Family, QFormerConfig, VisionConfig};

/// The `patch` encoder as the manifests of test data name it.
pub fn patch() -> strand_data::Encoder {
    strand_data::Encoder {
        kind: "patch".into(),
        hash: "0".into(),
        config: String::new(),
        image_size: 32,
        sampling: "middle:4".into(),
        question_conditioned: false,
    }
}

/// An EVA ViT-g and Q-Former of the real shapes.
pub fn real(family: Family) -> Config {
    let (vision, qformer) = (VisionConfig::default(), QFormerConfig::default());
    Config { family, vision, qformer, num_query_tokens: 32 }
}

/// A model of the same make that fits into a file of 300 kB.
pub fn tiny(family: Family) -> Config {
    let vision = VisionConfig {
        hidden_size: 48,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        image_size: 56,
        ..VisionConfig::default()
    };
    let qformer = QFormerConfig {
        vocab_size: 200,
        hidden_size: 32,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        intermediate_size: 64,
        max_position_embeddings: 64,
        ..QFormerConfig::default()
    };
    Config { family, vision, qformer, num_query_tokens: 4 }
}

/// The ffmpeg that `strand data` would take; `None` where there is none.
pub fn ffmpeg() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let linked = cache.or_else(home).map(|cache| cache.join("strand/bin/ffmpeg"));
    let named = std::env::var_os("STRAND_FFMPEG").map(PathBuf::from);
    let places = match named {
        Some(named) => vec![named],
        None => [Some(PathBuf::from("ffmpeg")), linked].into_iter().flatten().collect(),
    };
    places.into_iter().find(|program| {
        let mut command = Command::new(program);
        command.arg("-version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

/// Has ffmpeg make two seconds of `source`, one of its `lavfi` pictures.
///
/// # Errors
/// ffmpeg fails.
pub fn make_video(ffmpeg: &Path, source: &str, path: &Path) -> Result<()> {
    let mut command = Command::new(ffmpeg);
    command.args(["-v", "error", "-f", "lavfi", "-i", source, "-t", "2", "-c:v", "mpeg4"]);
    let output = command.args(["-q:v", "2"]).arg(path).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    path.is_file().then_some(()).with_context(|| path.display().to_string())
}
