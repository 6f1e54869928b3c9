//! One stage: what it refers to, and its ranges.

use crate::check::check_name;
use crate::problem::Findings;
use crate::suggest;
use crate::trained::matches;
use crate::{DynamicMask, HuggingFace, Length, Mask, Optimizer, Recipe, Stage, Start, Warmup};

impl Recipe {
    pub(crate) fn check_stage(&self, index: usize, findings: &mut Findings) {
        let stage = &self.stages[index];
        let place = format!("stages.{}", stage.name);
        check_name(&format!("{place}.name"), &stage.name, findings);
        self.check_start(index, &place, findings);
        self.check_sources(stage, &place, findings);
        self.check_evaluate(stage, &place, findings);
        check_video(stage, &place, findings);
        check_mask(stage, &place, findings);
        check_trained(stage, &place, findings);
        self.check_groups(stage, &place, findings);
        check_optimizer(&stage.optimizer, &format!("{place}.optimizer"), findings);
        check_length(stage, &place, findings);
        if let Some(batch) = stage.batch {
            self.check_batch(&format!("{place}.batch"), batch, findings);
        }
    }

    /// A stage that trains nothing fails when its turn comes; a pattern that names nothing may be a slip.
    pub(crate) fn check_patterns(&self, findings: &mut Findings) {
        let parameters = self.parameters();
        for stage in &self.stages {
            let path = format!("stages.{}.train", stage.name);
            let hint = "patterns match whole names, as in train: [\"proj.*\", \"*.lora_B.weight\"]";
            if !parameters.iter().any(|one| stage.trains(&one.name)) {
                let message = "the patterns name no parameter that the stage uses";
                findings.error(path, message, Some(hint.to_owned()));
                continue;
            }
            for pattern in &stage.train {
                if !parameters.iter().any(|one| matches(pattern, &one.name)) {
                    findings.warning(&path, format!("`{pattern}` names no parameter"), hint);
                }
            }
        }
    }

    /// A group without a parameter is a mistake in its patterns.
    fn check_groups(&self, stage: &Stage, place: &str, findings: &mut Findings) {
        if stage.optimizer.groups.is_empty() || self.model.llama.num_attention_heads == 0 {
            return;
        }
        let names = self.parameters().into_iter().map(|parameter| parameter.name);
        let trained: Vec<String> = names.filter(|name| stage.trains(name)).collect();
        for (index, group) in stage.optimizer.groups.iter().enumerate() {
            let path = format!("{place}.optimizer.groups[{index}]");
            let earlier = &stage.optimizer.groups[..index];
            let is_own = |name: &&String| group.has(name) && !earlier.iter().any(|it| it.has(name));
            if !trained.iter().any(|name| is_own(&name)) {
                let hint =
                    "patterns match whole names, as in names: [\"proj.*\", \"*.lora_B.weight\"]";
                let message = "no parameter that the stage trains is left for this group";
                findings.error(format!("{path}.names"), message, Some(hint.to_owned()));
            }
            let scale = group.lr_scale;
            findings.number(format!("{path}.lr_scale"), scale, "0 or more", |it| it >= 0.0);
            if let Some(decay) = group.weight_decay {
                findings.number(format!("{path}.weight_decay"), decay, "0 or more", |it| it >= 0.0);
            }
        }
    }

    fn check_start(&self, index: usize, place: &str, findings: &mut Findings) {
        let path = format!("{place}.start");
        let name = match &self.stages[index].start {
            Start::Scratch => return,
            Start::Checkpoint(url) if url.trim().is_empty() => {
                return findings.error(path, "must name a checkpoint", None);
            }
            Start::Checkpoint(_) => return,
            Start::HuggingFace(start) => {
                return self.check_hugging_face(start, &format!("{path}.hugging_face"), findings);
            }
            Start::Stage(name) => name,
        };
        let named = |stage: &Stage| stage.name == *name;
        if self.stages[..index].iter().any(named) {
            return;
        }
        let earlier = self.stages[..index].iter().map(|stage| stage.name.as_str());
        let (message, hint) = if self.stages[index..].iter().any(named) {
            let message = format!("stage `{name}` does not run before this one");
            (message, Some("move it up, or start from an earlier stage".to_owned()))
        } else {
            (format!("there is no stage `{name}`"), suggest::hint(name, earlier))
        };
        findings.error(path, message, hint);
    }

    fn check_hugging_face(&self, start: &HuggingFace, path: &str, findings: &mut Findings) {
        if start.llama.trim().is_empty() {
            findings.error(format!("{path}.llama"), "must name a folder or URL", None);
        }
        if start.projector.as_ref().is_some_and(|url| url.trim().is_empty()) {
            let hint = "remove it where the projector starts afresh".to_owned();
            findings.error(format!("{path}.projector"), "must name a folder or file", Some(hint));
        }
        let Some(adapter) = &start.adapter else { return };
        if adapter.trim().is_empty() {
            let hint = "remove it where the factors start afresh".to_owned();
            findings.error(format!("{path}.adapter"), "must name a folder or URL", Some(hint));
        }
        if self.model.lora.as_ref().is_none_or(|lora| lora.rank == 0) {
            let hint = "give model.lora the adapter's rank, alpha and targets".to_owned();
            findings.error(format!("{path}.adapter"), "the model has no `lora`", Some(hint));
        }
    }

