//! What goes wrong, and how often.

use std::time::Duration;

/// What befalls a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with 500 or 503, in turn.
    Error,
    /// The body ends in the middle, and the connection with it.
    Cut,
    /// The connection is reset before an answer.
    Reset,
    /// Nothing is sent, and the connection stays open.
    Stall,
    /// It is refused because the credentials have expired.
    Expired,
}

/// How slow a server is, and how faulty.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Time before the first byte of an answer.
    pub latency: Duration,
    /// Bytes a second of each answer; as fast as it goes where not given.
    pub bytes_per_s: Option<u64>,
    /// Shares of the requests that meet a fault, between 0 and 1 together.
    pub shares: Vec<(Fault, f64)>,
    /// Objects whose name ends so meet no fault.
    pub spared: Option<String>,
    /// Other seeds choose other requests.
    pub seed: u64,
}

impl Faults {
    /// What befalls the request of this number, for this path.
    pub fn of(&self, number: u64, path: &str) -> Option<Fault> {
        if self.spared.as_ref().is_some_and(|end| path.ends_with(end)) {
            return None;
        }
        let mut at = uniform(self.seed, number);
        for &(fault, share) in &self.shares {
            if at < share {
                return Some(fault);
            }
            at -= share;
        }
        None
    }
}

/// A number in [0, 1) that belongs to (seed, number): splitmix64.
fn uniform(seed: u64, number: u64) -> f64 {
    let mut state = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((state ^ (state >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept() {
        let shares = vec![(Fault::Error, 0.05), (Fault::Cut, 0.02)];
        let faults = Faults { shares, seed: 3, ..Faults::default() };
        let met: Vec<_> = (0..100_000).filter_map(|number| faults.of(number, "x")).collect();
        let errors = met.iter().filter(|&&fault| fault == Fault::Error).count();
        assert!((4_700..5_300).contains(&errors), "{errors}");
        assert!((6_700..7_300).contains(&met.len()), "{}", met.len());
        assert_eq!(Faults::default().of(1, "x"), None);
        let spared = Some("manifest.json".to_owned());
        let faults = Faults { shares: vec![(Fault::Error, 1.0)], spared, ..Faults::default() };
        assert_eq!(faults.of(1, "a/manifest.json"), None);
        assert_eq!(faults.of(1, "a/shard"), Some(Fault::Error));
    }
}
