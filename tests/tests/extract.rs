//! `strand data extract` with a real kind of encoder: features, errors, and what is left of a killed run.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use strand_data::{Dataset, Row};
use strand_tests::encoder::{ffmpeg, make_video, tiny};
use strand_tests::harness::{program, text};
use strand_vision::{Encoder, Family, Options, random};
use tch::{Device, Kind};
use tempfile::TempDir;

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// An ffmpeg that says nothing about one video for as long as the process that called it lives.
const GATED: &str = r#"#!/bin/sh
case "$*" in
*{video}*) while kill -0 "$PPID" 2>/dev/null; do sleep 0.05; done ;;
*) exec '{ffmpeg}' "$@" ;;
esac
"#;

/// A folder with a model and videos: `0.avi` is black, the others move.
struct Place {
    folder: TempDir,
    /// An ffmpeg that never comes to the end of the last video.
    gated: PathBuf,
}

impl Place {
    /// `None` without an ffmpeg, with a line that says so.
    fn new(family: Family, videos: usize) -> Result<Option<Place>> {
        let Some(ffmpeg) = ffmpeg() else {
            println!("passed over: no ffmpeg was found");
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        let gated = folder.path().join("gated.sh");
        let script = GATED.replace("{ffmpeg}", &ffmpeg.display().to_string());
        std::fs::write(&gated, script.replace("{video}", &format!("{}.avi", videos - 1)))?;
        std::fs::set_permissions(&gated, Permissions::from_mode(0o755))?;
        let place = Place { folder, gated };
        random::write_folder(&place.path("model"), &tiny(family))?;
        let mut records = Vec::new();
        for index in 0..videos {
            let source = match index {
                0 => "color=black:size=64x48:rate=8".to_owned(),
                _ => format!("testsrc2=size={}x48:rate=8", 64 + 16 * index),
            };
            let name = format!("{index}.avi");
            make_video(&ffmpeg, &source, &place.path(&name))?;
            records.push(json!({ "video": name, "QA": [
                { "i": "Look.", "q": "what is it?", "a": "a test" },
                { "q": "is it black?", "a": "yes" },
                { "q": "is it black?", "a": "indeed" } ] }));
        }
        std::fs::write(place.path("qa.json"), json!(records).to_string())?;
        Ok(Some(place))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn extract(&self, out: &str) -> Result<Command> {
        let mut command = Command::new(program("strand")?);
        command.args(["data", "extract", "--json", "--frames", "4", "--device", "cpu"]);
        command.arg("--annotations").arg(self.path("qa.json")).arg("--out").arg(self.path(out));
        command.arg("--media").arg(self.folder.path()).arg("--encoder").arg(self.path("model"));
        command.stdin(Stdio::null());
        Ok(command)
    }

    fn report(&self, out: &str) -> Result<Value> {
        self.report_with(out, &[])
    }

    fn report_with(&self, out: &str, arguments: &[&str]) -> Result<Value> {
        let output = self.extract(out)?.args(arguments).output()?;
        ensure!(output.status.success(), "{}", text(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn rows(&self, out: &str) -> Result<(Dataset, Vec<Row>)> {
        let runtime = tokio::runtime::Runtime::new()?;
        let set = runtime.block_on(Dataset::open(&self.path(out).display().to_string()))?;
        let rows = runtime.block_on(set.read_group(0, 0))?;
        Ok((set, rows))
    }

    /// Features of four black frames, computed here.
    fn black(&self, questions: &[&str]) -> Result<Vec<Vec<u8>>> {
        let options = Options { kind: Kind::Float, device: Device::Cpu, batch: 16 };
        let encoder = Encoder::open(&self.path("model"), options)?;
        let questions: Vec<String> = questions.iter().map(|&question| question.into()).collect();
        let features = encoder.encode(&vec![0; 4 * 56 * 56 * 3], &questions)?;
        let rows = features.size()[0];
        let row = |index| {
            let features = features.get(index).to_kind(Kind::Half).contiguous();
            let mut bytes = vec![0; features.numel() * 2];
            features.copy_data_u8(&mut bytes, features.numel());
            bytes
        };
        Ok((0..rows).map(row).collect())
    }
}

#[test]
fn features_of_a_question_free_encoder_belong_to_the_video() -> Result<()> {
    let Some(place) = Place::new(Family::Blip2, 2)? else { return Ok(()) };
    let report = place.report("set")?;
    ensure!((&report["rows"], &report["videos"]) == (&json!(2), &json!(2)), "{report}");
    let (set, rows) = place.rows("set")?;
    let encoder = &set.manifest().encoder;
    ensure!(encoder.kind == "blip2" && encoder.image_size == 56 && !encoder.question_conditioned);
    ensure!(rows[0].qa.len() == 3 && rows[0].frames == 4 && rows[0].tokens == 4);
    ensure!(rows[0].features[..] == place.black(&[])?[0][..], "the worker computes something else");
    ensure!(rows[1].features != rows[0].features);
    Ok(())
}

#[test]
fn features_of_a_question_conditioned_encoder_belong_to_the_question() -> Result<()> {
    let Some(place) = Place::new(Family::InstructBlip, 2)? else { return Ok(()) };
    let report = place.report("set")?;
    ensure!((&report["rows"], &report["videos"]) == (&json!(6), &json!(2)), "{report}");
    let (set, rows) = place.rows("set")?;
    ensure!(set.manifest().encoder.question_conditioned);
    let ids: Vec<&str> = rows[..3].iter().map(|row| row.id.as_str()).collect();
    ensure!(ids == ["00000000.000-0.avi", "00000000.001-0.avi", "00000000.002-0.avi"], "{ids:?}");
    let expected = place.black(&["Look. what is it?", "is it black?"])?;
    for (row, question) in rows.iter().zip([0, 1, 1]) {
        ensure!(row.qa.len() == 1 && row.features[..] == expected[question][..], "{}", row.id);
    }
    Ok(())
}

/// Files of a folder with their content, and nothing else in it.
fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        ensure!(entry.file_type()?.is_file(), "{name} is left");
        files.insert(name, std::fs::read(entry.path())?);
    }
    Ok(files)
}

/// Parts that are whole: one that is being written has a `#` in its name. The journal beside them is none.
fn parts(out: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(out.join("parts"));
    let entries = entries.map_or_else(|_| Vec::new(), |entries| entries.flatten().collect());
    let names = entries.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.contains('#') && name != "journal.json").collect()
}

fn num_parts(out: &Path) -> usize {
    parts(out).len()
}

/// Waits until `done`, or says what was waited for.
fn wait(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !done()? {
        ensure!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Processes whose command line names this place's model.
fn processes(place: &Place) -> Result<Vec<i32>> {
    let model = place.path("model").display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        // A process may end while it is looked at.
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&words).contains(&model) {
            found.extend(entry.file_name().to_string_lossy().parse::<i32>());
        }
    }
    Ok(found)
}

fn nothing_is_left(place: &Place) -> Result<()> {
    wait("the encoder's end", || Ok(processes(place)?.is_empty()))
}

fn num_shards(out: &Path) -> usize {
    let whole =
        |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().ends_with(".parquet");
    std::fs::read_dir(out).map_or(0, |entries| entries.flatten().filter(whole).count())
}

/// Kills a run, with SIGKILL, as soon as `enough` is true of its folder. The last video keeps it from its end.
fn kill_when(
    place: &Place,
    out: &str,
    arguments: &[&str],
    enough: impl Fn(&Path) -> bool,
) -> Result<()> {
    let mut command = place.extract(out)?;
    command.args(["--jobs", "1"]).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.env("STRAND_FFMPEG", &place.gated);
    let mut child = command.spawn()?;
    let folder = place.path(out);
    wait("enough to kill it", || {
        let ended = child.try_wait()?;
        ensure!(ended.is_none(), "it ended before: {ended:?}");
        Ok(enough(&folder))
    })?;
    child.kill()?;
    child.wait()?;
    nothing_is_left(place)
}

#[test]
fn a_killed_run_goes_on_and_gives_the_same_bytes() -> Result<()> {
    let Some(place) = Place::new(Family::InstructBlip, 8)? else { return Ok(()) };
    let whole = place.report("whole")?;
    ensure!((&whole["resumed"], &whole["complete"]) == (&json!(0), &json!(false)), "{whole}");
    for parts in [2, 5] {
        kill_when(&place, "killed", &[], |out| num_parts(out) >= parts)?;
    }
    let report = place.report("killed")?;
    let resumed = report["resumed"].as_u64().context("resumed")?;
    println!("{resumed} of 8 videos had been read before the kills");
    ensure!((5..=8).contains(&resumed), "{report}");
    ensure!(files(&place.path("killed"))? == files(&place.path("whole"))?, "the bytes differ");
    let again = place.report("killed")?;
    ensure!(again["complete"] == json!(true) && again["id"] == whole["id"], "{again}");
    ensure!(again["rows"] == json!(24), "{again}");
    Ok(())
}

/// Videos that are whole in stored shards, and parts that the kill may have kept from being removed.
fn journal(out: &Path) -> Result<(usize, Vec<String>)> {
    let Ok(bytes) = std::fs::read(out.join("parts/journal.json")) else {
        return Ok((0, Vec::new()));
    };
    let journal: Value = serde_json::from_slice(&bytes)?;
    let videos = journal["videos"].as_u64().context("videos")?;
    Ok((videos as usize, serde_json::from_value(journal["superfluous"].clone())?))
}

#[test]
fn shards_that_are_stored_are_not_made_again() -> Result<()> {
    let Some(place) = Place::new(Family::InstructBlip, 8)? else { return Ok(()) };
    // Two rows a shard, three a video: borders of shards lie inside of videos.
    let small = ["--rows-per-group", "2", "--shard-bytes", "1"];
    let whole = place.report_with("whole", &small)?;
    ensure!(num_shards(&place.path("whole")) == 12, "{whole}");
    for shards in [3, 4, 8] {
        kill_when(&place, "killed", &small, |out| num_shards(out) >= shards)?;
        let (videos, superfluous) = journal(&place.path("killed"))?;
        let mut parts = parts(&place.path("killed"));
        parts.retain(|part| !superfluous.contains(part));
        println!("{shards} shards with all of {videos} videos, {} parts", parts.len());
        ensure!(videos + parts.len() <= 8, "{videos} videos are in shards and {parts:?} are left");
    }
    let before = std::fs::metadata(place.path("killed/shard-00002.parquet"))?.modified()?;
    let report = place.report_with("killed", &small)?;
    let resumed = report["resumed"].as_u64().context("resumed")?;
    println!("{resumed} of 8 videos had been read before the kills");
    ensure!(resumed >= 5 && report["rows"] == json!(24), "{report}");
    ensure!(report["frames_decoded"] == whole["frames_decoded"], "{report}");
    let after = std::fs::metadata(place.path("killed/shard-00002.parquet"))?.modified()?;
    ensure!(before == after, "a stored shard was written again");
    ensure!(files(&place.path("killed"))? == files(&place.path("whole"))?, "the bytes differ");
    Ok(())
}

#[test]
fn a_changed_video_or_question_is_not_taken_from_an_earlier_run() -> Result<()> {
    let Some(place) = Place::new(Family::InstructBlip, 6)? else { return Ok(()) };
    kill_when(&place, "set", &[], |out| num_parts(out) >= 3)?;
    std::fs::copy(place.path("5.avi"), place.path("0.avi"))?;
    let annotations = std::fs::read_to_string(place.path("qa.json"))?;
    let edited = annotations.replacen("what is it?", "what is that?", 2);
    std::fs::write(place.path("qa.json"), edited)?;
    let resumed = place.report("set")?["resumed"].as_u64().context("resumed")?;
    // 0.avi and the questions about 0.avi and 1.avi are new.
    ensure!((1..=4).contains(&resumed), "{resumed}");
    place.report("fresh")?;
    ensure!(files(&place.path("set"))? == files(&place.path("fresh"))?);
    Ok(())
}

#[test]
fn an_encoder_that_dies_ends_the_run_with_a_word() -> Result<()> {
    let Some(place) = Place::new(Family::Blip2, 8)? else { return Ok(()) };
    let mut command = place.extract("set")?;
    command.args(["--workers", "2", "--jobs", "4"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn()?;
    let own = child.id() as i32;
    wait("a first part", || Ok(num_parts(&place.path("set")) > 0))?;
    let workers = processes(&place)?.into_iter().filter(|&pid| pid != own);
    for pid in workers.filter_map(rustix::process::Pid::from_raw) {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    }
    let output = child.wait_with_output()?;
    let stderr = text(&output.stderr);
    ensure!(output.status.code() == Some(1), "{:?}: {stderr}", output.status);
    ensure!(stderr.contains(".avi: the encoder process ended without a reply"), "{stderr}");
    ensure!(stderr.contains("hint: "), "{stderr}");
    place.report("set")?;
    nothing_is_left(&place)
}

fn refused(place: &Place, code: i32, words: &[&str]) -> Result<()> {
    let output = place.extract("refused")?.output()?;
    let stderr = text(&output.stderr);
    ensure!(output.status.code() == Some(code), "{:?}, not {code}: {stderr}", output.status);
    for word in words {
        ensure!(stderr.contains(word), "no {word:?} in: {stderr}");
    }
    let document: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(document["error"]["exit_code"] == json!(code), "{document}");
    ensure!(!place.path("refused/manifest.json").exists());
    nothing_is_left(place)
}

#[test]
fn models_that_cannot_be_used_are_named() -> Result<()> {
    let Some(place) = Place::new(Family::InstructBlip, 1)? else { return Ok(()) };
    let (config, weights) =
        (place.path("model/config.json"), place.path("model/model.safetensors"));
    let whole = std::fs::read_to_string(&config)?;
    std::fs::write(&config, whole.replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4"))?;
    let missing = "`qformer.encoder.layer.3.attention.attention.query.weight` is missing";
    refused(&place, 4, &["model.safetensors", missing, "hint: config.json and the weights"])?;
    std::fs::write(&config, whole.replace("instructblip", "llava"))?;
    refused(&place, 4, &["config.json: model type `llava` is not known"])?;
    std::fs::write(&config, &whole)?;
    std::fs::remove_dir_all(place.path("model/qformer_tokenizer"))?;
    refused(&place, 4, &["neither qformer_tokenizer/tokenizer.json"])?;
    let length = std::fs::metadata(&weights)?.len();
    std::fs::File::options().write(true).open(&weights)?.set_len(length / 2)?;
    random::write_folder(&place.path("other"), &tiny(Family::InstructBlip))?;
    std::fs::rename(place.path("other/qformer_tokenizer"), place.path("model/qformer_tokenizer"))?;
    refused(&place, 4, &["model.safetensors: not safetensors", "outside the file"])
}
