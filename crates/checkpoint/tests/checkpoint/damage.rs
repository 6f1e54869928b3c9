//! Damage is found, and nothing unfinished is a checkpoint.

use std::path::{Path, PathBuf};

use crate::common::{Whole, folder, save, state};
use strand_checkpoint::{
    CheckpointError, Dtype, Kind, MANIFEST, Reader, commit, discard, latest, list, prune,
    step_folder, verify, write_part,
};
use strand_store::Location;

fn tensors() -> Vec<(Whole, usize)> {
    let whole = |kind| Whole { name: "w".into(), kind, dtype: Dtype::F32, shape: vec![4, 6] };
    vec![(whole(Kind::Parameter), 0), (whole(Kind::ExpAvg), 1)]
}

fn files(folder: &Location) -> Vec<PathBuf> {
    let path = folder.local_path().expect("local");
    let entries = std::fs::read_dir(path).expect("lists");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

async fn is_sound(folder: &Location) -> bool {
    verify(folder).await.is_ok_and(|report| report.is_sound())
}

#[tokio::test]
async fn verify_finds_every_flipped_byte() {
    let (_guard, run) = folder();
    save(&run, &state(1, 1, 2), &tensors()).await.expect("saved");
    let folder = run.join(&step_folder(1));
    assert!(is_sound(&folder).await);
    let files = files(&folder);
    assert_eq!(files.len(), 3, "two ranks and the manifest");
    for file in files {
        let bytes = std::fs::read(&file).expect("read");
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(&file, &flipped).expect("written");
            assert!(!is_sound(&folder).await, "{}: byte {at}", file.display());
        }
        std::fs::write(&file, &bytes).expect("written");
    }
    assert!(is_sound(&folder).await);
}

#[tokio::test]
async fn verify_finds_lost_cut_and_longer_files() {
    let (_guard, run) = folder();
    save(&run, &state(1, 1, 2), &tensors()).await.expect("saved");
    let folder = run.join(&step_folder(1));
    let body = files(&folder)
        .into_iter()
        .find(|path| path.ends_with("attempt-1-rank-0001-00.safetensors"));
    let body = body.expect("rank 1's file");
    let bytes = std::fs::read(&body).expect("read");
    let longer = [&bytes[..], b"x"].concat();
    for (content, word) in [(&bytes[..bytes.len() - 1], "bytes, not"), (&longer, "bytes, not")] {
        std::fs::write(&body, content).expect("written");
        let report = verify(&folder).await.expect("verifies");
        assert!(report.faults[0].reason.contains(word), "{report:?}");
    }
    std::fs::remove_file(&body).expect("removed");
    let report = verify(&folder).await.expect("verifies");
    assert_eq!(report.faults.len(), 1);
    assert!(report.faults[0].url.ends_with("rank-0001-00.safetensors"), "{report:?}");
    assert_eq!(report.faults[0].reason, "the file is missing");
}

/// Reading is as strict as verifying: the slice of a damaged block is not handed out.
#[tokio::test]
async fn a_reader_refuses_a_flipped_value_and_names_the_file() {
    let (_guard, run) = folder();
    let manifest = save(&run, &state(1, 1, 2), &tensors()).await.expect("saved");
    let folder = run.join(&step_folder(1));
    let part = &manifest.tensor("w", Kind::Parameter).expect("w").parts[1];
    let file = folder.local_path().expect("local").join(&part.file);
    flip(&file, part.begin as usize + 3);
    let reader = Reader::open(&folder).await.expect("opens");
    let error =
        reader.read_slice("w", Kind::Parameter, &[3, 5], &[1, 1]).await.expect_err("refused");
    let message = error.to_string();
    assert!(message.contains(&part.file) && message.contains("wrong checksum"), "{message}");
    assert!(error.hint().is_some_and(|hint| hint.contains("verify")));
    reader
        .read_slice("w", Kind::Parameter, &[0, 0], &[2, 6])
        .await
        .expect("the other part is sound");
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).expect("read");
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).expect("written");
}

#[tokio::test]
async fn a_folder_without_manifest_is_not_a_checkpoint() {
    let (_guard, run) = folder();
    assert!(list(&run).await.expect("lists").is_empty());
    assert!(latest(&run).await.expect("looks").is_none());
    assert!(latest(&run.join("none")).await.expect("looks").is_none());
    save(&run, &state(1, 1, 1), &tensors()).await.expect("saved");
    save(&run, &state(2, 1, 1), &tensors()).await.expect("saved");
    let second = run.join(&step_folder(2));
    second.delete(MANIFEST).await.expect("deleted");
    let newest = latest(&run).await.expect("looks").expect("one");
    assert_eq!(newest.state, state(1, 1, 1));
    assert_eq!(list(&run).await.expect("lists").len(), 1);
    let error = Reader::open(&second).await.expect_err("refused");
    assert!(matches!(error, CheckpointError::NotACheckpoint { .. }), "{error}");
    assert!(error.to_string().contains("step-00000002"), "{error}");
}