    fn check_sources(&self, stage: &Stage, place: &str, findings: &mut Findings) {
        let path = format!("{place}.data");
        if stage.data.is_empty() {
            findings.error(&path, "there must be at least one data set", None);
        }
        let weighted = stage.data.iter().filter(|source| source.weight.is_some()).count();
        if weighted != 0 && weighted != stage.data.len() {
            let hint = "give every set a weight, or none".to_owned();
            findings.error(&path, "some sets have a weight and some have none", Some(hint));
        }
        for (index, source) in stage.data.iter().enumerate() {
            let set = &source.set;
            self.check_set(set, &path, findings);
            if stage.data[..index].iter().any(|earlier| earlier.set == *set) {
                findings.error(&path, format!("the data set `{set}` stands here twice"), None);
            }
            if let Some(weight) = source.weight {
                findings.number(format!("{path}.{set}.weight"), weight, "above 0", |w| w > 0.0);
            }
        }
    }

    fn check_evaluate(&self, stage: &Stage, place: &str, findings: &mut Findings) {
        let path = format!("{place}.evaluate");
        for evaluate in &stage.evaluate {
            self.check_set(&evaluate.set, &path, findings);
            if let Some(limit) = evaluate.limit {
                findings.positive(format!("{path}.{}.limit", evaluate.set), limit);
            }
            let trained = self.stages.iter().flat_map(|stage| &stage.data);
            if trained.into_iter().any(|source| source.set == evaluate.set) {
                let message = format!("`{}` is trained on as well", evaluate.set);
                findings.warning(&path, message, "evaluate on held-out data");
            }
        }
    }

    fn check_set(&self, set: &str, path: &str, findings: &mut Findings) {
        if !self.data.contains_key(set) {
            let hint = suggest::hint(set, self.data.keys().map(String::as_str));
            findings.error(path, format!("there is no data set `{set}` under `data`"), hint);
        }
    }
}

fn check_video(stage: &Stage, place: &str, findings: &mut Findings) {
    if let Some(frames) = stage.video.frames {
        findings.positive(format!("{place}.video.frames"), frames);
    }
    findings.positive(format!("{place}.video.local_frames"), stage.video.local_frames);
}

fn check_mask(stage: &Stage, place: &str, findings: &mut Findings) {
    let path = format!("{place}.mask");
    match &stage.mask {
        Mask::None => {}
        Mask::Constant { rate } => findings.number(
            format!("{path}.constant.rate"),
            *rate,
            "at least 0 and below 1",
            |rate| (0.0..1.0).contains(&rate),
        ),
        Mask::Dynamic(dynamic) => check_dynamic(dynamic, &format!("{path}.dynamic"), findings),
    }
    let Some(mvm) = stage.mvm else { return };
    findings.number(format!("{place}.mvm.weight"), mvm.weight, "0 or more", |w| w >= 0.0);
    if stage.mask == Mask::None {
        let message = "without a mask the student sees all that the teacher sees";
        findings.warning(format!("{place}.mvm"), message, "add a `mask`, or remove `mvm`");
    }
}

fn check_dynamic(mask: &DynamicMask, path: &str, findings: &mut Findings) {
    let is_share = |rate: f64| (0.0..1.0).contains(&rate);
    findings.number(format!("{path}.mean"), mask.mean, "at least 0 and below 1", is_share);
    findings.number(format!("{path}.std"), mask.std, "0 or more", |std| std >= 0.0);
    findings.number(format!("{path}.min"), mask.min, "at least 0 and below 1", is_share);
    findings.number(format!("{path}.max"), mask.max, "at least 0 and below 1", is_share);
    if mask.min > mask.max {
        let message = format!("{} is above max = {}", mask.min, mask.max);
        findings.error(format!("{path}.min"), message, None);
    }
}

fn check_trained(stage: &Stage, place: &str, findings: &mut Findings) {
    let path = format!("{place}.train");
    if stage.train.iter().all(|pattern| pattern.trim().is_empty()) {
        let hint = "write `train: [\"*\"]` to train everything".to_owned();
        findings.error(path, "nothing would be trained", Some(hint));
    }
}

fn check_optimizer(optimizer: &Optimizer, path: &str, findings: &mut Findings) {
    findings.number(format!("{path}.lr"), optimizer.lr, "above 0", |lr| lr > 0.0);
    for beta in optimizer.betas {
        let in_range = |beta| (0.0..1.0).contains(&beta);
        findings.number(format!("{path}.betas"), beta, "at least 0 and below 1", in_range);
    }
    findings.number(format!("{path}.eps"), optimizer.eps, "above 0", |eps| eps > 0.0);
    let decay = optimizer.weight_decay;
    findings.number(format!("{path}.weight_decay"), decay, "0 or more", |decay| decay >= 0.0);
    if let Some(norm) = optimizer.clip_grad_norm {
        findings.number(format!("{path}.clip_grad_norm"), norm, "above 0", |norm| norm > 0.0);
    }
}

