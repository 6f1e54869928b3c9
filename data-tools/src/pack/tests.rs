use std::path::Path;

use half::f16;
use strand_data::Dataset;

use super::*;
use crate::verify::verify;

fn encoder() -> Encoder {
    Encoder {
        kind: "test".into(),
        hash: "0".into(),
        image_size: 224,
        sampling: "middle:4".into(),
        question_conditioned: false,
        config: String::new(),
    }
}

/// `frames` × 2 tokens × 4 values, counting up from `from`.
fn halves(from: usize, frames: usize) -> Vec<u8> {
    let values = (0..frames * 8).map(|value| f16::from_f32((from + value) as f32));
    values.flat_map(f16::to_le_bytes).collect()
}

fn array(from: usize, frames: usize) -> Vec<u8> {
    npy::tests::file("<f2", &format!("({frames}, 2, 4)"), &halves(from, frames))
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn options(&self, features: &str, annotations: Option<PathBuf>) -> PackOptions {
        let out = self.path("out").display().to_string();
        PackOptions {
            annotations,
            jobs: Some(3),
            ..PackOptions::new(vec![self.path(features)], out, encoder())
        }
    }

    async fn rows(&self) -> Vec<Row> {
        let url = self.path("out").display().to_string();
        assert!(verify(&url, None, &mut |_, _| {}).await.unwrap().is_sound());
        Dataset::open(&url).await.unwrap().read_group(0, 0).await.unwrap()
    }
}

async fn refused(options: &PackOptions) -> String {
    let error = run(options, &mut |_, _| {}).await.unwrap_err();
    assert!(!Path::new(&options.out).join("manifest.json").exists(), "a manifest is left");
    error.to_string()
}

const LIST: &str = r#"[
    {"video": "a/one.mp4", "QA": [{"i": "", "q": "Q1?", "a": "A1"}, {"i": "I", "q": "Q2?", "a": "A2"}]},
    {"video": "two.mp4", "QA": [{"i": "", "q": "Q3?", "a": "A3"}]},
    {"video": "two.mp4", "QA": [{"i": "", "q": "Q4?", "a": "A4"}]}]"#;

#[tokio::test]
async fn arrays_and_a_list_become_rows_in_its_order() {
    let folder = Folder::new();
    folder.write("features/a/one.npy", array(0, 3));
    folder.write("features/two.mp4.npy", array(100, 1));
    folder.write("features/three.npy", array(0, 1));
    let options = folder.options("features", Some(folder.write("qa.json", LIST)));
    let mut last = (0, 0);
    let report = run(&options, &mut |done, total| last = (done, total)).await.unwrap();
    assert_eq!((report.rows, report.unused, report.frames, last), (3, 1, [1, 3], (3, 3)));
    let rows = folder.rows().await;
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids, ["00000000-a/one.mp4", "00000001-two.mp4", "00000002-two.mp4"]);
    assert_eq!((&rows[0].features[..], rows[0].media), (&halves(0, 3)[..], Media::Video));
    assert_eq!((rows[0].qa.len(), &rows[0].qa[1].instruction[..]), (2, "I"));
    assert_eq!((&rows[2].features[..], rows[2].media), (&halves(100, 1)[..], Media::Image));
}

#[tokio::test]
async fn missing_features_are_an_error_or_counted() {
    let folder = Folder::new();
    folder.write("features/a/one.npy", array(0, 3));
    let mut options = folder.options("features", Some(folder.write("qa.json", LIST)));
    let error = refused(&options).await;
    assert_eq!(error, "2 of 3 records have no features, first record 1 (`two.mp4`)");
    options.skip_missing = "1".parse().unwrap();
    refused(&options).await;
    options.skip_missing = "2".parse().unwrap();
    let report = run(&options, &mut |_, _| {}).await.unwrap();
    assert_eq!((report.rows, report.missing.len(), &report.missing[1].name[..]), (1, 2, "two.mp4"));
    let none = PackOptions {
        features: vec![folder.path("out")],
        skip_missing: "all".parse().unwrap(),
        ..options
    };
    let error = run(&none, &mut |_, _| {}).await.unwrap_err().to_string();
    assert_eq!(error, "none of the 3 records has features");
}

