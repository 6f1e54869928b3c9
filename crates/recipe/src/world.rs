//! How the ranks fill the mesh.

use crate::{Batch, Recipe, RecipeError};

impl Recipe {
    /// Data- and tensor-parallel size (dp, tp) in a world of `world_size` ranks.
    ///
    /// # Errors
    /// dp × tp does not fill the world exactly, or a step has fewer samples than there are data-parallel ranks.
    pub fn world(&self, world_size: usize) -> Result<(usize, usize), RecipeError> {
        let fail = |reason: String, hint: String| RecipeError::World { world_size, reason, hint };
        let tp = self.parallel.tp.max(1);
        let dp = self.parallel.dp.unwrap_or(world_size / tp);
        if dp * tp != world_size || world_size == 0 {
            return Err(fail(
                misfit(self.parallel.dp, tp, world_size),
                way_out(self.parallel.dp, tp),
            ));
        }
        let smallest = self.batches().map(|batch| batch.global).min();
        let smallest = smallest.unwrap_or(self.batch.global);
        if smallest < dp {
            let reason =
                format!("a step of {smallest} samples cannot feed {dp} data-parallel ranks");
            return Err(fail(
                reason,
                format!("set batch.global to {dp} or more, or start fewer ranks"),
            ));
        }
        if let Some(batch) = self.batches().find(|batch| self.loses_bits(*batch, dp)) {
            let reason = format!(
                "parallel.exact_tp needs micro-batches that divide the share of each of {dp} data-parallel ranks of {} samples",
                batch.global
            );
            return Err(fail(reason, "set batch.micro to global ÷ (the greatest dp)".to_owned()));
        }
        Ok((dp, tp))
    }

    /// Whether `dp` ranks would cut the step into other micro-batches than other layouts, where all have to agree.
    pub(crate) fn loses_bits(&self, batch: Batch, dp: usize) -> bool {
        let is_whole = |micro: usize| micro > 0 && batch.global.is_multiple_of(dp * micro);
        self.parallel.exact_tp.is_some() && !batch.micro.is_some_and(is_whole)
    }

    /// Ranks that the recipe asks for; `None` where it leaves dp open.
    pub fn world_size(&self) -> Option<usize> {
        self.parallel.dp.map(|dp| dp * self.parallel.tp.max(1))
    }

    /// Samples of a step of each stage.
    fn batches(&self) -> impl Iterator<Item = Batch> {
        self.stages.iter().map(|stage| stage.batch.unwrap_or(self.batch))
    }
}

fn misfit(dp: Option<usize>, tp: usize, world_size: usize) -> String {
    match dp {
        Some(dp) => format!("dp {dp} × tp {tp} = {} ranks do not fill it", dp * tp),
        None => format!("tp {tp} does not divide {world_size} ranks"),
    }
}

fn way_out(dp: Option<usize>, tp: usize) -> String {
    match dp {
        Some(dp) => format!(
            "start {} ranks (--nproc-per-node), or change parallel.dp or parallel.tp",
            dp * tp
        ),
        None => format!("start a multiple of {tp} ranks (--nproc-per-node), or change parallel.tp"),
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::example;

    #[test]
    fn the_mesh_fills_the_world() {
        let mut recipe = example();
        assert_eq!(recipe.world(4).unwrap(), (4, 1));
        recipe.parallel.tp = 2;
        assert_eq!(recipe.world(4).unwrap(), (2, 2));
        recipe.parallel.dp = Some(1);
        assert_eq!(recipe.world(2).unwrap(), (1, 2));
        assert_eq!(recipe.world_size(), Some(2));
    }

    #[test]
    fn what_does_not_fill_it_says_how_many_would() {
        let mut recipe = example();
        recipe.parallel.tp = 2;
        let error = recipe.world(3).unwrap_err();
        assert_eq!(error.to_string(), "world size 3: tp 2 does not divide 3 ranks");
        recipe.parallel.dp = Some(2);
        let error = recipe.world(2).unwrap_err();
        assert!(error.to_string().contains("dp 2 × tp 2 = 4"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("4 ranks")));
    }

    #[test]
    fn every_data_parallel_rank_gets_a_sample() {
        let mut recipe = example();
        recipe.batch.global = 2;
        let error = recipe.world(4).unwrap_err();
        assert!(error.to_string().contains("cannot feed 4"), "{error}");
    }
}
