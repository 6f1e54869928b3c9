//! Tests: what every kind of storage must do, run against a local folder and, where STRAND_TEST_S3 names an empty
//! `s3://bucket/prefix`, against that.

use bytes::Bytes;

use crate::{Entry, Location, StoreError};

#[tokio::test]
async fn a_local_folder_conforms() {
    let folder = tempfile::tempdir().expect("a folder");
    conforms(&Location::open(folder.path().to_str().expect("UTF-8")).expect("opens")).await;
}

#[tokio::test]
async fn s3_conforms() {
    match std::env::var("STRAND_TEST_S3") {
        Ok(url) => conforms(&Location::open(&url).expect("opens")).await,
        Err(_) => eprintln!("not checked: STRAND_TEST_S3 names no empty s3://bucket/prefix"),
    }
}

async fn conforms(location: &Location) {
    reads_what_was_written(location).await;
    large_objects_are_whole(location).await;
    copies_and_moves(location).await;
    lists_and_deletes(location).await;
}

async fn copies_and_moves(location: &Location) {
    for name in ["moved/x/part", "moved/x/manifest.json", "moved/y"] {
        location.put(name, Bytes::from_static(b"content")).await.expect("written");
    }
    location.copy("moved/y", "moved/z").await.expect("copied");
    assert!(location.rename("moved/x", "aside/1/x").await.expect("a folder moves"));
    assert!(location.rename("moved/y", "aside/1/y").await.expect("an object moves"));
    assert!(!location.rename("moved/none", "aside/1/none").await.expect("nothing to move"));
    let paths: Vec<String> =
        location.list("aside").await.expect("lists").into_iter().map(|entry| entry.path).collect();
    assert_eq!(paths, ["aside/1/x/manifest.json", "aside/1/x/part", "aside/1/y"]);
    assert_eq!(location.list("moved").await.expect("lists").len(), 1, "only the copy is left");
    location.delete_folder("aside").await.expect("deleted");
    location.delete_folder("moved").await.expect("deleted");
}

async fn reads_what_was_written(location: &Location) {
    location.put("a/one", Bytes::from_static(b"old")).await.expect("written");
    location.put("a/one", Bytes::from_static(b"0123456789")).await.expect("replaced");
    assert_eq!(&location.get("a/one").await.expect("read")[..], b"0123456789");
    assert_eq!(&location.get_range("a/one", 3..7).await.expect("read")[..], b"3456");
    assert!(location.get_range("a/one", 4..4).await.expect("nothing").is_empty());
    for range in [8..11, 10..12, 20..30] {
        let error = location.get_range("a/one", range).await.expect_err("too short");
        assert!(matches!(error, StoreError::Truncated { bytes: 10, .. }), "{error:?}");
    }
    let error = location.get_bounded("a/one", 9).await.expect_err("too large");
    assert!(matches!(error, StoreError::TooLarge { bytes: 10, .. }), "{error:?}");
    let error = location.put_new("a/one", Bytes::from_static(b"new")).await.expect_err("exists");
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error:?}");
    location.put_new("a/new", Bytes::new()).await.expect("new");
    assert_eq!(location.size("a/new").await.expect("known"), 0);
    for missing in [location.get("none").await, location.get_range("none", 0..1).await] {
        assert!(missing.expect_err("missing").is_not_found());
    }
    assert!(!location.exists("a").await.expect("known"), "a folder is no object");
}

async fn large_objects_are_whole(location: &Location) {
    let content: Bytes =
        (0..(40 << 20) + 7_u32).map(|i| (i % 251) as u8).collect::<Vec<u8>>().into();
    location.put("large/put", content.clone()).await.expect("written");
    assert!(location.get("large/put").await.expect("read") == content);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("x"), &content).expect("written");
    location.put_file("large/file", &folder.path().join("x")).await.expect("written");
    let tail = location.get_range("large/file", (40 << 20)..(40 << 20) + 7).await.expect("read");
    assert_eq!(tail, content.slice(40 << 20..));
}

async fn lists_and_deletes(location: &Location) {
    let entry = |path: &str, bytes| Entry { path: path.to_owned(), bytes };
    assert_eq!(location.list("a").await.expect("lists"), [entry("a/new", 0), entry("a/one", 10)]);
    assert_eq!(location.list_folders("").await.expect("lists"), ["a", "large"]);
    for _ in 0..2 {
        location.delete("a/new").await.expect("deleted");
        location.delete_folder("large").await.expect("deleted");
    }
    assert_eq!(location.list("").await.expect("lists"), [entry("a/one", 10)]);
    location.delete_folder("a").await.expect("deleted");
    assert!(location.list("").await.expect("lists").is_empty());
}
