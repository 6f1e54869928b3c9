//! Where things are: the checkout, the shared cache, the built binaries.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::failure::{ENVIRONMENT, Failure};

/// The checkout that this program was built from, and the user's cache folder.
pub struct Workspace {
    /// The folder of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// `strand` in the user's cache folder: shared by all checkouts.
    pub cache: PathBuf,
}

impl Workspace {
    /// Finds both, from cargo's environment and the user's.
    pub fn find() -> Result<Self, Failure> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.ancestors().nth(2).unwrap_or(manifest).to_owned();
        if !root.join("crates/xtask").is_dir() {
            let message = format!("{} is not the checkout any more", root.display());
            return Err(Failure::new(ENVIRONMENT, message).hint("run `cargo xtask` again"));
        }
        let cache = cache(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"))?;
        Ok(Self { root, cache })
    }

    /// The link to libtorch that cargo's configuration points to.
    pub fn libtorch_link(&self) -> PathBuf {
        self.root.join("libtorch")
    }

    /// The folder of release binaries.
    pub fn release(&self) -> PathBuf {
        let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        self.root.join(target).join("release")
    }
}

fn cache(xdg: Option<OsString>, home: Option<OsString>) -> Result<PathBuf, Failure> {
    // The XDG rule: a relative path is to be ignored.
    let absolute = |value: OsString| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
    xdg.and_then(absolute)
        .or_else(|| home.and_then(absolute).map(|home| home.join(".cache")))
        .map(|cache| cache.join("strand"))
        .ok_or_else(|| {
            Failure::new(ENVIRONMENT, "no cache folder: HOME is not set")
                .hint("set HOME or XDG_CACHE_HOME to an absolute path")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_follows_xdg() {
        let found = |xdg: Option<&str>, home: Option<&str>| {
            cache(xdg.map(Into::into), home.map(Into::into)).ok()
        };
        assert_eq!(found(Some("/x"), Some("/h")), Some("/x/strand".into()));
        assert_eq!(found(Some("x"), Some("/h")), Some("/h/.cache/strand".into()));
        assert_eq!(found(None, Some("/h")), Some("/h/.cache/strand".into()));
        assert_eq!(found(None, None), None);
    }
}
