//! With the real clips, where they are: STRAND_VIDEOS, else `shared/videos` beside the repository.

use std::path::Path;

use strand_data::Dataset;

use super::*;

/// The clips and an ffmpeg, or a line that says what is missing.
async fn clips() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/videos");
    let folder = std::env::var_os("STRAND_VIDEOS").map_or(beside, PathBuf::from);
    if !folder.join("annotations.json").is_file() {
        println!("passed over: {} holds no clips", folder.display());
        return None;
    }
    if let Err(error) = Ffmpeg::find(Duration::from_secs(60)).await {
        println!("passed over: {error}");
        return None;
    }
    Some(folder)
}

fn options(videos: &Path, out: &Path) -> ExtractOptions {
    let annotations = videos.join("annotations.json");
    ExtractOptions::new(videos.to_owned(), annotations, out.display().to_string())
}

async fn rows(url: &str) -> Vec<Row> {
    let set = Dataset::open(url).await.unwrap();
    set.read_group(0, 0).await.unwrap()
}

#[tokio::test]
async fn the_real_clips_become_rows() {
    let Some(videos) = clips().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = folder.path().join("tokenizer.json");
    let options = ExtractOptions {
        tokenizer: Some(tokenizer.display().to_string()),
        ..options(&videos, &folder.path().join("set"))
    };
    let mut steps = Vec::new();
    let report = run(&options, &mut |done, total| steps.push((done, total))).await.unwrap();
    assert_eq!((report.rows, report.videos, report.skipped.len()), (6, 5, 0));
    assert_eq!(report.frames_decoded, 5 * 16 + 8);
    assert_eq!(steps.last(), Some(&(6, 6)));
    let prompter =
        strand_data::Prompter::open(&std::fs::read(tokenizer).unwrap(), Default::default())
            .unwrap();
    assert_eq!(Some(prompter.vocab_size()), report.vocab_size);
    let rows = rows(&report.out).await;
    let frames: Vec<_> = rows.iter().map(|row| row.frames).collect();
    assert_eq!(frames, [16, 16, 16, 8, 16, 16]);
    for row in &rows {
        assert!(
            row.seconds.windows(2).all(|pair| pair[0] < pair[1]),
            "{}: {:?}",
            row.id,
            row.seconds
        );
        let frame = row.features.len() / row.frames;
        assert_ne!(row.features[..frame], row.features[row.features.len() - frame..]);
    }
    let show = rows.iter().find(|row| row.video == "TVshow.mp4").unwrap();
    assert!(show.seconds[0] >= 2.0 && show.seconds[15] < 11.0, "{:?}", show.seconds);
}

#[tokio::test]
async fn a_clip_that_two_records_share_is_decoded_once() {
    let Some(videos) = clips().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let annotations = folder.path().join("annotations.json");
    let record = |question| serde_json::json!({ "video": "TVshow.mp4", "start": 1.0, "end": 2.0, "QA": [{ "q": question, "a": "A" }] });
    let records = serde_json::json!([record("one?"), record("two?")]);
    std::fs::write(&annotations, records.to_string()).unwrap();
    let options =
        ExtractOptions { annotations, frames: 64, ..options(&videos, &folder.path().join("set")) };
    let report = run(&options, &mut |_, _| {}).await.unwrap();
    let rows = rows(&report.out).await;
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].features, rows[1].features);
    assert_ne!(rows[0].qa, rows[1].qa);
    // A second holds fewer than 64 frames: the last one repeats.
    assert!(report.frames_decoded < 40, "{}", report.frames_decoded);
    assert_eq!(rows[0].seconds[62], rows[0].seconds[63]);
}

