//! How two recipes differ.

use serde::Serialize;
use serde_json::Value;

use crate::{Recipe, RecipeError};

/// One value that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Where, as in an override: `stages.base.optimizer.lr`.
    pub path: String,
    /// The value in the first recipe; null where it has none.
    pub left: Value,
    /// The value in the second recipe; null where it has none.
    pub right: Value,
}

/// Every value that differs between two recipes, defaults included. Elements of lists are matched by name.
///
/// # Errors
/// The serializer refuses a recipe.
pub fn diff(a: &Recipe, b: &Recipe) -> Result<Vec<Change>, RecipeError> {
    let mut changes = Vec::new();
    compare("", &a.to_json()?, &b.to_json()?, &mut changes);
    Ok(changes)
}

fn compare(path: &str, left: &Value, right: &Value, changes: &mut Vec<Change>) {
    if left == right {
        return;
    }
    match (children(left), children(right)) {
        (Some(a), Some(b)) => compare_children(path, &a, &b, changes),
        _ => {
            changes.push(Change { path: path.to_owned(), left: left.clone(), right: right.clone() })
        }
    }
}

type Children<'a> = Vec<(String, &'a Value)>;

fn compare_children(path: &str, left: &Children, right: &Children, changes: &mut Vec<Change>) {
    let find = |all: &Children, key: &str| {
        let found = all.iter().find(|(name, _)| name == key);
        found.map_or(Value::Null, |(_, value)| (*value).clone())
    };
    let added = right.iter().filter(|(key, _)| left.iter().all(|(name, _)| name != key));
    for (key, _) in left.iter().chain(added) {
        let dot = if path.is_empty() { "" } else { "." };
        compare(&format!("{path}{dot}{key}"), &find(left, key), &find(right, key), changes);
    }
}

/// What is inside a map or a list, by key; `None` for plain values.
fn children(value: &Value) -> Option<Children<'_>> {
    match value {
        Value::Object(map) => Some(map.iter().map(|(key, value)| (key.clone(), value)).collect()),
        Value::Array(all) => Some(all.iter().enumerate().map(named).collect()),
        _ => None,
    }
}

fn named((index, element): (usize, &Value)) -> (String, &Value) {
    let name = element.get("name").or_else(|| element.get("set"));
    let name = name.and_then(Value::as_str);
    (name.map_or_else(|| index.to_string(), str::to_owned), element)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::tests::example;

    #[test]
    fn equal_recipes_have_no_difference() {
        assert_eq!(diff(&example(), &example()).unwrap(), []);
    }

    #[test]
    fn each_difference_has_its_path() {
        let sets = ["seed=3", "stages.all.length.epochs=2", "data.extra.url=/x"];
        let other = example().with_overrides(&sets.map(str::to_owned)).unwrap();
        let changes = diff(&example(), &other).unwrap();
        let shown: Vec<_> = changes.iter().map(|c| (c.path.as_str(), &c.left, &c.right)).collect();
        assert_eq!(
            shown,
            [
                ("seed", &json!(0), &json!(3)),
                ("data.extra", &Value::Null, &json!({"url": "/x"})),
                ("stages.all.length.steps", &json!(20), &Value::Null),
                ("stages.all.length.epochs", &Value::Null, &json!(2)),
            ]
        );
    }
}
