//! Models that learned nothing: folders in Hugging Face's layout with random weights, for tests and timings.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};
use strand_checkpoint::Dtype;
use strand_checkpoint::weights::{FileWriter, Head};

use crate::config::Config;
use crate::error::VisionError;
use crate::weights::tensor_shapes;

/// Values that are drawn at a time.
const PART: usize = 1 << 20;

/// Writes `config.json`, `model.safetensors` (bf16) and, for a question-conditioned model, its tokenizer. The same
/// configuration gives the same bytes. Values are scaled so that hidden states keep their size through all layers.
///
/// # Errors
/// [`VisionError::Read`] names the file that cannot be written.
pub fn write_folder(folder: &Path, config: &Config) -> Result<(), VisionError> {
    let shapes = tensor_shapes(config)?;
    let document = json!({
        "model_type": config.family.as_str(),
        "vision_config": config.vision,
        "qformer_config": config.qformer,
        "num_query_tokens": config.num_query_tokens,
    });
    write(&folder.join("config.json"), |file| write!(file, "{document:#}"))?;
    if config.family.is_question_conditioned() {
        let path = folder.join("qformer_tokenizer/tokenizer.json");
        write(&path, |file| file.write_all(tokenizer().as_bytes()))?;
    }
    let path = folder.join("model.safetensors");
    write_tensors(&path, &shapes).map_err(|source| VisionError::Read { path, source })
}

fn write(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), VisionError> {
    let written = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = BufWriter::new(File::create(path)?);
        content(&mut file)?;
        file.flush()
    };
    written().map_err(|source| VisionError::Read { path: path.to_owned(), source })
}

fn write_tensors(path: &Path, shapes: &[(String, Vec<i64>)]) -> io::Result<()> {
    let head = |(name, shape): &(String, Vec<i64>)| Head {
        name: name.clone(),
        dtype: Dtype::Bf16,
        shape: shape.iter().map(|&size| size as u64).collect(),
    };
    let heads: Vec<Head> = shapes.iter().map(head).collect();
    let mut file = FileWriter::create(path, &heads)?;
    shapes.iter().try_for_each(|(name, shape)| write_values(&mut file, name, shape))?;
    file.finish()
}

fn count(shape: &[i64]) -> usize {
    shape.iter().product::<i64>() as usize
}

/// Uniform values around a centre; a matrix keeps the variance of what it is multiplied with.
fn write_values(file: &mut FileWriter, name: &str, shape: &[i64]) -> io::Result<()> {
    let is_norm = name.to_lowercase().contains("norm");
    let (centre, width) = match (shape.len(), name.ends_with(".weight")) {
        (1, true) if is_norm => (1.0, 0.1),
        (1, _) => (0.0, 0.1),
        (_, true) if !name.contains("_embeddings") => {
            (0.0, (3.0 * shape[0] as f32 / count(shape) as f32).sqrt())
        }
        _ => (0.0, 1.0),
    };
    let mut draws = blake3::Hasher::new().update(name.as_bytes()).finalize_xof();
    let mut bytes = vec![0; 2 * PART];
    let mut left = count(shape);
    while left > 0 {
        let part = &mut bytes[..2 * left.min(PART)];
        draws.fill(part);
        for value in part.chunks_exact_mut(2) {
            let draw = f32::from(u16::from_le_bytes([value[0], value[1]])) / 32767.5 - 1.0;
            // bf16 is the upper half of fp32.
            value.copy_from_slice(&(centre + width * draw).to_le_bytes()[2..]);
        }
        file.write(part)?;
        left -= part.len() / 2;
    }
    Ok(())
}

/// A word-piece tokenizer in BERT's form that knows the characters of ASCII and no words.
pub fn tokenizer() -> String {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let characters: Vec<char> = ('!'..='~').filter(|c| !c.is_ascii_uppercase()).collect();
    let starts = characters.iter().map(char::to_string);
    let others = characters.iter().map(|character| format!("##{character}"));
    let words = special.into_iter().chain(starts).chain(others);
    let vocabulary: Map<String, Value> =
        words.enumerate().map(|(id, word)| (word, json!(id))).collect();
    let special = |id: usize, word| (word, json!({ "id": word, "ids": [id], "tokens": [word] }));
    let special = Map::from_iter(
        [special(2, "[CLS]"), special(3, "[SEP]")].map(|(k, v)| (String::from(k), v)),
    );
    let place = |word| json!({ "SpecialToken": { "id": word, "type_id": 0 } });
    let text = |id, sentence| json!({ "Sequence": { "id": id, "type_id": sentence } });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "TemplateProcessing",
            "single": [place("[CLS]"), text("A", 0), place("[SEP]")],
            "pair": [place("[CLS]"), text("A", 0), place("[SEP]"), text("B", 1), place("[SEP]")],
            "special_tokens": special },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary },
    })
    .to_string()
}
