//! The tools of data engineers, as they type them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use strand_tests::harness::{program, strand, text};
use tempfile::TempDir;

/// A folder of files to work on.
struct Desk(TempDir);

impl Desk {
    fn new() -> Result<Desk> {
        Ok(Desk(tempfile::tempdir()?))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        Ok(std::fs::write(path, bytes)?)
    }

    /// Runs `strand data WORDS --json`; words that begin with `@` are paths on this desk.
    fn run(&self, words: &str) -> Result<(Option<i32>, Value)> {
        let word = |word: &str| match word.strip_prefix('@') {
            Some(name) => self.path(name).display().to_string(),
            None => word.to_owned(),
        };
        let words = std::iter::once("data").chain(words.split_whitespace()).map(word);
        let output = strand(words.chain(["--json".to_owned()]))?;
        let document = serde_json::from_slice(&output.stdout).with_context(|| {
            format!("not one document: {}{}", text(&output.stdout), text(&output.stderr))
        })?;
        Ok((output.status.code(), document))
    }

    /// As [`Self::run`], for what has to end well.
    fn done(&self, words: &str) -> Result<Value> {
        let (code, document) = self.run(words)?;
        ensure!(code == Some(0), "{words}: {code:?} {document:#}");
        Ok(document)
    }

    /// As [`Self::run`], for what has to fail: the exit code, message and hint.
    fn refused(&self, words: &str) -> Result<(i32, String, String)> {
        let (code, document) = self.run(words)?;
        let word = |key: &str| document["error"][key].as_str().unwrap_or_default().to_owned();
        ensure!(code != Some(0), "{words} did not fail: {document:#}");
        Ok((code.context("a signal")?, word("message"), word("hint")))
    }

    fn encoder(&self) -> Result<()> {
        let encoder = json!({"kind": "test", "hash": "0", "image_size": 224, "sampling": "middle:2",
            "question_conditioned": false});
        self.write("encoder.json", encoder.to_string())
    }
}

/// A `.npy` file of `frames` × 2 tokens × 4 float32 values.
fn array(frames: usize, first: f32) -> Vec<u8> {
    let header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({frames}, 2, 4), }}\n");
    let length = u16::try_from(header.len()).unwrap_or_default().to_le_bytes();
    let values = (0..frames * 8).flat_map(|value| (first + value as f32).to_le_bytes());
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &values.collect::<Vec<u8>>()].concat()
}

fn is_data_set(path: &Path) -> bool {
    path.join("manifest.json").exists()
}

#[test]
fn features_and_a_list_of_questions_become_a_data_set() -> Result<()> {
    let desk = Desk::new()?;
    desk.encoder()?;
    desk.write("features/a/one.npy", array(2, 0.0))?;
    desk.write("features/two.npy", array(4, 9.0))?;
    let pair = json!({"i": "", "q": "What?", "a": "That."});
    let records = |names: &[&str]| {
        let record = |name: &&str| json!({"video": name, "QA": [pair]});
        Value::Array(names.iter().map(record).collect()).to_string()
    };
    desk.write("qa.json", records(&["two.mp4", "a/one.mp4"]))?;
    let pack =
        "pack --features @features --annotations @qa.json --encoder @encoder.json --out @out";
    let report = desk.done(pack)?;
    ensure!(
        (&report["rows"], &report["tokens"], &report["dim"]) == (&json!(2), &json!(2), &json!(4))
    );
    ensure!(report["frames"] == json!([2, 4]), "{report:#}");
    desk.done("verify @out")?;
    let seen = desk.done("inspect @out")?;
    ensure!(seen["rows"][0]["id"] == "00000000-two.mp4", "{seen:#}");

    let (code, message, _) = desk.refused(pack)?;
    ensure!(code == 5 && message.contains("already exists"), "{code} {message}");
    desk.write("qa.json", records(&["two.mp4", "gone.mp4"]))?;
    let elsewhere = pack.replace("@out", "@other");
    let (code, message, hint) = desk.refused(&elsewhere)?;
    ensure!(code == 4 && message.contains("record 1 (`gone.mp4`)"), "{code} {message}");
    ensure!(hint.contains("--skip-missing 1") && !is_data_set(&desk.path("other")), "{hint}");
    let report = desk.done(&format!("{elsewhere} --skip-missing 1 --dtype bf16"))?;
    ensure!(report["missing"] == json!([{"record": 1, "name": "gone.mp4"}]), "{report:#}");
    Ok(())
}

