//! Store and checkpoint on S3: a real server on this machine, started by each test.
//!
//! S3 settings come from the environment, so each test runs twice: first it starts a server and itself again with the
//! server's settings, then it does its work.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use strand_checkpoint::{
    Dtype, Kind, MANIFEST, Manifest, Piece, Reader, State, commit, latest, list, prune,
    step_folder, verify, write_part,
};
use strand_store::{Location, StoreError};
use strand_tests::harness::{Workspace, json_lines, same_bits, strand, text};

/// The server's root, where the test is the inner one.
const ROOT: &str = "STRAND_TEST_S3_ROOT";

/// A server that ends with the test, or by itself where the test is killed.
struct Server {
    child: Child,
    /// AWS_* settings.
    settings: Vec<(String, String)>,
}

impl Server {
    fn start(root: &Path, seconds: u64) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_s3_server"))
            .arg("--root")
            .arg(root)
            .args(["--seconds", &seconds.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let settings = line.strip_prefix("export ").expect("settings");
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=').expect("key=value");
            (key.to_owned(), value.to_owned())
        };
        let settings = settings.split_whitespace().map(pair).collect();
        Server { child, settings }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }
}

/// Runs `check` with a location on a server of its own and the server's folder of the same objects.
fn on_s3(test: &str, check: impl AsyncFnOnce(Location, PathBuf)) {
    on_s3_with(test, &[], check);
}

/// As [`on_s3`], with other settings than the server's.
fn on_s3_with(test: &str, settings: &[(&str, &str)], check: impl AsyncFnOnce(Location, PathBuf)) {
    if let Ok(root) = std::env::var(ROOT) {
        let location = Location::open("s3://strand/some/prefix").expect("opens");
        let folder = Path::new(&root).join("strand/some/prefix");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        return runtime.block_on(check(location, folder));
    }
    let root = tempfile::tempdir().expect("a folder");
    let server = Server::start(root.path(), 120);
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args([test, "--exact", "--nocapture"])
        .envs(server.settings.clone())
        .envs(settings.iter().copied())
        .env(ROOT, root.path())
        .output()
        .expect("runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn bytes(length: usize) -> Bytes {
    let byte = |i: usize| (i.wrapping_mul(2_654_435_761) >> 13) as u8;
    (0..length).map(byte).collect()
}

#[test]
fn objects_are_put_read_listed_and_deleted() {
    on_s3("objects_are_put_read_listed_and_deleted", async |s3, _| {
        let content = bytes(10_000);
        s3.put("a/one", content.clone()).await.expect("written");
        s3.put("a/b/two", Bytes::from_static(b"2")).await.expect("written");
        assert_eq!(s3.get("a/one").await.expect("read"), content);
        assert_eq!(s3.get_range("a/one", 100..9_000).await.expect("read"), content[100..9_000]);
        for range in [9_999..10_001, 10_000..10_001, 20_000..20_010] {
            let error = s3.get_range("a/one", range).await.expect_err("too short");
            assert!(matches!(error, StoreError::Truncated { bytes: 10_000, .. }), "{error:?}");
        }
        let error = s3.get("a/none").await.expect_err("missing");
        assert_eq!(error.to_string(), "s3://strand/some/prefix/a/none: not found");
        let paths = async |prefix: &str| -> Vec<(String, u64)> {
            let entries = s3.list(prefix).await.expect("lists");
            entries.into_iter().map(|entry| (entry.path, entry.bytes)).collect()
        };
        assert_eq!(paths("").await, [("a/b/two".into(), 1), ("a/one".into(), 10_000)]);
        assert_eq!(s3.list_folders("a").await.expect("lists"), ["b"]);
        s3.delete("a/one").await.expect("deleted");
        s3.delete("a/one").await.expect("deleted twice");
        assert_eq!(paths("a").await, [("a/b/two".into(), 1)]);
        s3.delete_folder("a").await.expect("deleted");
        assert_eq!(paths("").await, []);
    });
}

/// One after the other: this server looks, then writes, so of two writers at once both may win.
#[test]
fn a_conditional_put_does_not_replace() {
    on_s3("a_conditional_put_does_not_replace", async |s3, _| {
        s3.put_new("x", Bytes::from_static(b"1")).await.expect("new");
        let error = s3.put_new("x", Bytes::from_static(b"2")).await.expect_err("exists");
        assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error:?}");
        assert_eq!(&s3.get("x").await.expect("read")[..], b"1");
    });
}

