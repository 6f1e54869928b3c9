//! Which samples some folders, tar files and files of tensors hold, by their keys.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::tar;
use super::tensors::{Tensor, Tensors};
use super::whole;
use crate::ToolsError;

/// Deepest folder that is searched.
const MOST_DEPTH: usize = 32;

/// Where the features of a sample lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file on disk.
    pub file: Arc<Path>,
    /// What of it.
    pub part: Part,
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The bytes of a `.npy` file.
    Npy(Range<u64>),
    /// The bytes of a `.safetensors` file of one sample.
    Safetensors(Range<u64>),
    /// One tensor of a `.safetensors` file of many samples.
    Tensor(String, Result<Tensor, String>),
}

/// What is known under one key.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// Its features.
    pub features: Option<Place>,
    /// File and bytes of its annotations.
    pub json: Option<(Arc<Path>, Range<u64>)>,
}

/// Samples by key, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Index {
    keys: Vec<String>,
    entries: HashMap<String, Entry>,
}

impl Index {
    /// Looks through folders, `.tar`, `.safetensors` and `.npy` files.
    ///
    /// # Errors
    /// [`ToolsError::Features`] for what cannot be read and for a key with two sets of features.
    pub fn scan(paths: &[PathBuf]) -> Result<Index, ToolsError> {
        let mut index = Index::default();
        for path in paths {
            let scanned = match path.extension().and_then(|extension| extension.to_str()) {
                _ if path.is_dir() => index.add_folder(path, path, 0),
                Some("tar") => index.add_tar(path),
                Some("safetensors") => index.add_tensors(path),
                Some("npy") => index.add_file(path, path.parent().unwrap_or(path)),
                _ => {
                    Err(ToolsError::features(path, "not a folder, .tar, .safetensors or .npy file"))
                }
            };
            scanned?;
        }
        Ok(index)
    }

    /// Keys in the order in which they were found: folders by name, tar files as they are.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(String::as_str)
    }

    /// How many keys have features.
    pub fn num_features(&self) -> usize {
        self.entries.values().filter(|entry| entry.features.is_some()).count()
    }

    /// What a key stands for.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The features of a video: those of its name, with or without its extension.
    pub fn features(&self, video: &str) -> Option<(&str, &Place)> {
        let found = |key: &str| {
            let (key, entry) = self.entries.get_key_value(key)?;
            Some((key.as_str(), entry.features.as_ref()?))
        };
        found(video).or_else(|| found(without_extension(video)))
    }

    fn add_folder(&mut self, root: &Path, folder: &Path, depth: usize) -> Result<(), ToolsError> {
        if depth > MOST_DEPTH {
            return Err(ToolsError::features(folder, "folders are nested too deep"));
        }
        let unreadable = |error: std::io::Error| ToolsError::features(folder, error);
        let entries = std::fs::read_dir(folder).map_err(unreadable)?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut paths: Vec<PathBuf> = paths.collect::<Result<_, _>>().map_err(unreadable)?;
        paths.sort();
        for path in paths {
            match path.is_dir() {
                true => self.add_folder(root, &path, depth + 1)?,
                false => self.add_file(&path, root)?,
            }
        }
        Ok(())
    }

    /// A file of one sample; its key is its path below `root` without the extension. Other files are passed over.
    fn add_file(&mut self, path: &Path, root: &Path) -> Result<(), ToolsError> {
        let name = path.strip_prefix(root).unwrap_or(path).to_str();
        let name = name.ok_or_else(|| ToolsError::features(path, "its name is not UTF-8"))?;
        let Some((key, kind)) = name.rsplit_once('.').filter(|(_, kind)| is_known(kind)) else {
            return Ok(());
        };
        let size = path.metadata().map_err(|error| ToolsError::features(path, error))?.len();
        self.add(key, kind, &Arc::from(path), 0..size)
    }

    fn add_tar(&mut self, path: &Path) -> Result<(), ToolsError> {
        let unreadable = |reason: String| ToolsError::features(path, reason);
        let mut file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
        let members = tar::members(&mut file).map_err(unreadable)?;
        let path = Arc::from(path);
        for member in members {
            let Some((key, kind)) = web_dataset_key(&member.name) else { continue };
            let kind = kind.rsplit('.').next().unwrap_or(kind);
            if is_known(kind) {
                self.add(key, kind, &path, member.range)?;
            }
        }
        Ok(())
    }

    fn add_tensors(&mut self, path: &Path) -> Result<(), ToolsError> {
        let tensors: Tensors =
            whole::tensors(path).map_err(|reason| ToolsError::features(path, reason))?;
        let file: Arc<Path> = Arc::from(path);
        for (name, tensor) in tensors {
            let part = Part::Tensor(name.clone(), tensor);
            self.insert(&name, Place { file: file.clone(), part })?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        key: &str,
        kind: &str,
        file: &Arc<Path>,
        range: Range<u64>,
    ) -> Result<(), ToolsError> {
        let part = match kind {
            "npy" => Part::Npy(range),
            "safetensors" => Part::Safetensors(range),
            _ => return self.insert_json(key, file, range),
        };
        self.insert(key, Place { file: file.clone(), part })
    }

    fn insert(&mut self, key: &str, place: Place) -> Result<(), ToolsError> {
        let entry = self.entry(key);
        if let Some(known) = &entry.features {
            let reason = format!("it has features of `{key}`, and so has {}", known.file.display());
            return Err(ToolsError::features(&place.file, reason));
        }
        entry.features = Some(place);
        Ok(())
    }

    fn insert_json(
        &mut self,
        key: &str,
        file: &Arc<Path>,
        range: Range<u64>,
    ) -> Result<(), ToolsError> {
        let entry = self.entry(key);
        if let Some((known, _)) = &entry.json {
            let reason = format!("it has annotations of `{key}`, and so has {}", known.display());
            return Err(ToolsError::features(file, reason));
        }
        entry.json = Some((file.clone(), range));
        Ok(())
    }

    fn entry(&mut self, key: &str) -> &mut Entry {
        if !self.entries.contains_key(key) {
            self.keys.push(key.to_owned());
        }
        self.entries.entry(key.to_owned()).or_default()
    }
}

