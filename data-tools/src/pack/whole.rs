//! The features of one sample, read whole. Sizes are bounded before they are believed.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use strand_data::Dtype;

use super::array::{Frames, Header, Number, convert};
use super::index::{Part, Place};
use super::{npy, tensors};
use crate::ToolsError;

/// Largest array of one sample, as it is stored: what a row group may hold.
const MOST_BYTES: u64 = 1 << 30;
/// Name of the tensor that holds the time of each frame.
pub const SECONDS: &str = "seconds";

/// How files are to be understood.
#[derive(Clone, Debug)]
pub struct Reading {
    /// K where arrays are `[T·K, F]`.
    pub tokens: Option<usize>,
    /// Name of the tensor of features, where a file has several.
    pub tensor: Option<String>,
    /// The type of the data set.
    pub dtype: Dtype,
}

/// Features of a sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Shape.
    pub shape: Frames,
    /// `[frames, tokens, dim]` of the data set's type.
    pub features: Vec<u8>,
    /// Time of each frame, where the file says it.
    pub seconds: Option<Vec<f32>>,
}

impl Place {
    /// Reads the features.
    ///
    /// # Errors
    /// [`ToolsError::Features`] with the file and what is wrong with it.
    pub fn read(&self, reading: &Reading) -> Result<Sample, ToolsError> {
        self.sample(reading).map_err(|reason| ToolsError::features(&self.file, self.named(reason)))
    }

    fn sample(&self, reading: &Reading) -> Result<Sample, String> {
        let mut file = File::open(&self.file).map_err(|error| error.to_string())?;
        let (header, body, seconds) = match &self.part {
            Part::Npy(range) => read_npy(&mut file, range)?,
            Part::Safetensors(range) => read_tensors(&mut file, range, reading)?,
            Part::Tensor(_, tensor) => {
                let tensors::Tensor { header, range } = tensor.clone()?;
                let body = bytes(&mut file, &range)?;
                (header, body, None)
            }
        };
        let shape = Frames::of(&header.shape, reading.tokens)?;
        if let Some(seconds) = &seconds
            && seconds.len() != shape.frames
        {
            return Err(format!(
                "`{SECONDS}` has {} times for {} frames",
                seconds.len(),
                shape.frames
            ));
        }
        let features = convert(header.number, &body, reading.dtype)?;
        Ok(Sample { shape, features, seconds })
    }

    /// What is wrong, with the tensor where a file has many.
    fn named(&self, reason: String) -> String {
        match &self.part {
            Part::Tensor(name, _) => format!("tensor `{name}`: {reason}"),
            Part::Npy(range) | Part::Safetensors(range) if range.start > 0 => {
                format!("the member at byte {}: {reason}", range.start)
            }
            _ => reason,
        }
    }
}

type Parts = (Header, Vec<u8>, Option<Vec<f32>>);

fn read_npy(file: &mut File, range: &Range<u64>) -> Result<Parts, String> {
    let ends = || "it ends within its header".to_owned();
    let start = bytes(file, &(range.start..range.end.min(range.start + npy::START as u64)))?;
    let text = npy::header_range(&start)?;
    let text = range.start + text.start as u64..range.start + text.end as u64;
    if text.end > range.end {
        return Err(ends());
    }
    let header = npy::header(&bytes(file, &text)?)?;
    let body = text.end..range.end;
    let size = body.end - body.start;
    if header.body_bytes() != Some(size) {
        return Err(format!("its {size} bytes are not of shape {:?}", header.shape));
    }
    Ok((header, bytes(file, &body)?, None))
}

fn read_tensors(file: &mut File, range: &Range<u64>, reading: &Reading) -> Result<Parts, String> {
    let mut all = list(file, range)?;
    let seconds =
        all.remove(SECONDS).transpose()?.map(|tensor| times(file, &tensor)).transpose()?;
    let name = match (&reading.tensor, all.len()) {
        (Some(name), _) => name.clone(),
        (None, 1) => all.keys().next().cloned().unwrap_or_default(),
        (None, _) => {
            let names: Vec<&str> = all.keys().map(String::as_str).take(8).collect();
            return Err(format!("it holds {} tensors ({}): name one", all.len(), names.join(", ")));
        }
    };
    let tensor = all.remove(&name).ok_or_else(|| format!("it has no tensor `{name}`"))?;
    let tensor = tensor.map_err(|reason| format!("tensor `{name}`: {reason}"))?;
    Ok((tensor.header, bytes(file, &tensor.range)?, seconds))
}

fn times(file: &mut File, tensor: &tensors::Tensor) -> Result<Vec<f32>, String> {
    if tensor.header.number != Number::F32 || tensor.header.shape.len() != 1 {
        return Err(format!("`{SECONDS}` is not a list of F32 numbers"));
    }
    let body = bytes(file, &tensor.range)?;
    let times = body.as_chunks().0.iter().map(|time| f32::from_le_bytes(*time));
    let times: Vec<f32> = times.collect();
    match times.iter().all(|time| time.is_finite()) && times.is_sorted() {
        true => Ok(times),
        false => Err(format!("`{SECONDS}` are not ascending numbers")),
    }
}

/// A small file within another.
///
/// # Errors
/// The reason why it cannot be read, as where it is longer than `most` bytes.
pub fn text(path: &Path, range: &Range<u64>, most: u64) -> Result<Vec<u8>, String> {
    if range.end - range.start > most {
        return Err(format!("{} bytes: at most {most} are read", range.end - range.start));
    }
    bytes(&mut File::open(path).map_err(|error| error.to_string())?, range)
}

