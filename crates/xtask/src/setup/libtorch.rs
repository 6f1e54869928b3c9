//! libtorch: the caller's, the one linked already, the cache's, Python's, or PyPI's, in this order.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::libtorch_check::{VERSION, check};
use super::{CacheLock, install, libtorch_view};
use crate::failure::{ENVIRONMENT, Failure};
use crate::process::answer;
use crate::talk::say;
use crate::workspace::Workspace;

/// Prints the folder that holds an importable torch of our version, without importing it.
const FIND_TORCH: &str = "
import importlib.metadata, importlib.util, os, sys
spec = importlib.util.find_spec('torch')
version = importlib.metadata.version('torch').split('+')[0]
assert version == sys.argv[1]
print(os.path.dirname(list(spec.submodule_search_locations)[0]))
";

/// Where libtorch comes from.
pub enum Source {
    /// A folder that passed the check: nothing to make.
    Folder(PathBuf),
    /// A `site-packages` with torch in it: a view is to be made.
    Python(PathBuf),
    /// Nowhere yet: wheels are to be fetched.
    Wheels,
}

impl Source {
    /// Whether pip will be needed.
    pub fn fetches(&self) -> bool {
        matches!(self, Source::Wheels)
    }
}

/// Looks, and changes nothing.
pub fn survey(workspace: &Workspace) -> Result<Source, Failure> {
    let link = workspace.libtorch_link();
    if let Some(named) = callers(&link, env::var_os("LIBTORCH").map(PathBuf::from)) {
        return match check(&named) {
            Ok(()) => Ok(Source::Folder(named)),
            Err(why) => Err(unfit(&named, &why)),
        };
    }
    let view = libtorch_view::place(&workspace.cache);
    for folder in [&link, &view] {
        if check(folder).is_ok() {
            return Ok(Source::Folder(folder.clone()));
        }
    }
    let python = answer(Command::new("python3").args(["-c", FIND_TORCH, VERSION]));
    Ok(python.map_or(Source::Wheels, |site| Source::Python(site.into())))
}

/// Makes what the survey found wanting, and the link at the root of the checkout.
pub fn provide(workspace: &Workspace, source: Source) -> anyhow::Result<PathBuf> {
    let folder = match source {
        Source::Folder(folder) => folder,
        Source::Python(site) => {
            say("setup", format!("using the torch {VERSION} in {}", site.display()));
            view(&workspace.cache, |_| Ok(site))?
        }
        Source::Wheels => {
            view(&workspace.cache, |lock| install(lock, &workspace.cache, &libtorch_view::WHEELS))?
        }
    };
    link(&workspace.libtorch_link(), &folder)?;
    Ok(folder)
}

/// cargo's configuration sets LIBTORCH to our own link: only another value is the caller's.
fn callers(link: &Path, variable: Option<PathBuf>) -> Option<PathBuf> {
    variable.filter(|value| value != link)
}

fn unfit(named: &Path, why: &str) -> Failure {
    Failure::new(ENVIRONMENT, format!("LIBTORCH={}: {why}", named.display()))
        .hint("unset LIBTORCH and this command finds or fetches the right one")
}

/// The cache's view, made from `site` unless another setup has made it while we waited.
fn view(
    cache: &Path,
    site: impl FnOnce(&CacheLock) -> anyhow::Result<PathBuf>,
) -> anyhow::Result<PathBuf> {
    let lock = CacheLock::take(cache)?;
    let place = libtorch_view::place(cache);
    if check(&place).is_ok() {
        return Ok(place);
    }
    let site = site(&lock)?;
    libtorch_view::make(&lock, cache, &site)
}

/// Points the link at `folder`, unless it already leads to a libtorch that will do.
fn link(link: &Path, folder: &Path) -> anyhow::Result<()> {
    if check(link).is_ok() {
        return Ok(());
    }
    if link.is_symlink() {
        fs::remove_file(link).with_context(|| link.display().to_string())?;
    } else if link.exists() {
        let message = format!("{} is in the way: it is no libtorch {VERSION}", link.display());
        return Err(Failure::new(ENVIRONMENT, message).hint("move it away").into());
    }
    let folder = fs::canonicalize(folder)?;
    symlink(&folder, link).with_context(|| format!("{} cannot be linked", link.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_value_is_the_callers() {
        let link = Path::new("/repo/libtorch");
        assert_eq!(callers(link, None), None);
        assert_eq!(callers(link, Some(link.into())), None);
        let other = PathBuf::from("/opt/libtorch");
        assert_eq!(callers(link, Some(other.clone())), Some(other));
    }

    #[test]
    fn a_dangling_link_is_replaced_and_a_folder_is_not() {
        let root = tempfile::tempdir().unwrap();
        let (found, target) = (root.path().join("found"), root.path().join("link"));
        fs::create_dir(&found).unwrap();
        symlink(root.path().join("gone"), &target).unwrap();
        link(&target, &found).unwrap();
        assert_eq!(fs::read_link(&target).unwrap(), fs::canonicalize(&found).unwrap());
        fs::remove_file(&target).unwrap();
        fs::create_dir(&target).unwrap();
        assert!(link(&target, &found).unwrap_err().to_string().contains("in the way"));
    }
}
