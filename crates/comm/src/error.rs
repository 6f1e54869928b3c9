//! What a failed collective says.

use std::panic::Location;

use crate::backend::BackendError;
use crate::history::{Call, Op};

/// A collective failed, or a group or mesh could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommError {
    /// A collective failed on this rank.
    #[error("{call} in group {group} on its rank {rank} of {size}{}", missing_text(.missing))]
    Collective {
        /// The group's name.
        group: String,
        /// This rank in the group.
        rank: usize,
        /// Ranks of the group.
        size: usize,
        /// What was called.
        call: Call,
        /// Ranks of the group that have not come to this call.
        missing: Vec<usize>,
        /// The backend's reason.
        #[source]
        source: Box<BackendError>,
    },
    /// A collective was called with tensors that do not fit; nothing was started.
    #[error("{op:?} in group {group} at {}:{}: {problem}", site.file(), site.line())]
    Argument {
        /// The group's name.
        group: String,
        /// What was called.
        op: Op,
        /// Where in the code.
        site: &'static Location<'static>,
        /// What does not fit.
        problem: String,
    },
    /// A group could not be joined.
    #[error("joining group {group} as rank {rank} of {size}")]
    Join {
        /// The group's name.
        group: String,
        /// This rank in the group.
        rank: usize,
        /// Ranks of the group.
        size: usize,
        /// The backend's reason.
        #[source]
        source: Box<BackendError>,
    },
    /// The mesh does not fill the world.
    #[error("a mesh of dp {dp} × tp {tp} has {} ranks, but the world has {world}", dp * tp)]
    Mesh {
        /// Data-parallel size.
        dp: usize,
        /// Tensor-parallel size.
        tp: usize,
        /// World size.
        world: usize,
    },
    /// A tensor operation around a collective failed.
    #[error("preparing a collective")]
    Tensor(#[from] tch::TchError),
}

impl CommError {
    /// What to look at next.
    pub fn hint(&self) -> Option<String> {
        match self {
            CommError::Collective { missing, .. } if !missing.is_empty() => Some(format!(
                "look at the logs of the group's ranks {missing:?}: they did not come to this call"
            )),
            CommError::Collective { .. } => {
                Some("another rank has most likely failed first: its log names the cause".into())
            }
            CommError::Join { source, .. } => Some(source.join_hint().into()),
            CommError::Mesh { .. } => Some(
                "set parallel.dp and parallel.tp so that their product is the world size".into(),
            ),
            CommError::Argument { .. } | CommError::Tensor(_) => None,
        }
    }
}

fn missing_text(missing: &[usize]) -> String {
    if missing.is_empty() { String::new() } else { format!(": missing ranks {missing:?}") }
}