/// `@synth/train`: 90 rows of six kinds in row groups of 20.
fn synthetic(desk: &Desk) -> Result<()> {
    let words = "synth --train-rows 90 --held-out-rows 6 --feature-size 16 --rows-per-group 20 --out @synth";
    desk.done(words).map(drop)
}

fn rows(report: &Value) -> Vec<u64> {
    let parts = report["parts"].as_array().into_iter().flatten();
    parts.filter_map(|part| part["rows"].as_u64()).collect()
}

#[test]
fn a_data_set_is_cut_anew_and_divided() -> Result<()> {
    let desk = Desk::new()?;
    synthetic(&desk)?;
    let small =
        desk.done("reshard @synth/train --out @small --row-group-mb 0.02 --shard-mb 0.1")?;
    ensure!(small["parts"][0]["shards"].as_u64() > Some(1), "{small:#}");
    let back = desk.done("reshard @small --out @back --rows-per-group 20")?;
    ensure!(back["parts"][0]["id"] == small["source_id"], "the way back gives the same bytes");

    let split = "--split train=0.8,held_out=0.2 --seed 3";
    let parts = desk.done(&format!("reshard @synth/train --out @parts {split}"))?;
    ensure!(rows(&parts).iter().sum::<u64>() == 90 && rows(&parts).len() == 2, "{parts:#}");
    let again = desk.done(&format!("reshard @small --out @again {split}"))?;
    ensure!(rows(&again) == rows(&parts));
    for part in ["parts/train", "parts/held_out", "small"] {
        desk.done(&format!("verify @{part}"))?;
    }
    let few =
        desk.done("reshard @synth/train --out @few --subset 7 --kind direction --media video")?;
    ensure!(rows(&few) == [7], "{few:#}");
    for words in ["--split a=0.5", "--subset 2.5", "--frames 9..8", "--id ("] {
        let (code, message, _) = desk.refused(&format!("reshard @small --out @no {words}"))?;
        ensure!(code == 2, "{words}: {code} {message}");
    }
    let (code, message, _) = desk.refused("reshard @small --out @no --frames 99..")?;
    ensure!(code == 2 && message.contains("no row is left"), "{code} {message}");
    ensure!(!is_data_set(&desk.path("no")));
    Ok(())
}