#[tokio::test]
async fn a_file_that_is_no_video_is_named_and_passed_over_only_if_asked() {
    let Some(videos) = clips().await else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(videos.join("TVshow.mp4"), folder.path().join("good.mp4")).unwrap();
    std::fs::write(folder.path().join("bad.mp4"), "this is not a video\n").unwrap();
    let records = r#"[{"video": "bad.mp4", "QA": [{"q": "Q?", "a": "A"}]},
        {"video": "good.mp4", "QA": [{"q": "Q?", "a": "A"}]},
        {"video": "none.mp4", "QA": [{"q": "Q?", "a": "A"}]},
        {"video": "good.mp4", "start": 500.0, "QA": [{"q": "Q?", "a": "A"}]}]"#;
    std::fs::write(folder.path().join("annotations.json"), records).unwrap();
    let strict = options(folder.path(), &folder.path().join("set"));
    let error = run(&strict, &mut |_, _| {}).await.expect_err("bad");
    assert!(error.to_string().contains("bad.mp4"), "{error}");
    assert_eq!(error.exit_code(), 4);
    let lenient = ExtractOptions { skip_bad: true, ..strict };
    let report = run(&lenient, &mut |_, _| {}).await.unwrap();
    assert_eq!((report.rows, report.videos), (1, 1));
    let skipped: Vec<_> = report
        .skipped
        .iter()
        .map(|skipped| (skipped.video.as_str(), &skipped.records[..]))
        .collect();
    assert_eq!(skipped, [("bad.mp4", &[0][..]), ("good.mp4", &[3]), ("none.mp4", &[2])]);
    assert!(report.skipped[1].reason.contains("no frame from 500 s"), "{:?}", report.skipped);
}

#[tokio::test]
async fn where_nothing_is_left_there_is_no_data_set() {
    let Some(_) = clips().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let records = r#"[{"video": "none.mp4", "QA": [{"q": "Q?", "a": "A"}]}]"#;
    std::fs::write(folder.path().join("annotations.json"), records).unwrap();
    let lenient =
        ExtractOptions { skip_bad: true, ..options(folder.path(), &folder.path().join("set")) };
    let error = run(&lenient, &mut |_, _| {}).await.expect_err("nothing left");
    assert_eq!(error.exit_code(), 4);
    assert!(!folder.path().join("set/manifest.json").exists());
}

#[tokio::test]
async fn the_samplings_choose_different_frames() {
    let Some(videos) = clips().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut times = Vec::new();
    for (index, sampling) in [Sampling::Middle, Sampling::Rand, Sampling::Rand, Sampling::Fps(1.0)]
        .into_iter()
        .enumerate()
    {
        let options = ExtractOptions {
            sampling,
            frames: 8,
            ..options(&videos, &folder.path().join(index.to_string()))
        };
        let report = run(&options, &mut |_, _| {}).await.unwrap();
        times.push(rows(&report.out).await[0].seconds.clone());
    }
    assert_eq!(times[1], times[2], "a draw depends on the seed and the clip only");
    assert_ne!(times[0], times[1]);
    for (second, time) in times[3].iter().enumerate() {
        assert!((time - second as f32 - 0.5).abs() < 0.05, "{:?}", times[3]);
    }
}

#[tokio::test]
async fn other_containers_give_the_same_frames() {
    let Some(videos) = clips().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let ffmpeg = Ffmpeg::find(Duration::from_secs(60)).await.unwrap();
    // Packets of an AVI with B-frames have no times; those of the other file do not start at 0.
    let mut pictures = Vec::new();
    for (name, codec) in [("b.avi", "mpeg4"), ("b.mkv", "mpeg2video")] {
        let path = folder.path().join(name);
        let target = path.display().to_string();
        let start = if name == "b.mkv" { "1.4" } else { "0" };
        let coded = ["-t", "2", "-an", "-c:v", codec, "-bf", "2", "-q:v", "2"];
        let arguments = [&coded[..], &["-output_ts_offset", start, &target, "-f", "null"]].concat();
        let source = videos.join("TVshow.mp4");
        ffmpeg.run(&source, &arguments, |_| async { Ok(()) }).await.unwrap();
        let timeline = timeline::Timeline::probe(&ffmpeg, &path).await.unwrap();
        let mut means = Vec::new();
        let chosen = [3, 17, 40];
        decode::decode(&ffmpeg, &path, &timeline, &chosen, |frame| {
            means.push(frame.area_average(4))
        })
        .await
        .unwrap();
        assert_eq!(means.len(), 3);
        pictures.push(means);
    }
    for (one, other) in pictures[0].iter().flatten().zip(pictures[1].iter().flatten()) {
        assert!((one - other).abs() < 0.05);
    }
}
