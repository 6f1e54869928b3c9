//! Writing a safetensors file, one tensor in memory at a time.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};

use crate::{Dtype, layout};

/// What a file says of a tensor before its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its name.
    pub name: String,
    /// Its type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
}

impl Head {
    /// The bytes of its values; as many as there can be where they do not fit 64 bits.
    pub fn bytes(&self) -> u64 {
        layout::count(&self.shape)
            .and_then(|values| values.checked_mul(self.dtype.bytes()))
            .unwrap_or(u64::MAX)
    }
}

/// A local file whose header is written and whose values follow.
pub struct FileWriter {
    file: BufWriter<File>,
    /// Bytes of values that are still to come.
    left: u64,
}

impl FileWriter {
    /// Creates a file of these tensors, in this order.
    ///
    /// # Errors
    /// The file cannot be written; two tensors have one name.
    pub fn create(path: &Path, tensors: &[Head]) -> io::Result<FileWriter> {
        let header = header(tensors)?;
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        Ok(FileWriter { file, left: tensors.iter().map(Head::bytes).sum() })
    }

    /// Writes the values of the next tensor, or the next of its values.
    ///
    /// # Errors
    /// The file cannot be written; there are more values than the header says.
    pub fn write(&mut self, values: &[u8]) -> io::Result<()> {
        let bytes = values.len() as u64;
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| io::Error::other("more values than the header says"))?;
        self.file.write_all(values)
    }

    /// Has all on the disk.
    ///
    /// # Errors
    /// The file cannot be written; there are fewer values than the header says.
    pub fn finish(self) -> io::Result<()> {
        if self.left != 0 {
            return Err(io::Error::other(format!("{} bytes of values are missing", self.left)));
        }
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }
}

/// JSON, filled up with spaces so that the values behind it are aligned.
fn header(tensors: &[Head]) -> io::Result<Vec<u8>> {
    let mut end = 0;
    let infos = tensors.iter().map(|head| {
        let begin = end;
        end += head.bytes() as usize;
        let shape = head.shape.iter().map(|&size| size as usize).collect();
        let info =
            TensorInfo { dtype: head.dtype.safetensors(), shape, data_offsets: (begin, end) };
        (head.name.clone(), info)
    });
    // Without it transformers refuses the file.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos.collect()).map_err(io::Error::other)?;
    if metadata.tensors().len() != tensors.len() {
        return Err(io::Error::other("two tensors have one name"));
    }
    let mut json = serde_json::to_vec(&metadata)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok(json)
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    fn head(name: &str, dtype: Dtype, shape: &[u64]) -> Head {
        Head { name: name.into(), dtype, shape: shape.into() }
    }

    #[test]
    fn the_reference_reads_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let heads = [head("b", Dtype::Bf16, &[2, 1]), head("a", Dtype::F32, &[1])];
        let mut writer = FileWriter::create(&path, &heads).unwrap();
        writer.write(&[1, 2]).unwrap();
        writer.write(&[3, 4]).unwrap();
        writer.write(&[5, 6, 7, 8]).unwrap();
        assert!(writer.write(&[9]).is_err(), "more than the header says");
        writer.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let read = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("b").unwrap().data(), [1, 2, 3, 4]);
        assert_eq!(read.tensor("b").unwrap().shape(), [2, 1]);
        assert_eq!(read.tensor("a").unwrap().data(), [5, 6, 7, 8]);
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    }

    #[test]
    fn a_file_with_too_little_is_not_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let writer = FileWriter::create(&path, &[head("a", Dtype::F32, &[1])]).unwrap();
        assert!(writer.finish().unwrap_err().to_string().contains("4 bytes"));
    }
}
