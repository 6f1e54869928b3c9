//! The JSON schema of a recipe, for editors and for the paths of overrides.

use serde_json::{Map, Value};

use crate::Recipe;

/// JSON schema of a recipe file (draft 2020-12).
pub fn schema() -> Value {
    schemars::schema_for!(Recipe).to_value()
}

/// What may stand at one place of a recipe.
pub(crate) enum Node<'a> {
    /// A map with these keys and no others.
    Keys(&'a Map<String, Value>),
    /// A map with any keys and such values.
    Map(&'a Value),
    /// A list of such elements.
    List(&'a Value),
    /// One of several: plain words, or a map with one key.
    Variants(&'a [Value]),
    /// A text.
    Text,
    /// A number or truth value.
    Scalar,
}

/// Reads the schema at `at`, following references of `root`.
pub(crate) fn node<'a>(root: &'a Value, at: &'a Value) -> Node<'a> {
    let at = resolve(root, at);
    if let Some(keys) = at.get("properties").and_then(Value::as_object) {
        return Node::Keys(keys);
    }
    if let Some(variants) = at.get("oneOf").and_then(Value::as_array) {
        return Node::Variants(variants);
    }
    if let Some(element) = at.get("items") {
        return Node::List(element);
    }
    match at.get("additionalProperties") {
        Some(value) if value.is_object() => Node::Map(value),
        _ if is_text(at) => Node::Text,
        _ => Node::Scalar,
    }
}

/// The schema of the key `key` of one of `variants`.
pub(crate) fn variant<'a>(variants: &'a [Value], key: &str) -> Option<&'a Value> {
    variants.iter().find_map(|variant| variant.get("properties")?.get(key))
}

/// The keys of the variants that are maps.
pub(crate) fn variant_keys(variants: &[Value]) -> impl Iterator<Item = &str> {
    variants
        .iter()
        .filter_map(|variant| variant.get("properties")?.as_object())
        .flat_map(|keys| keys.keys().map(String::as_str))
}

fn resolve<'a>(root: &'a Value, at: &'a Value) -> &'a Value {
    if let Some(name) = at.get("$ref").and_then(Value::as_str) {
        let found = name.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return found.map_or(at, |found| resolve(root, found));
    }
    let options = at.get("anyOf").and_then(Value::as_array);
    let real = options.and_then(|all| all.iter().find(|one| !is_null(one)));
    real.map_or(at, |found| resolve(root, found))
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null")
}

fn is_text(schema: &Value) -> bool {
    match schema.get("type") {
        Some(Value::String(name)) => name == "string",
        Some(Value::Array(names)) => names.iter().any(|name| name == "string"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Editors read the file; it must say what the program does.
    #[test]
    fn the_schema_file_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/schema.json");
        let file = std::fs::read_to_string(path).unwrap();
        let current = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        assert!(
            file == current,
            "recipes/schema.json is old: run `strand recipe schema > recipes/schema.json`"
        );
    }
}
