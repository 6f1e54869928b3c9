use std::collections::BTreeMap;

use super::*;
use crate::synth::SynthOptions;
use crate::verify::verify;

/// 60 rows of several kinds; the folder keeps them.
async fn source() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let options = SynthOptions {
        out: folder.path().display().to_string(),
        train_rows: 60,
        held_out_rows: 10,
        rows_per_group: Some(20),
        ..SynthOptions::default()
    };
    let report = crate::synth::run(&options, &mut |_, _| {}).await.unwrap();
    (folder, report.train)
}

/// The rows of a sound data set by id, without their place.
async fn rows(url: &str) -> BTreeMap<String, Row> {
    assert!(verify(url, None, &mut |_, _| {}).await.unwrap().is_sound());
    let set = Dataset::open(url).await.unwrap();
    let mut found = BTreeMap::new();
    let mut groups = read_all(&set);
    while let Some(rows) = groups.next().await {
        found.extend(rows.unwrap().into_iter().map(|row| (row.id.clone(), row)));
    }
    found
}

async fn reshard(
    change: impl FnOnce(&mut ReshardOptions),
    source: &str,
    out: &str,
) -> Result<ReshardReport, String> {
    let mut options = ReshardOptions::new(source.to_owned(), out.to_owned());
    change(&mut options);
    run(&options, &mut |_, _| {}).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn other_sizes_hold_the_same_rows_and_lead_back() {
    let (folder, source) = source().await;
    let out = folder.path().join("out").display().to_string();
    let small =
        Sizes { group_bytes: Some(40_000), shard_bytes: Some(100_000), rows_per_group: None };
    let report = reshard(|options| options.sizes = small, &source, &out).await.unwrap();
    assert!(report.parts[0].shards > 3 && report.parts[0].groups > 6, "{report:?}");
    assert_eq!(rows(&out).await, rows(&source).await);
    let back = folder.path().join("back").display().to_string();
    let sizes = Sizes { rows_per_group: Some(20), ..Sizes::default() };
    let report = reshard(|options| options.sizes = sizes, &out, &back).await.unwrap();
    assert_eq!(report.parts[0].id, Dataset::open(&source).await.unwrap().manifest().id);
}

#[tokio::test]
async fn parts_are_disjoint_whole_and_do_not_depend_on_the_layout() {
    let (folder, source) = source().await;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let split = |options: &mut ReshardOptions| {
        options.split = Some("a=0.7,b=0.3".parse().unwrap());
        options.seed = 5;
    };
    let report = reshard(split, &source, &path("out")).await.unwrap();
    assert_eq!(report.parts.iter().map(|part| part.rows).sum::<u64>(), 60);
    let (a, b) = (rows(&path("out/a")).await, rows(&path("out/b")).await);
    let mut both = a.clone();
    both.extend(b);
    assert_eq!(both, rows(&source).await);
    let small = Sizes { rows_per_group: Some(3), ..Sizes::default() };
    reshard(|options| options.sizes = small, &source, &path("small")).await.unwrap();
    reshard(split, &path("small"), &path("again")).await.unwrap();
    assert_eq!(rows(&path("again/a")).await, a);
}

#[tokio::test]
async fn subsets_are_exact_and_nested_and_filters_come_first() {
    let (folder, source) = source().await;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let subset =
        |text: &'static str| move |options: &mut ReshardOptions| options.subset = text.parse().ok();
    reshard(subset("20"), &source, &path("20")).await.unwrap();
    reshard(subset("5"), &source, &path("5")).await.unwrap();
    reshard(subset("0.5"), &source, &path("half")).await.unwrap();
    let (twenty, five) = (rows(&path("20")).await, rows(&path("5")).await);
    assert_eq!((twenty.len(), five.len()), (20, 5));
    assert!(five.keys().all(|id| twenty.contains_key(id)));
    assert!((15..45).contains(&rows(&path("half")).await.len()));
    let error = reshard(subset("61"), &source, &path("61")).await.unwrap_err();
    assert_eq!(error, "a subset of 61 rows cannot be taken of 60 rows");

    let all = rows(&source).await;
    let kind = all.values().next().unwrap().qa[0].kind.clone();
    let of_kind = |options: &mut ReshardOptions| options.filter.kinds = vec![kind.clone()];
    reshard(of_kind, &source, &path("kind")).await.unwrap();
    let found = rows(&path("kind")).await;
    assert!(!found.is_empty() && found.len() < 60);
    assert!(found.values().all(|row| row.qa.iter().all(|pair| pair.kind == kind)));
    let one = all.keys().next().unwrap().clone();
    let of_id = |options: &mut ReshardOptions| {
        options.filter.id = regex::Regex::new(&format!("^{one}$")).ok()
    };
    assert_eq!(reshard(of_id, &source, &path("one")).await.unwrap().parts[0].rows, 1);
}

#[tokio::test]
async fn nothing_is_committed_where_a_part_stays_empty_or_the_source_is_damaged() {
    let (folder, source) = source().await;
    let out = folder.path().join("out");
    let url = out.display().to_string();
    let none = |options: &mut ReshardOptions| options.filter.frames = "99..".parse().ok();
    assert!(reshard(none, &source, &url).await.unwrap_err().starts_with("no row is left for"));
    assert!(reshard(|_| {}, &source, &source).await.unwrap_err().contains("already exists"));
    let shard = folder.path().join("train/shard-00000.parquet");
    let mut bytes = std::fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    let split = |options: &mut ReshardOptions| options.split = "a=0.5,b=0.5".parse().ok();
    let error = reshard(split, &source, &url).await.unwrap_err();
    assert!(error.contains("row group 1"), "{error}");
    assert!(!out.join("a/manifest.json").exists() && !out.join("manifest.json").exists());
}