/// The tensors of a file.
///
/// # Errors
/// The reason why it cannot be read.
pub fn tensors(path: &Path) -> Result<tensors::Tensors, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    list(&mut file, &(0..size))
}

/// As [`tensors()`], of a file that lies within another; ranges are those of the outer file.
fn list(file: &mut File, range: &Range<u64>) -> Result<tensors::Tensors, String> {
    let size = range.end - range.start;
    let start = bytes(file, &(range.start..range.end.min(range.start + tensors::START as u64)))?;
    let start = *start.first_chunk().ok_or("it is too short for a .safetensors file")?;
    let header = tensors::header_range(start, size)?;
    let (begin, end) = (range.start + header.start, range.start + header.end);
    tensors::tensors(&bytes(file, &(begin..end))?, end, range.end)
}

/// Bytes of a file, of a range that lies in it.
fn bytes(file: &mut File, range: &Range<u64>) -> Result<Vec<u8>, String> {
    let size = range.end.saturating_sub(range.start);
    if size > MOST_BYTES {
        return Err(format!("{size} bytes of one sample: at most {MOST_BYTES} are read"));
    }
    let mut bytes = vec![0; size as usize];
    file.seek(SeekFrom::Start(range.start)).map_err(|error| error.to_string())?;
    file.read_exact(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use half::f16;

    use super::*;
    use crate::pack::tar;

    fn halves(count: usize) -> Vec<u8> {
        (0..count).flat_map(|value| f16::from_f32(value as f32).to_le_bytes()).collect()
    }

    fn reading() -> Reading {
        Reading { tokens: None, tensor: None, dtype: Dtype::F16 }
    }

    fn read(
        bytes: &[u8],
        part: fn(Range<u64>) -> Part,
        reading: &Reading,
    ) -> Result<Sample, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let place = Place { file: Arc::from(file.path()), part: part(0..bytes.len() as u64) };
        let name = format!("{}: ", file.path().display());
        place.read(reading).map_err(|error| error.to_string().replace(&name, ""))
    }

    #[test]
    fn arrays_and_tensors_give_the_same_sample() {
        let array = npy::tests::file("<f2", "(3, 2, 4)", &halves(24));
        let expected = Sample {
            shape: Frames { frames: 3, tokens: 2, dim: 4 },
            features: halves(24),
            seconds: None,
        };
        assert_eq!(read(&array, Part::Npy, &reading()), Ok(expected.clone()));
        let times: Vec<u8> =
            [0.0_f32, 0.5, 1.0].iter().flat_map(|time| time.to_le_bytes()).collect();
        let file = tensors::tests::file(&[
            ("x", "F16", &[3, 2, 4], &halves(24)),
            ("seconds", "F32", &[3], &times),
        ]);
        let found = read(&file, Part::Safetensors, &reading()).unwrap();
        assert_eq!(found.seconds, Some(vec![0.0, 0.5, 1.0]));
        assert_eq!(Sample { seconds: None, ..found }, expected);
    }

    #[test]
    fn members_of_a_tar_file_are_read_in_place() {
        let array = npy::tests::file("<f2", "(1, 4)", &halves(4));
        let tensor = tensors::tests::file(&[("x", "F16", &[1, 4], &halves(4))]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            tar::tests::file(&[("a.npy", &array), ("b.safetensors", &tensor)]),
        )
        .unwrap();
        let members = tar::members(&mut File::open(file.path()).unwrap()).unwrap();
        let read = |part| Place { file: Arc::from(file.path()), part }.read(&reading()).unwrap();
        let first = read(Part::Npy(members[0].range.clone()));
        assert_eq!(first.features, halves(4));
        assert_eq!(read(Part::Safetensors(members[1].range.clone())), first);
    }

    #[test]
    fn odd_files_are_named_with_the_reason() {
        let refuse =
            |bytes: &[u8], part: fn(Range<u64>) -> Part| read(bytes, part, &reading()).unwrap_err();
        let short = npy::tests::file("<f2", "(3, 2, 4)", &halves(23));
        assert!(refuse(&short, Part::Npy).contains("46 bytes are not of shape [3, 2, 4]"));
        assert!(refuse(b"\x93NUMPY\x01\x00\xff\x00", Part::Npy).contains("ends within"));
        assert!(refuse(b"", Part::Safetensors).contains("too short"));
        let two = tensors::tests::file(&[
            ("x", "F16", &[1, 1], &halves(1)),
            ("y", "F16", &[1, 1], &halves(1)),
        ]);
        assert!(refuse(&two, Part::Safetensors).contains("2 tensors (x, y): name one"));
        let named = Reading { tensor: Some("y".into()), ..reading() };
        assert_eq!(read(&two, Part::Safetensors, &named).unwrap().features, halves(1));
        let wrong = tensors::tests::file(&[("x", "F64", &[1, 1], &[0; 8])]);
        assert!(refuse(&wrong, Part::Safetensors).contains("tensor `x`: type F64"));
        let nan = npy::tests::file("<f4", "(1, 1)", &f32::NAN.to_le_bytes());
        assert!(refuse(&nan, Part::Npy).contains("value 0 is NaN"));
    }
}
