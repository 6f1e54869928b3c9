//! The question as ids of the Q-Former's own vocabulary, which is BERT's and not the language model's.

use std::path::{Path, PathBuf};

use tokenizers::{Tokenizer, TruncationDirection, TruncationParams};

use crate::config::QFormerConfig;
use crate::error::VisionError;
use crate::folder::read_small;

/// Longer questions lose their beginning, as in ST-LLM. `[CLS]` and `[SEP]` count.
const MOST_TOKENS: usize = 256;

/// The tokenizer of a question-conditioned Q-Former.
#[derive(Debug)]
pub struct QuestionTokenizer {
    tokenizer: Tokenizer,
    /// The file, for the encoder's identity.
    pub(crate) bytes: Vec<u8>,
}

impl QuestionTokenizer {
    /// Reads `qformer_tokenizer/tokenizer.json`, where InstructBLIP's processor keeps it, else `tokenizer.json`.
    ///
    /// # Errors
    /// [`VisionError::NoTokenizer`] where there is neither, [`VisionError::Read`], and [`VisionError::File`] for a
    /// file that is none or knows more words than the Q-Former.
    pub fn load(folder: &Path, sizes: &QFormerConfig) -> Result<QuestionTokenizer, VisionError> {
        let names = ["qformer_tokenizer/tokenizer.json", "tokenizer.json"];
        let path = names.map(|name| folder.join(name)).into_iter().find(|path| path.is_file());
        let path = path.ok_or_else(|| VisionError::NoTokenizer { folder: folder.to_owned() })?;
        QuestionTokenizer::open(path, sizes)
    }

    fn open(path: PathBuf, sizes: &QFormerConfig) -> Result<QuestionTokenizer, VisionError> {
        let bytes = read_small(&path)?;
        let bad = |reason: String| VisionError::File { path: path.clone(), reason };
        let mut tokenizer =
            Tokenizer::from_bytes(&bytes).map_err(|error| bad(format!("no tokenizer: {error}")))?;
        let words = tokenizer.get_vocab_size(true) as i64;
        if words > sizes.vocab_size {
            return Err(bad(format!(
                "{words} entries, but qformer_config.vocab_size is {}: it is another model's",
                sizes.vocab_size
            )));
        }
        // Checked to be at most 2^20.
        let max_length = MOST_TOKENS.min(sizes.max_position_embeddings as usize);
        let truncation = TruncationParams {
            direction: TruncationDirection::Left,
            max_length,
            ..TruncationParams::default()
        };
        tokenizer.with_padding(None);
        tokenizer.with_truncation(Some(truncation)).map_err(|error| bad(error.to_string()))?;
        Ok(QuestionTokenizer { tokenizer, bytes })
    }

    /// The ids of a question with its instruction in front (`{i }{q}`), `[CLS]` and `[SEP]` included.
    ///
    /// # Errors
    /// [`VisionError::Question`].
    pub fn ids(&self, text: &str) -> Result<Vec<i64>, VisionError> {
        let bad = |reason: String| VisionError::Question { text: text.to_owned(), reason };
        let encoding = self.tokenizer.encode(text, true).map_err(|error| bad(error.to_string()))?;
        let ids: Vec<i64> = encoding.get_ids().iter().map(|&id| i64::from(id)).collect();
        match ids.is_empty() {
            true => Err(bad("it has no token".to_owned())),
            false => Ok(ids),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::tokenizer;
    use crate::testing::config;

    fn folder(name: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, tokenizer()).unwrap();
        folder
    }

    #[test]
    fn either_place_is_found() {
        for name in ["qformer_tokenizer/tokenizer.json", "tokenizer.json"] {
            let folder = folder(name);
            let tokenizer = QuestionTokenizer::load(folder.path(), &config(true).qformer).unwrap();
            // [CLS] a ##b ? [SEP]
            let id = |word: &str| i64::from(tokenizer.tokenizer.token_to_id(word).unwrap());
            let ids = [2, id("a"), id("##b"), id("?"), 3];
            assert_eq!(tokenizer.ids("Ab ?").unwrap(), ids);
            assert_eq!(tokenizer.ids("").unwrap(), [2, 3]);
        }
        let empty = tempfile::tempdir().unwrap();
        let error = QuestionTokenizer::load(empty.path(), &config(true).qformer);
        assert!(matches!(error, Err(VisionError::NoTokenizer { .. })));
    }

    #[test]
    fn long_questions_lose_their_beginning() {
        let folder = folder("tokenizer.json");
        let sizes = QFormerConfig { max_position_embeddings: 512, ..config(true).qformer };
        let tokenizer = QuestionTokenizer::load(folder.path(), &sizes).unwrap();
        let (a, b) = (tokenizer.ids("a").unwrap()[1], tokenizer.ids("b").unwrap()[1]);
        let ids = tokenizer.ids(&format!("{} b", "a ".repeat(300))).unwrap();
        assert_eq!(ids.len(), 256);
        assert_eq!((ids[0], ids[1], ids[254], ids[255]), (2, a, b, 3));
        let short = QFormerConfig { max_position_embeddings: 40, ..sizes };
        let tokenizer = QuestionTokenizer::load(folder.path(), &short).unwrap();
        assert_eq!(tokenizer.ids(&"a ".repeat(300)).unwrap().len(), 40);
    }

    #[test]
    fn a_tokenizer_of_another_model_is_refused() {
        let folder = folder("tokenizer.json");
        let sizes = QFormerConfig { vocab_size: 9, ..config(true).qformer };
        let error = QuestionTokenizer::load(folder.path(), &sizes).expect_err("too many words");
        assert!(error.to_string().contains("another model's"), "{error}");
    }
}
