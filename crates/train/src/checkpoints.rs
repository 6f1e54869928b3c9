//! The run's checkpoints: writing them together, and finding where to go on.

use strand_checkpoint::{CheckpointError, Manifest, Part, Reader, State, step_folder};
use strand_comm::Mesh;
use strand_model::VideoLm;
use strand_store::Location;
use tokio::runtime::Handle;

use crate::error::TrainError;
use crate::sharded::Sharded;
use crate::state::pieces;

/// The folder of a run's checkpoints.
pub struct Checkpoints {
    /// `…/checkpoints`.
    pub folder: Location,
    /// The folder of another run's checkpoints, which this one goes on from.
    pub beside: Option<Location>,
    /// How many stay beside the stages' last ones.
    pub keep: usize,
    /// Runs the requests.
    pub handle: Handle,
}

/// Where a stage ended.
pub struct StageEnd {
    /// The run's step.
    pub step: u64,
    /// The checkpoint.
    pub folder: Location,
}

impl Checkpoints {
    /// Writes a checkpoint: each rank its part, then rank 0, after `before_commit`, the manifest, which is the commit.
    /// Returns its folder.
    ///
    /// # Errors
    /// A part cannot be written, or the parts do not make the whole.
    pub fn save(
        &self,
        model: &VideoLm,
        sharded: &Sharded,
        state: &State,
        mesh: &Mesh,
        before_commit: impl FnOnce() -> Result<(), TrainError>,
    ) -> Result<Location, TrainError> {
        let pieces = pieces(model, sharded)?;
        let rank = mesh.world.rank();
        let write = strand_checkpoint::write_part(&self.folder, state, rank, pieces);
        let part = self.handle.block_on(write).inspect_err(|error| self.make_room(error, state))?;
        let parts = mesh.world.all_gather_bytes(&serde_json::to_vec(&part)?)?;
        if rank == 0 {
            let parts = parts.iter().map(|part| serde_json::from_slice::<Part>(part));
            let parts = parts.collect::<Result<Vec<_>, _>>()?;
            before_commit()?;
            self.handle.block_on(strand_checkpoint::commit(&self.folder, state, parts))?;
            self.handle.block_on(strand_checkpoint::prune(&self.folder, self.keep, true))?;
        }
        // Nobody goes on before the commit: a later failure must find it.
        mesh.world.barrier()?;
        Ok(self.at(state.step))
    }

    /// After a full disk: removes what of this checkpoint was written, so that logs and the error still fit.
    fn make_room(&self, error: &CheckpointError, state: &State) {
        if !error.is_no_space() {
            return;
        }
        let discarded = self.handle.block_on(strand_checkpoint::discard(&self.folder, state.step));
        if let Err(error) = discarded {
            tracing::warn!("step {}: the unfinished checkpoint stays: {error}", state.step);
        }
    }

    /// The folder of a step's checkpoint.
    pub fn at(&self, step: u64) -> Location {
        self.folder.join(&step_folder(step))
    }

    /// The last committed checkpoint.
    ///
    /// # Errors
    /// The folder cannot be listed, or a manifest is damaged.
    pub fn latest(&self) -> Result<Option<Manifest>, TrainError> {
        Ok(self.handle.block_on(strand_checkpoint::latest(&self.folder))?)
    }

    /// The last checkpoint of a stage: this run's, else the other run's.
    ///
    /// # Errors
    /// A folder cannot be listed, or a manifest is damaged.
    pub fn end_of_stage(&self, stage: &str) -> Result<Option<StageEnd>, TrainError> {
        for folder in [Some(&self.folder), self.beside.as_ref()].into_iter().flatten() {
            let all = self.handle.block_on(strand_checkpoint::list(folder))?;
            let ends = all.into_iter().filter(|m| m.state.stage_done && m.state.stage == stage);
            if let Some(step) = ends.map(|manifest| manifest.state.step).max() {
                return Ok(Some(StageEnd { step, folder: folder.join(&step_folder(step)) }));
            }
        }
        Ok(None)
    }

    /// Opens a checkpoint.
    ///
    /// # Errors
    /// There is none, or its manifest is damaged.
    pub fn open(&self, folder: &Location) -> Result<Reader, TrainError> {
        Ok(self.handle.block_on(Reader::open(folder))?)
    }
}