#[test]
fn large_objects_go_up_in_parts_and_arrive_whole() {
    on_s3("large_objects_go_up_in_parts_and_arrive_whole", async |s3, folder| {
        let content = bytes((40 << 20) + 17);
        s3.put("large", content.clone()).await.expect("written");
        let local = folder.join("large");
        assert!(std::fs::read(&local).expect("read") == content, "put");
        s3.put_file("copy", &local).await.expect("copied");
        assert!(s3.get("copy").await.expect("read") == content, "put_file");
        let edge = (16 << 20) - 5..(16 << 20) + 5;
        let across = s3.get_range("copy", edge.clone()).await.expect("read");
        assert_eq!(across, content[edge.start as usize..edge.end as usize]);
    });
}

/// Only for reading: this server makes a missing bucket when it writes.
#[test]
fn a_missing_bucket_is_not_found() {
    on_s3("a_missing_bucket_is_not_found", async |_, _| {
        let other = Location::open("s3://other/x").expect("opens");
        let error = other.get("y").await.expect_err("no bucket");
        assert_eq!(error.to_string(), "s3://other/x/y: not found");
    });
}

#[test]
fn wrong_credentials_are_denied_and_named() {
    let wrong = [("AWS_SECRET_ACCESS_KEY", "wrong")];
    on_s3_with("wrong_credentials_are_denied_and_named", &wrong, async |s3, _| {
        let error = s3.put("x", Bytes::from_static(b"1")).await.expect_err("denied");
        assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("AWS_SECRET_ACCESS_KEY")));
        assert!(!error.to_string().contains("wrong"), "a secret in a message: {error}");
    });
}

