//! The last collectives of a group, for the message of one that fails.

use std::collections::VecDeque;
use std::fmt;
use std::panic::Location;

/// Kinds of collectives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    AllReduce,
    AllGather,
    ReduceScatter,
    Broadcast,
    Barrier,
}

/// One call of a collective.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Its number in the group, from 0; the same on all ranks.
    pub sequence: u64,
    /// What was called.
    pub op: Op,
    /// Bytes of this rank's input.
    pub bytes: usize,
    /// Where in the code.
    pub site: &'static Location<'static>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { sequence, op, bytes, site } = self;
        write!(f, "collective {sequence} ({op:?}, {bytes} bytes, {}:{})", site.file(), site.line())
    }
}

/// A ring of the last calls.
#[derive(Debug, Default)]
pub struct History {
    calls: VecDeque<Call>,
    next: u64,
}

impl History {
    /// Calls that are remembered.
    const LENGTH: usize = 64;

    /// Records a call and numbers it.
    pub fn push(&mut self, op: Op, bytes: usize, site: &'static Location<'static>) -> Call {
        let call = Call { sequence: self.next, op, bytes, site };
        self.next += 1;
        if self.calls.len() == Self::LENGTH {
            self.calls.pop_front();
        }
        self.calls.push_back(call);
        call
    }

    /// The remembered calls, the oldest first.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_last_calls_and_counts_on() {
        let mut history = History::default();
        for bytes in 0..100 {
            history.push(Op::Barrier, bytes, Location::caller());
        }
        let sequences: Vec<u64> = history.calls().map(|call| call.sequence).collect();
        assert_eq!(sequences, (36..100).collect::<Vec<_>>());
    }
}
