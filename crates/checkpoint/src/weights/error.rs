//! What other tools' weights cannot be.

use strand_store::StoreError;

/// Names that an error shows; the others are counted.
const MOST_NAMES: usize = 20;

/// Weights cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder holds no safetensors.
    #[error("{folder}: neither model.safetensors nor model.safetensors.index.json is here")]
    NoWeights {
        /// The folder.
        folder: String,
    },
    /// A file is not what it should be.
    #[error("{url}: {reason}")]
    File {
        /// The file.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor is not there.
    #[error("{url}: tensor `{tensor}` is missing")]
    Missing {
        /// The file that should hold it.
        url: String,
        /// Its name.
        tensor: String,
    },
    /// A folder does not hold the tensors of the model, and no others.
    #[error("{url}: {}", names(missing, unexpected))]
    Names {
        /// The folder.
        url: String,
        /// Tensors of the model that are not there.
        missing: Vec<String>,
        /// Tensors that the model does not have.
        unexpected: Vec<String>,
    },
    /// An adapter's folder does not hold the factors of the model, and no others.
    #[error("{url}: {}", names(missing, unexpected))]
    Adapter {
        /// The file.
        url: String,
        /// Factors that are not there, by their names in the file.
        missing: Vec<String>,
        /// Tensors that are none of them.
        unexpected: Vec<String>,
    },
    /// A tensor of another shape than the model's.
    #[error("{url}: tensor `{tensor}` has shape {found:?}, the model needs {expected:?}")]
    Shape {
        /// The file.
        url: String,
        /// The tensor's name.
        tensor: String,
        /// Its shape.
        found: Vec<u64>,
        /// The shape that is needed.
        expected: Vec<u64>,
    },
    /// A box that is not one of the tensor.
    #[error(
        "{url}: tensor `{tensor}` of shape {shape:?} has no slice at {offset:?} of size {extent:?}"
    )]
    Slice {
        /// The file.
        url: String,
        /// The tensor's name.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// The offset asked for.
        offset: Vec<u64>,
        /// The extent asked for.
        extent: Vec<u64>,
    },
    /// A tensor whose values are no floats.
    #[error("{url}: tensor `{tensor}` is of type {found}, which is not a float")]
    Type {
        /// The file.
        url: String,
        /// The tensor's name.
        tensor: String,
        /// Its type.
        found: String,
    },
}

impl WeightsError {
    /// What to do next, where there is something.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Store(error) => return error.hint(),
            Self::NoWeights { .. } => {
                "name a folder in Hugging Face's layout; weights in .bin files have to be saved as safetensors first"
            }
            Self::Missing { .. } | Self::Shape { .. } => {
                "config.json and the weights belong together: download the folder again"
            }
            Self::Names { .. } => {
                "the folder has to hold a LLaMA, alone or as InstructBLIP's language model: docs/hugging-face.md"
            }
            Self::Adapter { .. } => {
                "the adapter has to be one of this model: of its layers, and of its targets"
            }
            Self::Type { .. } => "save the weights as fp32, fp16 or bf16, not quantised",
            Self::File { .. } | Self::Slice { .. } => return None,
        };
        Some(hint.to_owned())
    }

    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Store(error) => error.exit_code(),
            _ => 5,
        }
    }
}

fn names(missing: &[String], unexpected: &[String]) -> String {
    let lists = [(missing, "missing"), (unexpected, "not known")];
    let lists = lists.iter().filter(|(names, _)| !names.is_empty());
    lists.map(|(names, what)| list(names, what)).collect::<Vec<_>>().join("\n")
}

fn list(names: &[String], what: &str) -> String {
    let tensors = if names.len() == 1 { "tensor is" } else { "tensors are" };
    let mut text = format!("{} {tensors} {what}", names.len());
    for name in names.iter().take(MOST_NAMES) {
        text.push_str("\n  ");
        text.push_str(name);
    }
    if names.len() > MOST_NAMES {
        text.push_str(&format!("\n  and {} more", names.len() - MOST_NAMES));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut_and_counted() {
        let missing: Vec<String> = (0..23).map(|i| format!("layer.{i}")).collect();
        let error = WeightsError::Names { url: "x".into(), missing, unexpected: vec!["y".into()] };
        let text = error.to_string();
        assert!(text.starts_with("x: 23 tensors are missing\n  layer.0\n"), "{text}");
        assert!(text.contains("\n  layer.19\n  and 3 more\n1 tensor is not known\n  y"), "{text}");
    }
}