#[test]
fn a_killed_reshard_commits_nothing_and_can_be_repeated() -> Result<()> {
    let desk = Desk::new()?;
    desk.done("synth --train-rows 3000 --held-out-rows 6 --feature-size 16 --out @synth")?;
    let sizes = "--rows-per-group 4 --shard-mb 0.1";
    let whole = desk.done(&format!("reshard @synth/train --out @whole {sizes}"))?;
    let mut child = Command::new(program("strand")?)
        .args(["data", "reshard", "--out"])
        .arg(desk.path("out"))
        .arg(desk.path("synth/train"))
        .args(sizes.split(' '))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let started = Instant::now();
    while !desk.path("out/shard-00002.parquet").exists() && child.try_wait()?.is_none() {
        ensure!(started.elapsed() < Duration::from_secs(60), "no shard after a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill()?;
    if child.wait()?.success() {
        println!("it was done before it could be killed");
        return Ok(());
    }
    ensure!(!is_data_set(&desk.path("out")), "a manifest before all shards");
    let again = desk.done(&format!("reshard @synth/train --out @out {sizes}"))?;
    ensure!(again["parts"][0]["id"] == whole["parts"][0]["id"]);
    desk.done("verify @out").map(drop)
}

#[test]
fn samples_in_a_tar_file_bring_their_questions() -> Result<()> {
    let desk = Desk::new()?;
    desk.encoder()?;
    let json = br#"{"question": "What?", "answer": "That.", "kind": "k"}"#;
    let members: [(&str, &[u8]); 4] = [
        ("s/0.npy", &array(2, 0.0)),
        ("s/0.json", json),
        ("s/1.json", json),
        ("s/1.npy", &array(3, 5.0)),
    ];
    desk.write("x.tar", tar(&members))?;
    let pack = "pack --features @x.tar --encoder @encoder.json --out @out";
    desk.done(pack)?;
    let seen = desk.done("inspect @out")?;
    ensure!(seen["rows"][1]["id"] == "s/1" && seen["rows"][1]["frames"] == 3, "{seen:#}");
    ensure!(seen["rows"][0]["qa"][0]["kind"] == "k", "{seen:#}");
    let lines =
        r#"{"id": "one", "video": "s/1", "question": "Q", "answer": "A", "start": 0.5, "end": 1}"#;
    desk.write("qa.jsonl", lines)?;
    let words = pack.replace("@out", "@clip --annotations @qa.jsonl --feature-fps 2");
    let report = desk.done(&words)?;
    ensure!(report["frames"] == json!([2, 2]) && report["unused"] == 1, "{report:#}");
    desk.write("x.tar", &tar(&members)[..600])?;
    let (code, message, _) = desk.refused(&pack.replace("@out", "@cut"))?;
    ensure!(code == 4 && message.contains("x.tar: it"), "{code} {message}");
    Ok(())
}

/// A tar file of these members.
fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    for (name, body) in members {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..135].copy_from_slice(format!("{:011o}", body.len()).as_bytes());
        block[148..157].copy_from_slice(b"        0");
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        file.extend(block);
        file.extend(*body);
        file.resize(file.len().next_multiple_of(512), 0);
    }
    file.resize(file.len() + 1024, 0);
    file
}

#[test]
fn a_data_set_is_described_and_drawn() -> Result<()> {
    let desk = Desk::new()?;
    synthetic(&desk)?;
    let words = "stats @synth/train --tokenizer @synth/tokenizer.json --picture @page.html";
    let found = desk.done(words)?;
    ensure!(found["rows"] == 90 && found["media"]["video"] == 90, "{found:#}");
    let of = |name: &str| {
        let all = found["distributions"].as_array().into_iter().flatten();
        all.clone().find(|one| one["of"] == name).cloned().unwrap_or_default()
    };
    ensure!(of("frames")["median"] == 6.0 && of("visual_tokens")["most"] == 96.0, "{found:#}");
    ensure!(of("answer_tokens")["count"] == found["questions"], "{found:#}");
    let page = std::fs::read_to_string(desk.path("page.html"))?;
    ensure!(page.contains("<svg") && page.contains("direction") && !page.contains("<script"));
    desk.done("stats @synth/train --picture @page.svg")?;
    ensure!(std::fs::read_to_string(desk.path("page.svg"))?.starts_with("<svg"));
    let (code, message, _) = desk.refused("stats @synth/train --picture @page.png")?;
    ensure!(code == 2 && message.contains(".html or .svg"), "{code} {message}");
    let seen = desk.done("inspect @synth/train --rows 3")?;
    ensure!(
        seen["rows"].as_array().map(Vec::len) == Some(3) && seen["num_groups"] == 5,
        "{seen:#}"
    );
    Ok(())
}

