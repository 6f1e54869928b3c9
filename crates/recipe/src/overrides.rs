//! `--set a.b=v`: one value of a recipe, by its path.
//!
//! The path is followed through the recipe and its JSON schema side by side: the schema knows which keys exist, which
//! maps are open, and where a map stands for one of several variants (`length.epochs=2` replaces `{steps: 10}`).

use serde_json::{Map, Value};

use crate::load::yaml;
use crate::schema::{Node, node, schema, variant, variant_keys};
use crate::{Recipe, RecipeError, suggest};

/// A reason and a hint.
type Misfit = (String, Option<String>);

/// The recipe with one override applied.
pub(crate) fn apply(recipe: &Recipe, argument: &str) -> Result<Recipe, RecipeError> {
    try_apply(recipe, argument).map_err(|(reason, hint)| RecipeError::Override {
        argument: argument.to_owned(),
        reason,
        hint,
    })
}

fn try_apply(recipe: &Recipe, argument: &str) -> Result<Recipe, Misfit> {
    let (path, text) = split(argument)?;
    let segments: Vec<&str> = path.split('.').collect();
    let mut value = serde_json::to_value(recipe).map_err(|error| (error.to_string(), None))?;
    let root = schema();
    let walk = Walk { root: &root, text };
    walk.set(&mut value, &root, &segments, "")?;
    serde_json::from_value(value).map_err(|error| misfit(&error.to_string()))
}

fn split(argument: &str) -> Result<(&str, &str), Misfit> {
    let example = || Some("write it as key.key=value, e.g. stages.base.length.steps=10".to_owned());
    let (path, text) =
        argument.split_once('=').ok_or_else(|| ("there is no `=`".to_owned(), example()))?;
    if path.split('.').any(|segment| segment.trim().is_empty()) {
        return Err((format!("`{path}` has an empty key"), example()));
    }
    Ok((path, text.trim()))
}

fn misfit(message: &str) -> Misfit {
    let hint = match message.strip_prefix("missing field ") {
        Some(_) => Some("give the whole map at once: key={first: 1, second: 2}".to_owned()),
        None => suggest::hint_from_serde(message),
    };
    (message.to_owned(), hint)
}

struct Walk<'a> {
    root: &'a Value,
    /// The new value as it was typed.
    text: &'a str,
}

impl Walk<'_> {
    /// Sets what `path` names below `value`, whose schema is `at` and whose own path is `place`.
    fn set(&self, value: &mut Value, at: &Value, path: &[&str], place: &str) -> Result<(), Misfit> {
        let node = node(self.root, at);
        let Some((&key, rest)) = path.split_first() else {
            *value = self.parse(matches!(node, Node::Text))?;
            return Ok(());
        };
        let below = format!("{place}{}{key}", if place.is_empty() { "" } else { "." });
        let schema = match node {
            Node::Keys(keys) => {
                keys.get(key).ok_or_else(|| unknown(key, keys.keys().map(String::as_str), place))?
            }
            Node::Map(each) => each,
            Node::Variants(all) => {
                keep_only(value, key);
                variant(all, key).ok_or_else(|| unknown(key, variant_keys(all), place))?
            }
            Node::List(each) => return self.set(element(value, key, place)?, each, rest, &below),
            Node::Text | Node::Scalar => return Err((format!("`{place}` has no keys"), None)),
        };
        self.set(entry(value, key), schema, rest, &below)
    }

    fn parse(&self, is_text: bool) -> Result<Value, Misfit> {
        let parsed: Value =
            yaml(self.text).map_err(|error| (format!("the value is not YAML: {error}"), None))?;
        // A text may look like a number or a truth value.
        let looks_otherwise = parsed.is_number() || parsed.is_boolean();
        if is_text && looks_otherwise {
            return Ok(Value::String(self.text.to_owned()));
        }
        Ok(parsed)
    }
}

fn unknown<'a>(key: &str, known: impl Iterator<Item = &'a str>, place: &str) -> Misfit {
    let reason = match place {
        "" => format!("unknown key `{key}`"),
        _ => format!("unknown key `{key}` in `{place}`"),
    };
    (reason, suggest::hint(key, known))
}

/// The value under `key`, as null where there was none.
fn entry<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    &mut value[key]
}

/// Leaves of a map only what is under `key`: another variant takes the place of the present one.
fn keep_only(value: &mut Value, key: &str) {
    if let Some(map) = value.as_object_mut() {
        map.retain(|name, _| name == key);
    }
}