fn is_known(kind: &str) -> bool {
    matches!(kind, "npy" | "safetensors" | "json")
}

/// WebDataset's rule: the key ends at the first dot of the file's own name.
fn web_dataset_key(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let own = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = own + name[own..].find('.')?;
    (dot > own).then(|| (&name[..dot], &name[dot + 1..]))
}

/// `a/b.mp4` as `a/b`.
fn without_extension(name: &str) -> &str {
    let own = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[own..].rfind('.') {
        Some(dot) if dot > 0 => &name[..own + dot],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::{npy, tensors};

    #[test]
    fn keys_follow_webdataset_and_extensions_come_off() {
        assert_eq!(web_dataset_key("./a/00.features.npy"), Some(("a/00", "features.npy")));
        assert_eq!(web_dataset_key("a.b/00.npy"), Some(("a.b/00", "npy")));
        assert_eq!((web_dataset_key("a/.hidden"), web_dataset_key("a/b")), (None, None));
        assert_eq!(
            (without_extension("a.b/c.mp4"), without_extension("a.b/c")),
            ("a.b/c", "a.b/c")
        );
    }

    #[test]
    fn folders_tar_files_and_tensors_are_one_index() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let array = npy::tests::file("<f2", "(1, 1)", &[0, 0]);
        write("dir/b/two.npy", &array);
        write("dir/b/two.mp4", b"not looked at");
        write("dir/a.mp4.npy", &array);
        let tar = write("x.tar", &tar::tests::file(&[("s/1.npy", &array), ("s/1.json", b"{}")]));
        let many = tensors::tests::file(&[("v1.mp4", "F16", &[1, 1], &[0, 0])]);
        let many = write("many.safetensors", &many);
        let index = Index::scan(&[folder.path().join("dir"), tar.clone(), many]).unwrap();
        assert_eq!(index.keys().collect::<Vec<_>>(), ["a.mp4", "b/two", "s/1", "v1.mp4"]);
        assert_eq!(index.num_features(), 4);
        assert_eq!(index.features("b/two.mp4").unwrap().0, "b/two");
        assert_eq!(index.features("a.mp4").unwrap().0, "a.mp4");
        assert!(index.features("a").is_none());
        assert!(index.get("s/1").unwrap().json.is_some());
        let error = Index::scan(&[tar.clone(), tar]).unwrap_err().to_string();
        assert!(error.contains("x.tar: it has features of `s/1`, and so has"), "{error}");
        let error = Index::scan(&[folder.path().join("none")]).unwrap_err().to_string();
        assert!(error.contains("not a folder"), "{error}");
    }
}
