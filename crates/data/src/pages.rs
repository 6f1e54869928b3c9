//! The pages of a column chunk, walked before the parquet library sees them.
//!
//! Only what shards use is let through: data pages of version 1, at most one dictionary, sizes within the chunk's
//! own. So no page can claim memory that its bytes do not pay for. The same walk finds the damaged row of a damaged
//! row group, whose bytes the library should not be given at all.

use std::ops::Range;

use parquet::basic::Encoding;

/// Deepest nesting of a page header that is skipped over.
const MAX_DEPTH: usize = 8;
/// The number of the encoding RLE, which levels have.
const RLE: i64 = 3;

/// Bytes that hold the header of any page of a shard, where they hold no statistics.
pub(crate) const HEADER_BYTES: usize = 128;

/// What a page's header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// True for the dictionary, false for data.
    pub dictionary: bool,
    /// How its values are stored.
    pub encoding: Encoding,
    /// Values of the page.
    pub values: u64,
    /// Size of the body once it is decompressed, in bytes.
    pub uncompressed: u64,
    /// Bytes of the body.
    pub compressed: u64,
}

/// A page of a column chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub head: Head,
    /// The body's bytes within the chunk.
    pub body: Range<usize>,
}

/// The pages of a chunk, or why they cannot be a shard's.
pub(crate) fn pages(chunk: &[u8]) -> Result<Vec<Page>, String> {
    let mut pages = Vec::new();
    let mut start = 0;
    while start < chunk.len() {
        let (page, end) =
            page(chunk, start).ok_or_else(|| format!("page {} is not readable", pages.len()))?;
        if page.head.dictionary && !pages.is_empty() {
            return Err("a dictionary behind data".to_owned());
        }
        pages.push(page);
        start = end;
    }
    Ok(pages)
}

/// The values of a plain chunk without levels: `size` bytes each, or with a length of 4 bytes in front where `size`
/// is not given. `None` where the bytes are not such a chunk.
pub(crate) fn plain_values(chunk: &[u8], size: Option<usize>) -> Option<Vec<&[u8]>> {
    let mut values = Vec::new();
    for page in pages(chunk).ok()? {
        let mut body = chunk.get(page.body)?;
        for _ in 0..page.head.values {
            let length = match size {
                Some(size) => size,
                None => u32::from_le_bytes(*body.split_off(..4)?.first_chunk()?) as usize,
            };
            values.push(body.split_off(..length)?);
        }
    }
    Some(values)
}

/// The page at `start` and where it ends.
fn page(chunk: &[u8], start: usize) -> Option<(Page, usize)> {
    let (head, length) = head(chunk.get(start..)?)?;
    let begin = start + length;
    let end = begin.checked_add(usize::try_from(head.compressed).ok()?)?;
    (end <= chunk.len()).then_some((Page { head, body: begin..end }, end))
}

/// The header that some bytes begin with, and its length.
pub(crate) fn head(bytes: &[u8]) -> Option<(Head, usize)> {
    let mut header = Compact { rest: bytes };
    let mut numbers = [None; 4];
    let mut inner = [None; 6];
    header.fields(&mut |header, id, kind| match (id, kind) {
        (1..=3, I32) => numbers[id as usize].replace(header.number()?).is_none().then_some(()),
        (5 | 7, STRUCT) => header.fields(&mut |header, id, kind| match (id, kind) {
            (1..=4, I32) => inner[id as usize].replace(header.number()?).is_none().then_some(()),
            _ => header.skip(kind, 0),
        }),
        _ => header.skip(kind, 0),
    })?;
    let [_, kind, uncompressed, compressed] = numbers;
    let [_, values, encoding, definition, repetition, _] = inner;
    let dictionary = match kind? {
        0 => false,
        2 => true,
        _ => return None,
    };
    let levels_known = dictionary || (definition? == RLE && repetition? == RLE);
    let values = u64::try_from(values?).ok()?;
    let uncompressed = u64::try_from(uncompressed?).ok()?;
    // Without values the library divides by zero, but for an empty dictionary.
    let countless = values == 0 && !(dictionary && uncompressed == 0);
    if !levels_known || countless {
        return None;
    }
    // No others are used in shards.
    let encoding = match encoding? {
        0 => Encoding::PLAIN,
        2 => Encoding::PLAIN_DICTIONARY,
        RLE => Encoding::RLE,
        8 => Encoding::RLE_DICTIONARY,
        _ => return None,
    };
    let compressed = u64::try_from(compressed?).ok()?;
    let head = Head { dictionary, encoding, values, uncompressed, compressed };
    Some((head, bytes.len() - header.rest.len()))
}

/// Types of Thrift's compact protocol.
const I32: u8 = 5;
const STRUCT: u8 = 12;

/// A reader of Thrift's compact protocol that never believes a size.
struct Compact<'a> {
    rest: &'a [u8],
}

impl Compact<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.rest.split_off_first().copied()
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A zigzag number that fits 32 bits, as every number of a page header does.
    fn number(&mut self) -> Option<i64> {
        let value = self.varint()?;
        let number = (value >> 1) as i64 ^ -((value & 1) as i64);
        i32::try_from(number).ok().map(i64::from)
    }

    /// Calls `visit` with the id and type of each field of a struct; it must read the field.
    fn fields(&mut self, visit: &mut dyn FnMut(&mut Self, i16, u8) -> Option<()>) -> Option<()> {
        let mut id = 0_i16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            id = match head >> 4 {
                0 => i16::try_from(self.number()?).ok()?,
                delta => id.checked_add(i16::from(delta))?,
            };
            visit(self, id, head & 0x0f)?;
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match kind {
            1 | 2 => Some(()),
            3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.rest.split_off(..8).map(drop),
            8 => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.rest.split_off(..length).map(drop)
            }
            STRUCT => self.fields(&mut |header, _, kind| header.skip(kind, depth + 1)),
            // Page headers hold neither lists nor maps.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A data page of two plain 8-byte values, header fields as parquet writes them.
    fn chunk() -> Vec<u8> {
        let mut chunk =
            vec![0x15, 0, 0x15, 32, 0x15, 32, 0x2c, 0x15, 4, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0];
        chunk.extend((0..16).collect::<Vec<u8>>());
        chunk
    }

    #[test]
    fn plain_pages_give_their_values() {
        let twice = [chunk(), chunk()].concat();
        let found = pages(&twice).expect("pages");
        assert_eq!(found.len(), 2);
        let encoding = Encoding::PLAIN;
        let head =
            Head { dictionary: false, encoding, values: 2, uncompressed: 16, compressed: 16 };
        assert_eq!(found[0], Page { head, body: 17..33 });
        let values = plain_values(&twice, Some(8)).expect("values");
        assert_eq!(values.len(), 4);
        assert_eq!(values[1], [8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(plain_values(&twice, Some(9)), None);
    }

    #[test]
    fn pages_beyond_the_chunk_are_refused() {
        let whole = chunk();
        for length in 1..whole.len() {
            assert!(pages(&whole[..length]).is_err(), "{length}");
        }
        let mut empty = whole;
        empty[8] = 0;
        assert!(pages(&empty).is_err(), "a page without values");
        let dictionary = [0x15, 4, 0x15, 8, 0x15, 8, 0x4c, 0x15, 0, 0x15, 0, 0, 0, 1, 0, 0, 0];
        assert!(pages(&dictionary).is_err(), "a dictionary of bytes without values");
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..33) {
            let mut chunk = chunk();
            chunk.splice(at..at, bytes.iter().copied());
            let _ = plain_values(&chunk, None);
            let _ = plain_values(&bytes, Some(8));
        }
    }
}
