//! A full disk is its own error and leaves no committed checkpoint.
//!
//! The disk is a 1 MiB tmpfs in a mount namespace of its own: the test starts its own executable again under
//! `unshare`, which needs root or unprivileged user namespaces.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{Whole, save, state};
use strand_checkpoint::{Dtype, Kind, Reader, discard, latest, step_folder};
use strand_store::Location;

const DISK: &str = "STRAND_TEST_FULL_DISK";

#[tokio::test]
async fn a_full_disk_leaves_no_committed_checkpoint() {
    if let Ok(disk) = std::env::var(DISK) {
        return on_the_small_disk(&disk).await;
    }
    let disk = tempfile::tempdir().expect("a folder");
    if let Err(reason) = in_small_disk(disk.path(), "true") {
        // Written past the capture of the test harness: nothing is skipped in silence.
        let line = format!("NOT RUN: full disk: no tmpfs can be mounted here: {reason}\n");
        std::io::stderr().write_all(line.as_bytes()).expect("stderr");
        return;
    }
    let exe = std::env::current_exe().expect("this test");
    let test = "full_disk::a_full_disk_leaves_no_committed_checkpoint";
    let inner = format!("exec '{}' --exact {test}", exe.display());
    let ran = in_small_disk(disk.path(), &inner).unwrap_or_else(|said| panic!("{said}"));
    assert!(ran.contains("1 passed"), "{ran}");
}

/// Runs a command with a 1 MiB tmpfs at `disk`; gives its output, as an error where it fails.
fn in_small_disk(disk: &Path, command: &str) -> Result<String, String> {
    let script = format!("mount -t tmpfs -o size=1m tmpfs \"${DISK}\" && {command}");
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--map-root-user", "sh", "-c", &script]).env(DISK, disk);
    let Output { status, stdout, stderr } =
        unshare.output().map_err(|error| format!("unshare: {error}"))?;
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    if status.success() { Ok(said) } else { Err(said) }
}

async fn on_the_small_disk(disk: &str) {
    let run = Location::open(disk).expect("opens");
    let tensor = |rows| {
        let whole = Whole {
            name: "w".into(),
            kind: Kind::Parameter,
            dtype: Dtype::F32,
            shape: vec![rows, 1024],
        };
        vec![(whole, 0)]
    };
    save(&run, &state(1, 1, 1), &tensor(64)).await.expect("256 KiB fit");
    let error = save(&run, &state(2, 1, 2), &tensor(224)).await.expect_err("448 KiB twice do not");
    assert!(error.is_no_space(), "{error:?}");
    assert!(error.to_string().contains("rank-0001-00.safetensors: no space left"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("free some space")));
    assert_eq!(error.exit_code(), 5);

    let newest = latest(&run).await.expect("looks").expect("the first");
    assert_eq!(newest.state.step, 1);
    Reader::open(&run.join(&step_folder(2))).await.expect_err("not a checkpoint");
    discard(&run, 2).await.expect("discarded");
    save(&run, &state(3, 1, 1), &tensor(64)).await.expect("there is room again");
}
