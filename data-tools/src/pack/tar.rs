//! The members of a tar file: where they lie, without reading them.
//!
//! Formats: POSIX ustar and pax, and GNU's long names, which between them are what tar, Python and WebDataset write.
//! Headers are 512 bytes each; nothing but names is held in memory.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

/// Size of a header, and what bodies are padded to.
const BLOCK: usize = 512;
/// Longest name that is read.
const MOST_NAME: u64 = 4096;
/// Longest extended header that is read.
const MOST_EXTENDED: u64 = 1 << 20;

/// Most zeros behind the end.
const MOST_PADDING: u64 = 1 << 20;

/// A file in a tar file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its path.
    pub name: String,
    /// Its bytes within the tar file.
    pub range: Range<u64>,
}

/// Lists the files of a tar file; folders are passed over.
///
/// # Errors
/// The reason why this is no tar file, or not one that is read.
pub fn members(file: &mut (impl Read + Seek)) -> Result<Vec<Member>, String> {
    let size = file.seek(SeekFrom::End(0)).map_err(text)?;
    let mut scan = Scan { file, size, at: 0 };
    let mut members = Vec::new();
    let mut next = Extended::default();
    while let Some(header) = scan.header()? {
        match header.kind {
            b'x' => next.merge(&scan.body(&header, MOST_EXTENDED)?)?,
            b'L' => next.name = Some(name_of(&scan.body(&header, MOST_NAME)?)?),
            b'g' => scan.skip(header.size)?,
            _ => members.extend(scan.member(&header, std::mem::take(&mut next))?),
        }
    }
    Ok(members)
}

/// What an extended header says of the file behind it.
#[derive(Default)]
struct Extended {
    name: Option<String>,
    size: Option<u64>,
}

impl Extended {
    /// Reads records `LENGTH KEY=VALUE\n`, the length being that of the whole record.
    fn merge(&mut self, mut records: &[u8]) -> Result<(), String> {
        let odd = || "an extended header is not readable".to_owned();
        while !records.is_empty() {
            let digits = records.iter().position(|&byte| byte == b' ').ok_or_else(odd)?;
            let length = std::str::from_utf8(&records[..digits]).ok();
            let length: usize = length.and_then(|text| text.parse().ok()).ok_or_else(odd)?;
            let record =
                records.get(digits + 1..length).and_then(|record| record.strip_suffix(b"\n"));
            let record = std::str::from_utf8(record.ok_or_else(odd)?).map_err(|_| odd())?;
            match record.split_once('=').ok_or_else(odd)? {
                ("path", name) => self.name = Some(name.to_owned()),
                ("size", size) => self.size = Some(size.parse().map_err(|_| odd())?),
                (key, _) if key.starts_with("GNU.sparse") => {
                    return Err("it holds sparse files, which are not read".to_owned());
                }
                _ => {}
            }
            records = &records[length..];
        }
        Ok(())
    }
}

struct Block {
    name: String,
    size: u64,
    kind: u8,
}

struct Scan<'a, F> {
    file: &'a mut F,
    size: u64,
    at: u64,
}

impl<F: Read + Seek> Scan<'_, F> {
    /// The next header; `None` at the end, which is a block of zeros.
    fn header(&mut self) -> Result<Option<Block>, String> {
        if self.at == self.size {
            return Err("it has no end: it is cut short".to_owned());
        }
        let mut block = [0; BLOCK];
        self.file.seek(SeekFrom::Start(self.at)).map_err(text)?;
        self.file.read_exact(&mut block).map_err(|_| "it ends within a header".to_owned())?;
        if block == [0; BLOCK] {
            return self.end().map(|()| None);
        }
        let header = parse(&block).ok_or_else(|| not_tar(self.at, &block))?;
        self.at += BLOCK as u64;
        Ok(Some(header))
    }

    /// Behind the end are zeros up to the size of a record; anything else would be lost in silence.
    fn end(&mut self) -> Result<(), String> {
        let mut rest = Vec::new();
        self.file.by_ref().take(MOST_PADDING + 1).read_to_end(&mut rest).map_err(text)?;
        match rest.len() as u64 <= MOST_PADDING && rest.iter().all(|&byte| byte == 0) {
            true => Ok(()),
            false => Err("there is more behind its end: it is several tar files in one".to_owned()),
        }
    }

    fn member(&mut self, header: &Block, extended: Extended) -> Result<Option<Member>, String> {
        let name = extended.name.unwrap_or_else(|| header.name.clone());
        let size = extended.size.unwrap_or(header.size);
        let begin = self.at;
        match header.kind {
            b'0' | b'7' | 0 => self.skip(size)?,
            b'5' => {
                self.skip(size)?;
                return Ok(None);
            }
            b'1' | b'2' => return Err(format!("`{name}` is a link, which is not followed")),
            kind => return Err(format!("`{name}` is of a kind ({kind}) that is not read")),
        }
        Ok(Some(Member { name, range: begin..begin + size }))
    }

    fn body(&mut self, header: &Block, most: u64) -> Result<Vec<u8>, String> {
        if header.size > most {
            return Err(format!(
                "an extended header of {} bytes: at most {most} are read",
                header.size
            ));
        }
        let begin = self.at;
        self.skip(header.size)?;
        let mut body = vec![0; header.size as usize];
        self.file.seek(SeekFrom::Start(begin)).map_err(text)?;
        self.file.read_exact(&mut body).map_err(text)?;
        Ok(body)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), String> {
        let end = self.at.checked_add(bytes).filter(|&end| end <= self.size);
        let end = end.ok_or("it is cut short")?;
        // The padding of the last file may be missing.
        self.at = end.next_multiple_of(BLOCK as u64).min(self.size);
        Ok(())
    }
}

