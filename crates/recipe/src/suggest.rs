//! Did you mean …?

/// The word of `known` that `unknown` was probably meant to be; `None` where nothing comes close.
pub fn closest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = plain(unknown);
    let limit = (wanted.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|word| (distance(&wanted, &plain(word)), word))
        .filter(|&(distance, _)| distance <= limit)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, word)| word)
}

/// "did you mean `x`?", else the words there are.
pub(crate) fn hint<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(word) = closest(unknown, known.iter().copied()) {
        return Some(format!("did you mean `{word}`?"));
    }
    (!known.is_empty()).then(|| format!("known here: {}", known.join(", ")))
}

/// The hint for serde's own words: "unknown field `x`, expected one of `a`, `b`".
pub(crate) fn hint_from_serde(message: &str) -> Option<String> {
    let unknown =
        ["unknown field", "unknown variant"].iter().any(|start| message.starts_with(start));
    let mut quoted = message.split('`').skip(1).step_by(2);
    let word = quoted.next().filter(|_| unknown)?;
    hint(word, quoted)
}

fn distance(left: &str, right: &str) -> usize {
    // A word and its beginning are close whatever their lengths: `dim` and `dimension`.
    let (short, long) = if left.len() < right.len() { (left, right) } else { (right, left) };
    if short.len() >= 3 && long.starts_with(short) {
        return 1;
    }
    strsim::damerau_levenshtein(left, right)
}

fn plain(word: &str) -> String {
    word.to_lowercase().replace(['-', ' '], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word() {
        let known = ["hidden_size", "vocab_size", "num_hidden_layers"];
        assert_eq!(closest("hiden_size", known), Some("hidden_size"));
        assert_eq!(closest("Hidden-Size", known), Some("hidden_size"));
        assert_eq!(closest("hidden", known), Some("hidden_size"));
        assert_eq!(closest("quantum", known), None);
    }

    #[test]
    fn serde_messages_are_understood() {
        let message =
            "unknown variant `al`, expected one of `all`, `mean`, `global_local` at line 1";
        assert_eq!(hint_from_serde(message).as_deref(), Some("did you mean `all`?"));
        assert_eq!(hint_from_serde("invalid type: string `x`"), None);
    }
}