fn check_length(stage: &Stage, place: &str, findings: &mut Findings) {
    let (key, count) = match stage.length {
        Length::Steps(steps) => ("steps", steps),
        Length::Epochs(epochs) => ("epochs", epochs),
    };
    findings.positive(format!("{place}.length.{key}"), count as usize);
    let path = format!("{place}.schedule.warmup");
    match (stage.schedule.warmup, stage.length) {
        (Warmup::Share(share), _) => {
            findings.number(format!("{path}.share"), share, "between 0 and 1", |s| {
                (0.0..=1.0).contains(&s)
            });
        }
        (Warmup::Steps(warmup), Length::Steps(steps)) if warmup > steps => {
            let message = format!("{warmup} is more than the stage's {steps} steps");
            findings.error(format!("{path}.steps"), message, None);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::{assert_problem, problems};

    #[test]
    fn a_stage_starts_from_an_earlier_one() {
        assert_problem(
            &["stages.all.start.stage=bas"],
            "stages.all.start: there is no stage `bas` (hint: did you mean `base`?)",
        );
        assert_problem(&["stages.base.start.stage=all"], "does not run before");
        assert_problem(&["stages.all.start.stage=all"], "does not run before");
        assert_problem(&["stages.all.start.checkpoint=''"], "must name a checkpoint");
        let start = |text: &str| format!("stages.all.start={{hugging_face: {text}}}");
        assert_eq!(problems(&[&start("{llama: vicuna-7b}")]), [""; 0]);
        assert_problem(&[&start("{llama: ' '}")], "hugging_face.llama: must name a folder");
        assert_problem(&[&start("{llama: a, projector: ''}")], "hugging_face.projector: must name");
        assert_problem(
            &[&start("{llama: a, adapter: b}")],
            "hugging_face.adapter: the model has no",
        );
        let lora = "model.lora={rank: 2, alpha: 4}";
        assert_eq!(problems(&[lora, &start("{llama: a, adapter: b}")]), [""; 0]);
        assert_problem(&[lora, &start("{llama: a, adapter: ' '}")], "adapter: must name a folder");
    }

    #[test]
    fn patterns_name_parameters() {
        assert_problem(&["stages.all.train=['porj.*']"], "stages.all.train: the patterns name no");
        let half = "stages.all.train=['proj.*', '*.lora_a.weight']";
        assert_problem(&[half], "`*.lora_a.weight` names no parameter");
        // Named, but not used by the stage.
        assert_problem(&["stages.base.train=['mvm_decoder.*']"], "that the stage uses");
    }

    #[test]
    fn sets_must_exist() {
        assert_problem(
            &["stages.base.data=[{set: trian}]"],
            "there is no data set `trian` under `data` (hint: did you mean `train`?)",
        );
        assert_problem(&["stages.base.evaluate=[{set: heldout}]"], "did you mean `held_out`?");
        assert_problem(&["stages.base.data=[]"], "at least one data set");
        assert_problem(&["stages.base.data=[{set: train}, {set: train}]"], "twice");
        assert_problem(&["stages.base.evaluate=[{set: train}]"], "trained on as well");
    }

    #[test]
    fn weights_are_for_all_sets_or_none() {
        let both = "stages.base.data=[{set: train, weight: 1}, {set: held_out}]";
        let quiet = "stages.all.evaluate=[]";
        assert_problem(&[both, quiet], "some sets have a weight");
        assert_problem(
            &["stages.base.data.train.weight=0"],
            "stages.base.data.train.weight: must be above 0",
        );
    }

    #[test]
    fn masks_are_shares() {
        assert_problem(&["stages.all.mask.constant.rate=1"], "below 1");
        assert_problem(&["stages.all.mask.dynamic.min=0.9"], "0.9 is above max = 0.7");
        assert_problem(&["stages.all.mask.dynamic.std=-1"], "0 or more");
        assert_problem(&["stages.all.mask=none"], "without a mask");
        assert_problem(&["stages.all.mvm.weight=-1"], "0 or more");
    }

    #[test]
    fn optimizer_and_length_are_in_range() {
        assert_problem(
            &["stages.base.optimizer.lr=0"],
            "stages.base.optimizer.lr: must be above 0, not 0",
        );
        assert_problem(&["stages.base.optimizer.betas=[0.9, 1]"], "betas");
        assert_problem(&["stages.base.optimizer.clip_grad_norm=0"], "clip_grad_norm");
        assert_problem(&["stages.base.length.steps=0"], "at least 1");
        assert_problem(&["stages.base.schedule.warmup.steps=11"], "more than the stage's 10 steps");
        assert_problem(&["stages.base.schedule.warmup.share=1.5"], "between 0 and 1");
        assert_problem(&["stages.base.train=[]"], "nothing would be trained");
        assert_problem(&["stages.base.video.frames=0"], "at least 1");
        assert_eq!(problems(&["stages.base.batch={global: 1}", "parallel.dp=4"]).len(), 1);
    }
}
