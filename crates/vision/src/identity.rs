//! What an encoder is, as one hash: two encoders of one hash give the same features.

use std::collections::BTreeMap;

/// BLAKE3 over everything that has an influence on features. The order in which parts are added does not count.
#[derive(Debug, Default)]
pub struct Identity(BTreeMap<String, blake3::Hash>);

impl Identity {
    /// Adds a tensor as it is stored; `form` tells its type and shape.
    pub fn add_tensor(&mut self, name: &str, form: &str, bytes: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(form.as_bytes()).update(&[0]).update(bytes);
        self.0.insert(format!("tensor {name}"), hasher.finalize());
    }

    /// Adds another part: the configuration, a tokenizer.
    pub fn add(&mut self, name: &str, bytes: &[u8]) {
        self.0.insert(name.to_owned(), blake3::hash(bytes));
    }

    /// The hash of all parts, in hex.
    pub fn finish(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, hash) in &self.0 {
            hasher.update(name.as_bytes()).update(&[0]).update(hash.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts_and_their_order_does_not() {
        let hash = |parts: &[(&str, &str, &[u8])]| {
            let mut identity = Identity::default();
            for (name, form, bytes) in parts {
                identity.add_tensor(name, form, bytes);
            }
            identity.finish()
        };
        let (a, b) = (("a", "F32 [1]", &b"1"[..]), ("b", "F32 [1]", &b"2"[..]));
        assert_eq!(hash(&[a, b]), hash(&[b, a]));
        for other in [("c", "F32 [1]", &b"2"[..]), ("b", "F16 [1]", b"2"), ("b", "F32 [1]", b"3")] {
            assert_ne!(hash(&[a, b]), hash(&[a, other]));
        }
    }
}