#[tokio::test]
async fn clips_take_their_frames_by_time() {
    let folder = Folder::new();
    folder.write("features/v.npy", array(0, 5));
    let clip = |bounds: &str| {
        let text = format!(r#"[{{"video": "v.mp4", "QA": [{{"q": "Q", "a": "A"}}]{bounds}}}]"#);
        folder.write("qa.json", text)
    };
    let mut options = folder.options("features", Some(clip(r#", "start": 0.6, "end": 1.5"#)));
    assert!(
        refused(&options)
            .await
            .contains("v.npy: record `00000000-v.mp4` of `v.mp4`: it has start or end")
    );
    options.feature_fps = Some(2.0);
    run(&options, &mut |_, _| {}).await.unwrap();
    let rows = folder.rows().await;
    assert_eq!((rows[0].frames, &rows[0].seconds[..]), (2, &[1.0, 1.5][..]));
    assert_eq!(rows[0].features, halves(16, 2));
    let elsewhere = PackOptions { out: folder.path("other").display().to_string(), ..options };
    clip(r#", "start": 3"#);
    assert!(refused(&elsewhere).await.contains("none of its 5 frames"));
}

#[tokio::test]
async fn a_webdataset_needs_no_annotations_beside_it() {
    let folder = Folder::new();
    let json =
        |question: &str| format!(r#"{{"question": "{question}", "answer": "A", "caption": "x"}}"#);
    let tensor = tensors::tests::file(&[("x", "F16", &[2, 2, 4], &halves(50, 2))]);
    let members = [
        ("00.json", json("Q0").into_bytes()),
        ("00.npy", array(0, 1)),
        ("01.safetensors", tensor),
        (
            "01.json",
            br#"{"id": "own", "video": "v.mp4", "qa": [{"question": "Q1", "answer": "A"}]}"#
                .to_vec(),
        ),
    ];
    let members: Vec<(&str, &[u8])> =
        members.iter().map(|(name, body)| (*name, &body[..])).collect();
    folder.write("x.tar", tar::tests::file(&members));
    run(&folder.options("x.tar", None), &mut |_, _| {}).await.unwrap();
    let rows = folder.rows().await;
    assert_eq!(
        (&rows[0].id[..], &rows[0].video[..], &rows[0].qa[0].question[..]),
        ("00", "00", "Q0")
    );
    assert_eq!(
        (&rows[1].id[..], &rows[1].video[..], &rows[1].features[..]),
        ("own", "v.mp4", &halves(50, 2)[..])
    );
    folder.write("bare.tar", tar::tests::file(&[("00.npy", &array(0, 1))]));
    let bare = PackOptions {
        out: folder.path("bare").display().to_string(),
        ..folder.options("bare.tar", None)
    };
    assert!(refused(&bare).await.contains("bare.tar: `00` has no .json beside it"));
}

#[tokio::test]
async fn what_does_not_fit_names_its_file() {
    let folder = Folder::new();
    folder.write("features/a/one.npy", array(0, 3));
    folder.write("features/two.npy", npy::tests::file("<f4", "(1, 2, 2)", &[0; 16]));
    let options = folder.options("features", Some(folder.write("qa.json", LIST)));
    let error = refused(&options).await;
    assert!(error.contains("two.npy: `two.mp4` has 2 tokens × 2 values"), "{error}");
    folder.write("features/two.npy", npy::tests::file("<f4", "(1, 2, 4)", &[0xff; 32]));
    let error = refused(&options).await;
    assert!(error.contains("two.npy: value 0 is NaN"), "{error}");
    let conditioned =
        PackOptions { encoder: Encoder { question_conditioned: true, ..encoder() }, ..options };
    let error = refused(&conditioned).await;
    assert!(error.contains("2 questions, but the features depend on the question"), "{error}");
}
