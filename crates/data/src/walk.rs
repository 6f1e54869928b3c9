//! A shard from its first byte to its last, in pieces that fit into memory.

use std::ops::Range;

use crate::manifest::Group;

/// Largest piece that is no row group, in bytes.
const PIECE: u64 = 16 << 20;

/// The bytes of a file of `size`: each row group in one piece, with its number, and what lies between. The groups are
/// in file order and do not overlap.
pub(crate) fn pieces(size: u64, groups: &[Group]) -> Vec<(Range<u64>, Option<usize>)> {
    let mut pieces = Vec::new();
    let mut at = 0;
    for (index, group) in groups.iter().enumerate() {
        let range = group.range();
        between(at..range.start, &mut pieces);
        at = range.end;
        pieces.push((range, Some(index)));
    }
    between(at..size, &mut pieces);
    pieces
}

fn between(range: Range<u64>, pieces: &mut Vec<(Range<u64>, Option<usize>)>) {
    let starts = range.clone().step_by(PIECE as usize);
    pieces.extend(starts.map(|start| (start..(start + PIECE).min(range.end), None)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Xxh3;

    #[test]
    fn pieces_cover_a_file_once() {
        let group = |offset, bytes| Group {
            rows: 1,
            offset,
            bytes,
            xxh3: Xxh3(0),
            frames: [1, 1],
            text: [0, 0],
        };
        let size = (40 << 20) + 5;
        let found = pieces(size, &[group(4, 10), group(14, 6), group(30, 9)]);
        let mut at = 0;
        for (range, _) in &found {
            assert_eq!(range.start, at);
            assert!(range.end > at && range.end - at <= PIECE);
            at = range.end;
        }
        assert_eq!(at, size);
        let numbers: Vec<usize> = found.iter().filter_map(|(_, group)| *group).collect();
        assert_eq!(numbers, [0, 1, 2]);
    }
}
