//! Text around the video, as token ids.
//!
//! Every segment is tokenized alone, without special tokens, and the ids are put together: a joined string would
//! give other ids, since each segment gets its own leading space.

use serde::{Deserialize, Serialize};
use tokenizers::Tokenizer;

use crate::{DataError, Qa};

/// Tokens of an answer that are kept, its end symbol included.
const MAX_ANSWER: usize = 256;

/// Prompt template around the video.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptStyle {
    /// `[video] </s> "###Human: {i }{q} ###Assistant: " answer </s>`.
    #[default]
    Instructblip,
    /// `<s> "{i }###Human: <Video>" [video] "</Video> {q} ###Assistant: " answer "###"`.
    Minigpt4,
}

/// The ids of a sample: `before`, then the video, then `after`, then `answer`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Ids before the video, the leading `<s>` of [`PromptStyle::Minigpt4`] included; may be empty.
    pub before: Vec<u32>,
    /// Ids between video and answer.
    pub after: Vec<u32>,
    /// Ids of the answer and its end symbol, at most 256: the labels.
    pub answer: Vec<u32>,
}

/// Builds the ids of prompts and answers.
#[derive(Clone, Debug)]
pub struct Prompter {
    tokenizer: Tokenizer,
    style: PromptStyle,
    /// `<s>` for [`PromptStyle::Minigpt4`], `</s>` for [`PromptStyle::Instructblip`], which ends with it, too.
    bos: u32,
}

impl Prompter {
    /// Reads a Hugging Face `tokenizer.json`.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] where it is not one, or lacks the symbol that the style begins with.
    pub fn open(tokenizer_json: &[u8], style: PromptStyle) -> Result<Prompter, DataError> {
        let mut tokenizer = Tokenizer::from_bytes(tokenizer_json)
            .map_err(|error| DataError::Tokenizer(error.to_string()))?;
        // Settings of whoever saved the file: the only cut here is the answer's.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| DataError::Tokenizer(error.to_string()))?;
        let symbol = match style {
            PromptStyle::Instructblip => "</s>",
            PromptStyle::Minigpt4 => "<s>",
        };
        let missing = || DataError::Tokenizer(format!("the vocabulary has no `{symbol}`"));
        let bos = tokenizer.token_to_id(symbol).ok_or_else(missing)?;
        Ok(Prompter { tokenizer, style, bos })
    }

    /// The ids of a question and its answer.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] where a text cannot be tokenized.
    pub fn encode(&self, qa: &Qa) -> Result<Tokens, DataError> {
        let Qa { instruction, question, answer, .. } = qa;
        let space = if instruction.is_empty() { "" } else { " " };
        let (before, after) = match self.style {
            PromptStyle::Instructblip => {
                let text = format!("###Human: {instruction}{space}{question} ###Assistant: ");
                (Vec::new(), self.with_bos(&text)?)
            }
            PromptStyle::Minigpt4 => {
                let before = format!("{instruction}{space}###Human: <Video>");
                (self.with_bos(&before)?, self.ids(&format!("</Video> {question} ###Assistant: "))?)
            }
        };
        Ok(Tokens { before, after, answer: self.answer(answer)? })
    }

    /// The ids of an answer or an option, with the end symbol; the first 256 of them.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] where the text cannot be tokenized.
    pub fn answer(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut ids = match self.style {
            PromptStyle::Instructblip => {
                let mut ids = self.ids(text)?;
                ids.push(self.bos);
                ids
            }
            PromptStyle::Minigpt4 => self.ids(&format!("{text}###"))?,
        };
        ids.truncate(MAX_ANSWER);
        Ok(ids)
    }

    /// One more than the greatest id: every id is below it.
    pub fn vocab_size(&self) -> usize {
        let greatest = self.tokenizer.get_vocab(true).into_values().max();
        greatest.map_or(0, |id| id as usize + 1)
    }

    fn with_bos(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut ids = vec![self.bos];
        ids.extend(self.ids(text)?);
        Ok(ids)
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let encoding = self.tokenizer.encode(text, false);
        Ok(encoding.map_err(|error| DataError::Tokenizer(error.to_string()))?.get_ids().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[derive(Deserialize)]
    struct Case {
        instruction: String,
        question: String,
        answer: String,
        instructblip: Ids,
        minigpt4: Ids,
    }

    #[derive(Deserialize)]
    struct Ids {
        #[serde(default)]
        lead_bos: bool,
        before: Vec<u32>,
        after: Vec<u32>,
        answer: Vec<u32>,
    }

    fn golden() -> Option<PathBuf> {
        let copy = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
        let folder =
            std::env::var_os("STRAND_GOLDEN").map_or_else(copy, PathBuf::from).join("prompts");
        if !folder.exists() {
            eprintln!("not checked: {} is not there; set STRAND_GOLDEN", folder.display());
            return None;
        }
        Some(folder)
    }

    #[test]
    fn golden_prompts() {
        let Some(folder) = golden() else { return };
        let tokenizer = std::fs::read(folder.join("tokenizer.json")).expect("the tokenizer");
        let cases = std::fs::read(folder.join("prompts.json")).expect("the cases");
        let cases: Vec<Case> = serde_json::from_slice(&cases).expect("cases");
        assert!(!cases.is_empty());
        for style in [PromptStyle::Instructblip, PromptStyle::Minigpt4] {
            let prompter = Prompter::open(&tokenizer, style).expect("opens");
            assert_eq!(prompter.vocab_size(), 640);
            for case in &cases {
                let Case { instruction, question, answer, instructblip, minigpt4 } = case;
                let expected = if style == PromptStyle::Minigpt4 { minigpt4 } else { instructblip };
                let qa = Qa {
                    instruction: instruction.clone(),
                    question: question.clone(),
                    answer: answer.clone(),
                    ..Qa::default()
                };
                let tokens = prompter.encode(&qa).expect("encodes");
                let lead: &[u32] = if expected.lead_bos { &[1] } else { &[] };
                assert_eq!(tokens.before, [lead, &expected.before].concat(), "{question} before");
                assert_eq!(tokens.after, expected.after, "{question} after");
                assert_eq!(tokens.answer, expected.answer, "{question} answer");
            }
        }
    }

    const TINY: &str = r####"{"version":"1.0","truncation":{"direction":"Right","max_length":2,"strategy":"LongestFirst","stride":0},
        "padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,
        "decoder":null,"model":{"type":"WordLevel","vocab":{"</s>":0,"a":1,"?":7,"<s>":2},"unk_token":"?"}}"####;

    #[test]
    fn long_answers_lose_their_end() {
        let prompter = Prompter::open(TINY.as_bytes(), PromptStyle::Instructblip).expect("opens");
        assert_eq!(prompter.vocab_size(), 8);
        assert_eq!(prompter.answer("a a").expect("encodes"), [1, 1, 0]);
        assert_eq!(prompter.answer("").expect("encodes"), [0]);
        assert_eq!(prompter.answer(&"a ".repeat(255)).expect("encodes").last(), Some(&0));
        assert_eq!(prompter.answer(&"a ".repeat(256)).expect("encodes"), [1; 256]);
    }

    #[test]
    fn a_tokenizer_without_the_symbol_is_refused() {
        let json = TINY.replace("\"<s>\":2", "\"s\":2");
        let error = Prompter::open(json.as_bytes(), PromptStyle::Minigpt4).expect_err("refused");
        assert!(error.to_string().contains("`<s>`"), "{error}");
        assert!(Prompter::open(b"{}", PromptStyle::Minigpt4).is_err());
    }
}