#[test]
fn all_damage_is_listed_with_its_place() -> Result<()> {
    let desk = Desk::new()?;
    synthetic(&desk)?;
    desk.done("reshard @synth/train --out @small --rows-per-group 10 --shard-mb 0.1")?;
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(desk.path("small/manifest.json"))?)?;
    for (shard, group) in [(0, 0), (0, 1), (1, 0)] {
        let shard = &manifest["shards"][shard];
        let path = desk.path("small").join(shard["path"].as_str().context("a path")?);
        let group = &shard["groups"][group];
        let middle =
            group["offset"].as_u64().zip(group["bytes"].as_u64()).map(|(at, n)| at + n / 2);
        let mut file = std::fs::read(&path)?;
        file[middle.context("a group")? as usize] ^= 4;
        std::fs::write(&path, file)?;
    }
    let (code, document) = desk.run("verify @small --jobs 3")?;
    let found = &document["error"]["verification"];
    let problems: Vec<&str> = found["problems"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|problem| problem["message"].as_str())
        .collect();
    ensure!(code == Some(4) && found["damaged"] == 2 && problems.len() == 3, "{document:#}");
    let places = [
        "00000.parquet, row group 0, row ",
        "00000.parquet, row group 1, row ",
        "00001.parquet, row group 0",
    ];
    for (problem, place) in problems.iter().zip(places) {
        ensure!(problem.contains(place) && problem.contains("checksum mismatch"), "{problem}");
    }
    ensure!(found["rows"] == 60, "{found:#}");
    Ok(())
}

#[test]
fn a_folder_without_a_manifest_is_shown_and_adopted() -> Result<()> {
    let desk = Desk::new()?;
    synthetic(&desk)?;
    desk.encoder()?;
    let before = desk.done("inspect @synth/train")?;
    std::fs::remove_file(desk.path("synth/train/manifest.json"))?;
    let plain = desk.done("inspect @synth/train")?;
    ensure!(plain["manifest"] == false && plain["num_rows"] == 90, "{plain:#}");
    let adopt = "pack --adopt @synth/train --encoder @encoder.json";
    desk.done(adopt)?;
    let after = desk.done("inspect @synth/train")?;
    ensure!(after["encoder"]["kind"] == "test" && after["rows"] == before["rows"], "{after:#}");
    desk.done("verify @synth/train")?;
    let (code, message, _) = desk.refused(adopt)?;
    ensure!(code == 5 && message.contains("already exists"), "{code} {message}");
    let (code, message, _) = desk.refused("inspect @nothing")?;
    ensure!(code == 4 && message.contains("not a data set"), "{code} {message}");
    Ok(())
}

#[test]
fn a_bench_reads_as_a_trainer_would() -> Result<()> {
    let desk = Desk::new()?;
    desk.done("synth --out @set --train-rows 100 --held-out-rows 10 --frames 6 --feature-size 16")?;
    let bench = desk.done("bench @set/train --batch 7 --runs 2")?;
    for run in bench["runs"].as_array().context("runs")? {
        ensure!(run["samples"] == 100 && run["retries"] == 0, "{run:#}");
        let (downloaded, bytes) = (run["downloaded"].as_u64(), run["bytes"].as_u64());
        ensure!(downloaded > bytes && bytes > Some(0), "{run:#}");
        for key in ["seconds", "first_batch_s", "resume_s"] {
            ensure!(run[key].as_f64() > Some(0.0), "{key}: {run:#}");
        }
    }
    for key in ["gb_per_s", "samples_per_s", "downloaded_per_unique", "peak_memory_bytes"] {
        ensure!(bench[key].as_f64() > Some(0.0), "{key}: {bench:#}");
    }
    ensure!(bench["retries"] == 0 && bench["hedges"] == 0, "{bench:#}");
    let few = desk.done("bench @set/train --batch 8 --batches 3 --ranks 4 --runs 1")?;
    ensure!(few["runs"][0]["samples"] == 24, "{few:#}");
    ensure!(few["downloaded_per_unique"].is_null(), "not a whole epoch");
    Ok(())
}
