//! Small tokenizers in LLaMA's form, trained from a data set's own text.

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{Tokenizer, Trainer};

use crate::ToolsError;

/// Special tokens: ids 0, 1 and 2.
const SPECIAL: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// A word's beginning.
const SPACE: char = '▁';

/// The words around question and answer in both prompt styles.
const PROMPT: [&str; 5] =
    ["###Human:", "###Assistant:", "<Video>", "</Video>", "</Video> ###Human: <Video>"];

/// The vocabulary's size is brought to a multiple of this, so that any usual tensor-parallel size divides it.
const MULTIPLE: usize = 64;

/// Trains a byte-pair tokenizer and returns its `tokenizer.json` and the size of its vocabulary.
///
/// `<unk>` is 0, `<s>` 1, `</s>` 2, then come the 256 bytes, to which unknown characters fall back, then characters
/// and merged pieces, then unused names up to a multiple of 64. Where `most` leaves room, every word of the text is
/// one token. Pieces never reach across words.
///
/// # Errors
/// [`ToolsError::Tokenizer`] where `most` does not hold the bytes and the alphabet of the text.
pub fn train<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    most: usize,
) -> Result<(Vec<u8>, usize), ToolsError> {
    let reserved = SPECIAL.len() + 256;
    let most = most / MULTIPLE * MULTIPLE;
    let (pieces, merges) = learn(texts, most.saturating_sub(reserved))?;
    let mut vocabulary: Vec<String> = SPECIAL.map(str::to_owned).into();
    vocabulary.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    vocabulary.extend(pieces);
    if vocabulary.len() > most {
        return Err(ToolsError::Tokenizer(format!(
            "a vocabulary of {most} does not hold the {} bytes and characters of the text",
            vocabulary.len()
        )));
    }
    let size = vocabulary.len().next_multiple_of(MULTIPLE);
    let unused = (vocabulary.len()..size).map(|id| format!("<unused_{id}>"));
    let unused: Vec<_> = unused.collect();
    vocabulary.extend(unused);
    let json = document(&vocabulary, &merges).to_string().into_bytes();
    Tokenizer::from_bytes(&json).map_err(failed)?;
    Ok((json, size))
}

/// Characters and merged pieces in the order of their ids, and the merges.
fn learn<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    most: usize,
) -> Result<(Vec<String>, Value), ToolsError> {
    let words =
        |text: &str| Ok(text.split_whitespace().map(|word| format!("{SPACE}{word}")).collect());
    let mut trainer = BpeTrainer::builder().vocab_size(most).show_progress(false).build();
    let texts: Vec<&str> = texts.into_iter().chain(PROMPT).collect();
    trainer.feed(texts.iter(), words).map_err(failed)?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(failed)?;
    let model = serde_json::to_value(&model).map_err(failed)?;
    let mut pieces: Vec<(u64, String)> = model["vocab"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(piece, id)| Some((id.as_u64()?, piece.clone())))
        .collect();
    pieces.sort_unstable();
    let pieces = pieces.into_iter().map(|(_, piece)| piece).collect();
    Ok((pieces, model["merges"].clone()))
}

fn document(vocabulary: &[String], merges: &Value) -> Value {
    let ids: serde_json::Map<String, Value> =
        vocabulary.iter().enumerate().map(|(id, piece)| (piece.clone(), json!(id))).collect();
    let special = |(id, content)| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": SPECIAL.iter().enumerate().map(special).collect::<Vec<_>>(),
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": SPACE },
            { "type": "Replace", "pattern": { "String": " " }, "content": SPACE } ] },
        "pre_tokenizer": null,
        "post_processor": post_processor(),
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": SPACE }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] },
        "model": { "type": "BPE", "dropout": null, "unk_token": SPECIAL[0], "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": ids, "merges": merges },
    })
}

fn post_processor() -> Value {
    let begin = |sentence| json!({ "SpecialToken": { "id": SPECIAL[1], "type_id": sentence } });
    let text = |id, sentence| json!({ "Sequence": { "id": id, "type_id": sentence } });
    json!({
        "type": "TemplateProcessing",
        "single": [begin(0), text("A", 0)],
        "pair": [begin(0), text("A", 0), begin(1), text("B", 1)],
        "special_tokens": { SPECIAL[1]: { "id": SPECIAL[1], "ids": [1], "tokens": [SPECIAL[1]] } },
    })
}

fn failed(error: impl std::fmt::Display) -> ToolsError {
    ToolsError::Tokenizer(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(texts: &[&str], most: usize) -> Tokenizer {
        Tokenizer::from_bytes(train(texts.iter().copied(), most).unwrap().0).unwrap()
    }

    fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        let encoding = tokenizer.encode(text, false).unwrap();
        encoding.get_tokens().to_vec()
    }

    #[test]
    fn every_word_of_the_text_is_one_token() {
        let tokenizer = open(&["the red shape", "moves left, then right"], 4096);
        assert_eq!(tokens(&tokenizer, "red shape left,"), ["▁red", "▁shape", "▁left,"]);
        assert_eq!(
            tokens(&tokenizer, "###Human: the ###Assistant: "),
            ["▁###Human:", "▁the", "▁###Assistant:", "▁"]
        );
        assert_eq!(tokenizer.get_vocab_size(true) % 64, 0);
    }

    #[test]
    fn any_text_survives() {
        let tokenizer = open(&["a b"], 4096);
        for text in ["a b", "Zürich 日本 🎞", "x\ny  z", "</s"] {
            let ids = tokenizer.encode(text, false).unwrap().get_ids().to_vec();
            assert!(!ids.contains(&0), "{text} has an unknown token");
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        }
    }

    #[test]
    fn special_tokens_have_their_ids_and_the_file_is_the_same_each_time() {
        let texts = ["one two three two", "three four"];
        let tokenizer = open(&texts, 4096);
        assert_eq!(SPECIAL.map(|token| tokenizer.token_to_id(token)), [Some(0), Some(1), Some(2)]);
        assert_eq!(train(texts, 4096).unwrap(), train(texts, 4096).unwrap());
    }

    #[test]
    fn the_vocabulary_keeps_its_bound() {
        let long: String = (0..400).map(|word| format!("word{word} ")).collect();
        assert!(open(&[&long], 384).get_vocab_size(true) <= 384);
        assert!(train([long.as_str()], 256).is_err());
    }
}