/// Continuing from an older checkpoint in silence would lose work in silence.
#[tokio::test]
async fn a_damaged_newest_manifest_is_an_error_that_names_it() {
    let (_guard, run) = folder();
    save(&run, &state(1, 1, 1), &tensors()).await.expect("saved");
    save(&run, &state(2, 1, 1), &tensors()).await.expect("saved");
    let manifest = run.local_path().expect("local").join("step-00000002/manifest.json");
    flip(&manifest, 200);
    let error = latest(&run).await.expect_err("refused").to_string();
    assert!(error.contains("step-00000002/manifest.json: damaged"), "{error}");
    assert!(list(&run).await.is_err());
    let moved = run.local_path().expect("local").join("step-00000003");
    std::fs::rename(manifest.parent().expect("a folder"), &moved).expect("moved");
    std::fs::copy(moved.with_file_name("step-00000001").join(MANIFEST), moved.join(MANIFEST))
        .expect("copied");
    let error = latest(&run).await.expect_err("refused").to_string();
    assert!(error.contains("it is of step 1"), "{error}");
}

#[tokio::test]
async fn parts_that_overlap_or_leave_a_hole_are_refused() {
    let whole = tensors().remove(0).0;
    let cases: [(&[u64], &[u64], &str); 3] = [
        (&[1, 0], &[3, 6], "overlap at index [1, 0]"),
        (&[2, 0], &[1, 6], "18 of 24 values, index [3, 0] is missing"),
        (&[2, 1], &[2, 5], "22 of 24 values, index [2, 0] is missing"),
    ];
    for (offset, extent, expected) in cases {
        let (_guard, run) = folder();
        let state = state(1, 1, 2);
        let first = vec![whole.piece(&[0, 0], &[2, 6])];
        let second = vec![whole.piece(offset, extent)];
        let parts = vec![
            write_part(&run, &state, 0, first).await.expect("written"),
            write_part(&run, &state, 1, second).await.expect("written"),
        ];
        let error = commit(&run, &state, parts).await.expect_err("refused").to_string();
        assert!(error.contains(expected) && error.contains("`w` (parameter)"), "{error}");
        assert!(latest(&run).await.expect("looks").is_none());
    }
}

#[tokio::test]
async fn parts_that_do_not_belong_together_are_refused() {
    let (_guard, run) = folder();
    let state = state(4, 1, 2);
    let whole = tensors().remove(0).0;
    let top =
        write_part(&run, &state, 0, vec![whole.piece(&[0, 0], &[2, 6])]).await.expect("written");
    let low =
        write_part(&run, &state, 1, vec![whole.piece(&[2, 0], &[2, 6])]).await.expect("written");
    let refused = async |parts| commit(&run, &state, parts).await.expect_err("refused").to_string();
    assert_eq!(refused(vec![top.clone()]).await, "step 4: 0 parts of rank 1, need 1");
    assert!(refused(vec![top.clone(), top.clone()]).await.contains("2 parts of rank 0"));
    let mut stale = low.clone();
    stale.writer_epoch = 0;
    assert!(refused(vec![top.clone(), stale]).await.contains("rank 1 is of step 4, attempt 0"));
    let mut other = low.clone();
    other.tensors[0].shape = vec![5, 6];
    assert!(refused(vec![top.clone(), other]).await.contains("on another rank"));
    run.join(&step_folder(4)).delete(&low.files[0].path).await.expect("deleted");
    assert!(refused(vec![top, low]).await.contains("damaged: missing"));
}

#[tokio::test]
async fn a_later_attempt_wins_and_an_earlier_one_is_fenced() {
    let (_guard, run) = folder();
    let mut later = state(1, 1, 1);
    later.writer_epoch = 2;
    save(&run, &state(1, 1, 1), &tensors()).await.expect("saved");
    save(&run, &later, &tensors()).await.expect("replaced");
    let error = save(&run, &state(1, 1, 1), &tensors()).await.expect_err("fenced");
    assert!(matches!(error, CheckpointError::Fenced { theirs: 2, ours: 1, .. }), "{error}");
    let folder = run.join(&step_folder(1));
    let report = verify(&folder).await.expect("verifies");
    assert!(report.is_sound());
    assert_eq!(report.extra_files, ["attempt-1-rank-0000-00.safetensors"]);
    assert_eq!(latest(&run).await.expect("looks").expect("one").state.writer_epoch, 2);
}

#[tokio::test]
async fn pruning_keeps_what_was_asked_for() {
    let (_guard, run) = folder();
    for step in 1..=5 {
        let mut state = state(step, 1, 1);
        state.stage_done = step == 2;
        save(&run, &state, &tensors()).await.expect("saved");
    }
    run.join(&step_folder(3)).delete(MANIFEST).await.expect("deleted");
    std::fs::write(run.local_path().expect("local").join("step-00000001/manifest.json"), "{}")
        .expect("written");
    assert_eq!(prune(&run, 1, true).await.expect("pruned"), [3, 4]);
    let left = run.list_folders("").await.expect("lists");
    assert_eq!(left, ["step-00000001", "step-00000002", "step-00000005"]);
}

#[tokio::test]
async fn only_unfinished_folders_are_discarded() {
    let (_guard, run) = folder();
    save(&run, &state(1, 1, 1), &tensors()).await.expect("saved");
    write_part(&run, &state(2, 1, 1), 0, Vec::new()).await.expect("nothing to write");
    let piece = tensors().remove(0).0.piece(&[0, 0], &[4, 6]);
    write_part(&run, &state(2, 1, 1), 0, vec![piece]).await.expect("written");
    discard(&run, 2).await.expect("discarded");
    discard(&run, 2).await.expect("again");
    let error = discard(&run, 1).await.expect_err("refused");
    assert!(matches!(error, CheckpointError::Committed { .. }), "{error}");
    assert_eq!(run.list_folders("").await.expect("lists"), ["step-00000001"]);
}