/// The element of a list that `key` chooses, by name or by index from 0.
fn element<'a>(value: &'a mut Value, key: &str, place: &str) -> Result<&'a mut Value, Misfit> {
    let elements = value.as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
    let names: Vec<String> = elements.iter().filter_map(name_of).map(str::to_owned).collect();
    let by_name = elements.iter().position(|one| name_of(one) == Some(key));
    let index = by_name.or_else(|| key.parse().ok());
    let count = elements.len();
    index.and_then(|index| elements.get_mut(index)).ok_or_else(|| {
        let reason = format!("`{place}` has no element `{key}` ({count} elements)");
        (reason, suggest::hint(key, names.iter().map(String::as_str)))
    })
}

fn name_of(element: &Value) -> Option<&str> {
    let key = ["name", "set"].into_iter().find_map(|key| element.get(key));
    key?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decay, Length, Mask, Start, VideoInput, Warmup, check::tests::example};

    fn set(argument: &str) -> Result<Recipe, RecipeError> {
        apply(&example(), argument)
    }

    fn refused(argument: &str) -> (String, String) {
        let error = set(argument).expect_err("refused");
        (error.to_string(), error.hint().unwrap_or_default())
    }

    #[test]
    fn values_are_set_by_path() {
        assert_eq!(set("seed=7").unwrap().seed, 7);
        assert_eq!(set("model.llama.hidden_size=64").unwrap().model.llama.hidden_size, 64);
        assert_eq!(set("stages.base.optimizer.lr=2e-3").unwrap().stages[0].optimizer.lr, 2e-3);
        assert_eq!(set("stages.1.optimizer.lr=1").unwrap().stages[1].optimizer.lr, 1.0);
        assert_eq!(set("data.train.url=s3://b/x=y").unwrap().data["train"].url, "s3://b/x=y");
        assert_eq!(set("data.extra.url=/x").unwrap().data["extra"].url, "/x");
        assert_eq!(
            set("stages.base.data.train.weight=2").unwrap().stages[0].data[0].weight,
            Some(2.0)
        );
    }

    #[test]
    fn a_text_may_look_like_a_number() {
        assert_eq!(set("name=17").unwrap().name, "17");
        assert_eq!(set("name=true").unwrap().name, "true");
    }

    #[test]
    fn another_variant_takes_the_place_of_the_present_one() {
        let stage = |argument| set(argument).unwrap().stages.remove(1);
        assert_eq!(stage("stages.all.length.epochs=2").length, Length::Epochs(2));
        assert_eq!(stage("stages.all.start=scratch").start, Start::Scratch);
        assert_eq!(stage("stages.all.start.checkpoint=/c").start, Start::Checkpoint("/c".into()));
        assert_eq!(stage("stages.all.mask.constant.rate=0.25").mask, Mask::Constant { rate: 0.25 });
        assert_eq!(stage("stages.all.video.input=mean").video.input, VideoInput::Mean);
        assert_eq!(stage("stages.all.schedule.warmup.steps=3").schedule.warmup, Warmup::Steps(3));
        assert_eq!(stage("stages.all.schedule.decay=linear").schedule.decay, Decay::Linear);
    }

    #[test]
    fn what_was_unset_can_be_set_and_unset() {
        let recipe = set("stages.base.mvm.weight=0.1").unwrap();
        assert_eq!(recipe.stages[0].mvm.map(|mvm| mvm.weight), Some(0.1));
        assert!(recipe.stages[0].mvm.is_some_and(|mvm| mvm.decoder));
        let unset = recipe.with_overrides(&["stages.base.mvm=null".into()]).unwrap();
        assert_eq!(unset.stages[0].mvm, None);
        let batch = set("stages.base.batch={global: 4, micro: 2}").unwrap().stages[0].batch;
        assert_eq!(batch.map(|batch| batch.global), Some(4));
    }

    #[test]
    fn unknown_names_get_a_suggestion() {
        let (reason, hint) = refused("model.llama.hiden_size=1");
        assert!(reason.ends_with("unknown key `hiden_size` in `model.llama`"), "{reason}");
        assert_eq!(hint, "did you mean `hidden_size`?");
        assert_eq!(refused("stages.bse.length.steps=1").1, "did you mean `base`?");
        assert_eq!(refused("stages.base.video.input=al").1, "did you mean `all`?");
        assert_eq!(refused("stages.base.length.step=1").1, "did you mean `steps`?");
        assert_eq!(refused("stages.base.mvm={weigth: 1}").1, "did you mean `weight`?");
    }

    #[test]
    fn other_misfits_say_what_is_wrong() {
        assert!(refused("seed").0.contains("no `=`"));
        assert!(refused("seed=abc").0.contains("expected u64"));
        assert!(refused("seed.x=1").0.contains("`seed` has no keys"));
        assert!(refused("stages.9.name=x").0.contains("no element `9`"));
        assert!(refused("stages.base.batch.micro=1").1.contains("at once"));
        assert!(refused("stages.base.video.frames=-1").0.contains("expected usize"));
        assert!(refused("a..b=1").0.contains("empty key"));
    }
}
