//! Headers of `.npy` files.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>. The magic `\x93NUMPY`, a version,
//! the length of the header (2 bytes in version 1, else 4) and a Python dictionary of `descr`, `fortran_order` and
//! `shape`. Objects, which would be pickled, are never read.

use super::array::{Header, Number};

/// Bytes that are enough to tell how long the header is.
pub const START: usize = 12;
/// Longest header that is read; numpy's own are 118 bytes.
const MOST_HEADER: usize = 64 << 10;
/// Most axes of an array.
const MOST_AXES: usize = 8;

/// Where the header's text lies, from the first [`START`] bytes of a file (or all of a shorter one).
///
/// # Errors
/// The reason why this is no `.npy` file.
pub fn header_range(start: &[u8]) -> Result<std::ops::Range<usize>, String> {
    let Some(rest) = start.strip_prefix(b"\x93NUMPY") else {
        return Err("it does not begin as a .npy file".to_owned());
    };
    let (begin, length) = match *rest {
        [1, _, a, b, ..] => (10, usize::from(u16::from_le_bytes([a, b]))),
        [2 | 3, _, a, b, c, d, ..] => (12, u32::from_le_bytes([a, b, c, d]) as usize),
        [version, ..] if version > 3 => {
            return Err(format!("version {version} of .npy is not known"));
        }
        _ => return Err("it ends within its header".to_owned()),
    };
    match length <= MOST_HEADER {
        true => Ok(begin..begin + length),
        false => Err(format!("a header of {length} bytes: at most {MOST_HEADER} are read")),
    }
}

/// Reads the header's text.
///
/// # Errors
/// The reason why the array cannot be read.
pub fn header(text: &[u8]) -> Result<Header, String> {
    let odd = || "its header is not readable".to_owned();
    let mut text = Text { rest: std::str::from_utf8(text).map_err(|_| odd())? };
    text.expect('{').ok_or_else(odd)?;
    let (mut number, mut order, mut shape) = (None, None, None);
    while text.expect('}').is_none() {
        let key = text.string().ok_or_else(odd)?;
        text.expect(':').ok_or_else(odd)?;
        match key {
            "descr" => number = Some(read_number(text.string().ok_or_else(structured)?)?),
            "fortran_order" => order = Some(text.boolean().ok_or_else(odd)?),
            "shape" => shape = Some(text.sizes().ok_or_else(odd)?),
            _ => return Err(format!("its header has an unknown key `{key}`")),
        }
        if text.expect(',').is_none() && !text.rest.trim_start().starts_with('}') {
            return Err(odd());
        }
    }
    if order == Some(true) {
        return Err(
            "it is stored column by column: save it with numpy.ascontiguousarray".to_owned()
        );
    }
    match (number, order, shape) {
        (Some(number), Some(_), Some(shape)) => Ok(Header { number, shape }),
        _ => Err("its header lacks descr, fortran_order or shape".to_owned()),
    }
}

fn structured() -> String {
    "a structured type: float16 or float32 is needed".to_owned()
}

fn read_number(descr: &str) -> Result<Number, String> {
    match descr {
        "<f2" => Ok(Number::F16),
        "<f4" => Ok(Number::F32),
        "|O" => Err("it holds pickled objects, which are never read".to_owned()),
        "<V2" | "|V2" => Err(format!(
            "type `{descr}` does not say what it is: save bfloat16 as .safetensors, or as float32"
        )),
        _ => Err(format!("type `{descr}`: float16 (`<f2`) or float32 (`<f4`) is needed")),
    }
}

/// What is left of a header's text.
struct Text<'a> {
    rest: &'a str,
}

impl<'a> Text<'a> {
    fn expect(&mut self, sign: char) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(sign)?;
        Some(())
    }

    /// A quoted word; words of types and keys hold no escapes.
    fn string(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_start();
        let quote = rest.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
        let (word, rest) = rest[1..].split_once(quote)?;
        self.rest = rest;
        Some(word)
    }

    fn boolean(&mut self) -> Option<bool> {
        let rest = self.rest.trim_start();
        let (value, rest) = match rest.strip_prefix("False") {
            Some(rest) => (false, rest),
            None => (true, rest.strip_prefix("True")?),
        };
        self.rest = rest;
        Some(value)
    }

    /// `()`, `(3,)` or `(3, 4)`.
    fn sizes(&mut self) -> Option<Vec<usize>> {
        self.expect('(')?;
        let (inside, rest) = self.rest.split_once(')')?;
        self.rest = rest;
        let inside = inside.trim();
        let inside = inside.strip_suffix(',').unwrap_or(inside);
        if inside.is_empty() {
            return Some(Vec::new());
        }
        let sizes = inside.split(',').map(|size| size.trim().parse().ok());
        sizes
            .take(MOST_AXES + 1)
            .collect::<Option<Vec<_>>>()
            .filter(|sizes| sizes.len() <= MOST_AXES)
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A `.npy` file as numpy writes it.
    pub fn file(descr: &str, shape: &str, body: &[u8]) -> Vec<u8> {
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let length = u16::try_from(text.len()).unwrap().to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], text.as_bytes(), body].concat()
    }

    fn read(file: &[u8]) -> Result<Header, String> {
        let range = header_range(&file[..START.min(file.len())])?;
        header(file.get(range).ok_or("it ends within its header")?)
    }

    #[test]
    fn numpy_s_headers_are_read() {
        let expected = Header { number: Number::F16, shape: vec![16, 32, 768] };
        assert_eq!(read(&file("<f2", "(16, 32, 768)", b"")), Ok(expected));
        let flat = read(&file("<f4", "(3,)", b"")).unwrap();
        assert_eq!((flat.number, flat.shape), (Number::F32, vec![3]));
        assert_eq!(read(&file("<f4", "()", b"")).unwrap().shape, Vec::<usize>::new());
        let text = b"{'shape': (2, 3), \"descr\": \"<f2\", 'fortran_order': False}";
        let second = [&b"\x93NUMPY\x02\x00"[..], &(text.len() as u32).to_le_bytes(), text].concat();
        assert_eq!(read(&second).unwrap().shape, [2, 3]);
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let columns = b"{'descr': '<f2', 'fortran_order': True, 'shape': (2, 3), }";
        assert!(header(columns).unwrap_err().contains("column by column"));
        for (descr, shape, reason) in [
            ("|O", "(3,)", "pickled"),
            (">f4", "(3,)", "type `>f4`"),
            ("<f8", "(3,)", "type `<f8`"),
            ("<V2", "(3,)", "bfloat16"),
            ("<f4", "(3, -1)", "not readable"),
            ("<f4", "(99999999999999999999,)", "not readable"),
            ("<f4", "(1,1,1,1,1,1,1,1,1)", "not readable"),
        ] {
            let error = read(&file(descr, shape, b"")).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        assert!(header(b"{'descr': [('a', '<f4')], }").unwrap_err().contains("structured"));
        assert!(header(b"{'descr': '<f2'}").unwrap_err().contains("lacks"));
        assert!(read(b"PK\x03\x04").unwrap_err().contains("does not begin"));
        assert!(read(b"\x93NUMPY\x01").unwrap_err().contains("ends within"));
        let long = [&b"\x93NUMPY\x02\x00"[..], &u32::MAX.to_le_bytes()].concat();
        assert!(read(&long).unwrap_err().contains("at most 65536"));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..60) {
            let mut spliced = file("<f2", "(16, 32, 768)", b"");
            spliced.splice(at..at, bytes.iter().copied());
            let _ = read(&spliced);
            let _ = header(&bytes);
        }
    }
}