fn not_tar(at: u64, block: &[u8; BLOCK]) -> String {
    match block {
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] if at == 0 => {
            "it is compressed: unpack it to a plain .tar".to_owned()
        }
        _ => format!("byte {at} does not begin a tar header"),
    }
}

fn parse(block: &[u8; BLOCK]) -> Option<Block> {
    let sum = number(&block[148..156])?;
    let spaces = 8 * u64::from(b' ');
    let bytes = |range: Range<usize>| block[range].iter().map(|&byte| u64::from(byte)).sum::<u64>();
    if sum != bytes(0..148) + spaces + bytes(156..BLOCK) {
        return None;
    }
    let mut name = name_of(&block[..100]).ok()?;
    // GNU tar puts other things where POSIX has the beginning of a long name.
    if &block[257..263] == b"ustar\0" {
        let prefix = name_of(&block[345..500]).ok()?;
        if !prefix.is_empty() {
            name = format!("{prefix}/{name}");
        }
    }
    Some(Block { name, size: number(&block[124..136])?, kind: block[156] })
}

/// A name up to its first zero.
fn name_of(field: &[u8]) -> Result<String, String> {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    String::from_utf8(field[..end].to_vec()).map_err(|_| "a name is not UTF-8".to_owned())
}

/// Octal digits, or GNU's binary form for what they cannot hold.
fn number(field: &[u8]) -> Option<u64> {
    if let Some((0x80, binary)) = field.split_first().map(|(first, rest)| (*first, rest)) {
        let (high, low) = binary.split_at(binary.len().checked_sub(8)?);
        let zero = high.iter().all(|&byte| byte == 0);
        return zero.then(|| low.first_chunk().map(|low| u64::from_be_bytes(*low))).flatten();
    }
    let digits = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(digits.trim_matches([' ', '\0']), 8).ok()
}

fn text(error: io::Error) -> String {
    error.to_string()
}

#[cfg(test)]
pub mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn block(name: &str, size: u64, kind: u8) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    }

    fn part(name: &str, kind: u8, body: &[u8]) -> Vec<u8> {
        let mut part = block(name, body.len() as u64, kind);
        part.extend_from_slice(body);
        part.resize(part.len().next_multiple_of(BLOCK), 0);
        part
    }

    /// A tar file of these members.
    pub fn file(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut file: Vec<u8> =
            members.iter().flat_map(|(name, body)| part(name, b'0', body)).collect();
        file.resize(file.len() + 2 * BLOCK, 0);
        file
    }

    fn list(file: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
        let found = members(&mut Cursor::new(file))?;
        let bytes = |range: Range<u64>| file[range.start as usize..range.end as usize].to_vec();
        Ok(found.into_iter().map(|member| (member.name, bytes(member.range))).collect())
    }

    #[test]
    fn members_are_listed_in_order() {
        let found = list(&file(&[("a.npy", b"one"), ("b/c.json", &[7; 600])])).unwrap();
        assert_eq!(found[0], ("a.npy".to_owned(), b"one".to_vec()));
        assert_eq!(found[1], ("b/c.json".to_owned(), vec![7; 600]));
        assert_eq!(list(&[0; 10_240]).unwrap(), []);
    }

    #[test]
    fn long_names_and_large_sizes_come_before_their_file() {
        let long = "x/".repeat(90) + "a.npy";
        let record = format!("path={long}\n");
        let pax = format!("{} {record}", record.len() + 4);
        let end = vec![0; BLOCK];
        let pax =
            [part("p", b'x', pax.as_bytes()), part("short", b'0', b"1"), end.clone()].concat();
        assert_eq!(list(&pax).unwrap(), [(long.clone(), b"1".to_vec())]);
        let name = format!("{long}\0");
        let gnu = [part("././@LongLink", b'L', name.as_bytes()), part("s", b'0', b"2"), end];
        assert_eq!(list(&gnu.concat()).unwrap(), [(long, b"2".to_vec())]);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]), Some(1 << 32));
        assert_eq!(number(&[0x80; 8]), None);
    }

    #[test]
    fn what_is_no_plain_tar_file_says_so() {
        let mut cut = part("a", b'0', &[1; 600]);
        cut.truncate(BLOCK + 100);
        let mut spoilt = part("a", b'0', b"1");
        spoilt[3] = b'z';
        for (file, reason) in [
            (cut, "cut short"),
            (spoilt, "byte 0 does not begin"),
            (part("a", b'2', b""), "`a` is a link"),
            (block("a", u64::MAX >> 40, b'x'), "at most 1048576"),
            ([&[0x1f, 0x8b][..], &[0; 600]].concat(), "compressed"),
            (vec![1; 100], "ends within a header"),
            (part("a", b'0', b"1"), "cut short"),
            ([file(&[("a", b"1")]), file(&[("b", b"2")])].concat(), "several tar files"),
            (part("p", b'x', b"999 path=a\n"), "not readable"),
        ] {
            let error = list(&file).unwrap_err();
            assert!(error.contains(reason), "{error} should contain {reason}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..700), at in 0_usize..1024) {
            let mut spliced = file(&[("a.npy", b"one"), ("b.json", b"two")]);
            spliced.splice(at..at, bytes.iter().copied());
            let _ = list(&spliced);
        }
    }
}
