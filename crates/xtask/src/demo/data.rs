//! The demo's data, made once.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::process::run;
use crate::talk::say;

/// Written last, with the arguments: data without it, or made otherwise, are made anew.
const STAMP: &str = "complete.txt";

/// Makes the data in `folder`, relative to `root`, by `strand` with these arguments, unless they are
/// there, whole, and made by the same arguments.
///
/// Returns whether they were made.
pub fn make(strand: &Path, arguments: &[&str], root: &Path, folder: &Path) -> anyhow::Result<bool> {
    let whole = root.join(folder);
    if is_complete(&whole, arguments) {
        return Ok(false);
    }
    if whole.exists() {
        say("demo", "the data are incomplete or of other settings: making them anew");
        fs::remove_dir_all(&whole).with_context(|| whole.display().to_string())?;
    }
    let mut synth = Command::new(strand);
    synth.current_dir(root).args(arguments).arg(folder);
    run(&mut synth, "strand data synth")?;
    fs::write(whole.join(STAMP), stamp(arguments)).with_context(|| whole.display().to_string())?;
    Ok(true)
}

fn is_complete(folder: &Path, arguments: &[&str]) -> bool {
    fs::read_to_string(folder.join(STAMP)).is_ok_and(|text| text == stamp(arguments))
}

fn stamp(arguments: &[&str]) -> String {
    format!("{}\n", arguments.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_data_of_the_same_settings_are_complete() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_complete(folder.path(), &["data", "synth"]));
        fs::write(folder.path().join(STAMP), "data synth --other\n").unwrap();
        assert!(!is_complete(folder.path(), &["data", "synth"]));
        fs::write(folder.path().join(STAMP), stamp(&["data", "synth"])).unwrap();
        assert!(is_complete(folder.path(), &["data", "synth"]));
    }
}
