//! Sizes: a source file fits in a head, a tracked file in a clone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Outcome;
use crate::failure::{ENVIRONMENT, Failure};
use crate::process::answer;
use crate::workspace::Workspace;

const MAX_LINES: usize = 500;
const MAX_BYTES: u64 = 1 << 20;
const SOURCES: [&str; 8] = ["rs", "cpp", "cc", "h", "hpp", "cu", "py", "sh"];

/// No source file over 500 lines, no file over 1 MiB.
pub fn check(workspace: &Workspace) -> anyhow::Result<Outcome> {
    let mut found = Vec::new();
    for path in list(workspace)? {
        found.extend(too_large(&workspace.root, &path)?);
    }
    if found.is_empty() {
        return Ok(Outcome::Passed);
    }
    anyhow::bail!("{}", found.join("; "))
}

/// Files that git tracks or would add, relative to the root.
pub fn list(workspace: &Workspace) -> anyhow::Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.current_dir(&workspace.root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let text = answer(&mut git).ok_or_else(|| {
        Failure::new(ENVIRONMENT, "`git ls-files` failed: is git here, and is this a clone?")
    })?;
    let paths = text.split('\0').filter(|path| !path.is_empty());
    // A file that is deleted but not yet committed is still listed.
    let there = |path: &PathBuf| workspace.root.join(path).is_file();
    Ok(paths.map(PathBuf::from).filter(there).collect())
}

fn too_large(root: &Path, path: &Path) -> anyhow::Result<Option<String>> {
    let whole = root.join(path);
    let bytes = fs::metadata(&whole)?.len();
    if bytes > MAX_BYTES {
        return Ok(Some(format!("{}: {bytes} bytes, limit {MAX_BYTES}", path.display())));
    }
    let is_source = path.extension().is_some_and(|end| SOURCES.iter().any(|source| end == *source));
    if !is_source {
        return Ok(None);
    }
    let lines = fs::read_to_string(&whole)?.lines().count();
    let message = || format!("{}: {lines} lines, limit {MAX_LINES}", path.display());
    Ok((lines > MAX_LINES).then(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(name), text).unwrap();
        too_large(root.path(), Path::new(name)).unwrap()
    }

    #[test]
    fn long_sources_and_large_files_are_found() {
        assert_eq!(found("a.rs", &"x\n".repeat(500)), None);
        assert_eq!(found("a.rs", &"x\n".repeat(501)).unwrap(), "a.rs: 501 lines, limit 500");
        assert_eq!(found("a.md", &"x\n".repeat(501)), None);
        assert!(found("a.bin", &"x".repeat((1 << 20) + 1)).unwrap().contains("1048577"));
    }
}