#[test]
fn the_server_ends_by_itself() {
    let root = tempfile::tempdir().expect("a folder");
    let started = Instant::now();
    let mut server = Server::start(root.path(), 1);
    let status = server.child.wait().expect("ends");
    assert!(status.success(), "{status}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

fn state(step: u64) -> State {
    State {
        step,
        stage: "base".into(),
        stage_step: step,
        stage_done: step == 2,
        cursor: serde_json::json!({"consumed": 64}),
        recipe_hash: "cafe".into(),
        seed: 1,
        writer_epoch: 1,
        dp: 1,
        tp: 2,
    }
}

const SHAPE: [u64; 2] = [1024, 6144];

/// Rows `first..first + rows` of a 24 MiB matrix.
fn piece(values: &Bytes, first: u64, rows: u64) -> Piece {
    let width = SHAPE[1] * 4;
    let range = (first * width) as usize..((first + rows) * width) as usize;
    Piece {
        name: "w".into(),
        kind: Kind::Parameter,
        dtype: Dtype::F32,
        shape: SHAPE.into(),
        offset: vec![first, 0],
        extent: vec![rows, SHAPE[1]],
        data: values.slice(range),
    }
}

/// Saves as two ranks: one part of several blocks, a smaller one.
async fn save(run: &Location, step: u64, values: &Bytes) -> Manifest {
    let state = state(step);
    let pieces = [piece(values, 0, 700), piece(values, 700, 324)];
    let mut parts = Vec::new();
    for (rank, piece) in pieces.into_iter().enumerate() {
        parts.push(write_part(run, &state, rank, vec![piece]).await.expect("written"));
    }
    commit(run, &state, parts).await.expect("committed")
}

#[test]
fn a_checkpoint_is_committed_read_in_slices_and_verified() {
    on_s3("a_checkpoint_is_committed_read_in_slices_and_verified", async |s3, folder| {
        let run = s3.join("run/checkpoints");
        assert!(latest(&run).await.expect("looks").is_none());
        let values = bytes((SHAPE[0] * SHAPE[1] * 4) as usize);
        let written = save(&run, 2, &values).await;
        assert_eq!(latest(&run).await.expect("looks"), Some(written.clone()));

        let step = run.join(&step_folder(2));
        let reader = Reader::open(&step).await.expect("opens");
        let read = async |offset: [u64; 2], extent: [u64; 2]| {
            reader.read_slice("w", Kind::Parameter, &offset, &extent).await
        };
        let whole = read([0, 0], SHAPE).await.expect("read");
        assert!(whole == values, "the whole tensor differs");
        let columns = read([0, 3072], [1024, 3072]).await.expect("read");
        let rows = values.chunks(SHAPE[1] as usize * 4);
        let expected: Vec<u8> = rows.flat_map(|row| &row[12_288..]).copied().collect();
        assert!(columns == expected, "the right half differs");

        assert!(verify(&step).await.expect("verifies").is_sound());
        let part = &written.tensors[0].parts[0];
        let body = folder.join("run/checkpoints/step-00000002").join(&part.file);
        flip(&body, part.begin as usize + (9 << 20));
        let report = verify(&step).await.expect("verifies");
        let place = format!("bytes {}..{}", part.begin + (8 << 20), part.begin + (12 << 20));
        assert_eq!(report.faults.len(), 1);
        assert!(report.faults[0].url.ends_with(&part.file), "{report:?}");
        assert!(report.faults[0].reason.contains(&place), "{report:?}");
        let error = read([0, 0], SHAPE).await.expect_err("damaged").to_string();
        assert!(
            error.contains("s3://strand/some/prefix/run/checkpoints/step-00000002/"),
            "{error}"
        );
        read([700, 0], [324, 6144]).await.expect("the other part is sound");
    });
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).expect("read");
    bytes[at] ^= 1;
    std::fs::write(file, bytes).expect("written");
}

#[test]
fn checkpoints_are_pruned() {
    on_s3("checkpoints_are_pruned", async |s3, _| {
        let run = s3.join("run/checkpoints");
        let values = bytes((SHAPE[0] * SHAPE[1] * 4) as usize);
        for step in 1..=4 {
            save(&run, step, &values).await;
        }
        run.join(&step_folder(3)).delete(MANIFEST).await.expect("deleted");
        assert_eq!(prune(&run, 1, true).await.expect("pruned"), [1, 3]);
        let steps: Vec<u64> =
            list(&run).await.expect("lists").iter().map(|m| m.state.step).collect();
        assert_eq!(steps, [2, 4]);
        let left = run.list("").await.expect("lists");
        assert!(left.iter().all(|entry| entry.path.starts_with("step-00000002/")
            || entry.path.starts_with("step-00000004/")));
    });
}

/// Waits until a step's checkpoint is committed.
async fn committed(s3: &Location, step: u64) {
    let manifest = format!("run/checkpoints/{}/{MANIFEST}", step_folder(step));
    let started = Instant::now();
    while !s3.exists(&manifest).await.expect("known") {
        assert!(started.elapsed() < Duration::from_secs(60), "no checkpoint of step {step}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// This server copies an object only into a folder that exists; S3 has no folders.
fn make_room_for_copies(run: &Path, attempt: u64) {
    let aside = run.join(format!("previous/before-attempt-{attempt}/checkpoints"));
    for entry in std::fs::read_dir(run.join("checkpoints")).expect("checkpoints") {
        std::fs::create_dir_all(aside.join(entry.expect("an entry").file_name())).expect("made");
    }
}

/// Another cache folder is another machine: nothing of the first one's working copy is there.
#[test]
fn a_run_in_storage_goes_on_on_another_machine() {
    on_s3("a_run_in_storage_goes_on_on_another_machine", async |s3, folder| {
        let workspace = Workspace::new().expect("data");
        workspace.train("whole", (2, 2), &[]).expect("trained");
        let expected = workspace.metrics("whole").expect("metrics");
        let url = s3.url_of("run");
        let launch = |machine: &str, arguments: &[&str]| {
            let mut command = workspace.launch(&url, arguments).expect("built");
            command.env("XDG_CACHE_HOME", workspace.path(machine));
            command
        };
        let succeed = |machine: &str, arguments: &[&str]| {
            let output = launch(machine, arguments).output().expect("runs");
            assert!(output.status.success(), "{}", text(&output.stderr));
        };
        let metrics = async || {
            let bytes = s3.get("run/metrics.jsonl").await.expect("metrics");
            json_lines(&text(&bytes)).expect("JSON lines")
        };

        let mut child = launch("first", &[]).spawn().expect("starts");
        committed(&s3, 14).await;
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert!(metrics().await.len() >= 14, "no checkpoint is ahead of the metrics");
        succeed("second", &[]);
        same_bits(&metrics().await, &expected).expect("the same steps");

        let shown = strand(["runs", "show", &url, "--json"]).expect("runs");
        let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        assert_eq!((&shown["status"], &shown["step"]), (&"done".into(), &22.into()));
        assert_eq!(shown["attempts"], 2);
        for file in ["recipe.yaml", "report.html", "logs/attempt-2/rank-0003.log"] {
            assert!(s3.exists(&format!("run/{file}")).await.expect("known"), "{file}");
        }

        make_room_for_copies(&folder.join("run"), 3);
        succeed("first", &["--resume", "never"]);
        same_bits(&metrics().await, &expected).expect("the same steps");
        let aside = s3.join("run/previous/before-attempt-3/checkpoints");
        let kept = latest(&aside).await.expect("lists").expect("a checkpoint");
        assert_eq!(kept.state.step, 22);

        let own = format!("{url}/checkpoints/{}", step_folder(10));
        make_room_for_copies(&folder.join("run"), 4);
        succeed("first", &["--resume", &own]);
        same_bits(&metrics().await, &expected).expect("the same steps");
    });
}
