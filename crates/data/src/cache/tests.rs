//! Tests of one process: the account, healing, refusals. `tests/tests/node_cache.rs` has those of several.

use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;
use crate::manifest::{Group, Xxh3};
use crate::testing::{Folder as Data, options, row};

/// Bytes that belong to a number, and their entry.
fn entry(number: u64, bytes: usize) -> (CacheEntry, Bytes) {
    let content: Bytes = (0..bytes).map(|i| (number as usize * 31 + i) as u8).collect();
    let xxh3 = Xxh3(strand_store::xxh3(&content));
    let group =
        Group { rows: 1, offset: 4, bytes: bytes as u64, xxh3, frames: [1, 1], text: [0, 0] };
    let manifest =
        crate::Manifest::new(crate::testing::encoder(), 1, 1, crate::Dtype::F16, Vec::new());
    (CacheEntry::group(&manifest, 0, number as usize, &group), content)
}

struct World {
    runtime: Runtime,
    guard: tempfile::TempDir,
    limit: u64,
    fetches: AtomicU64,
}

impl World {
    fn new(limit: u64) -> World {
        let runtime = Runtime::new().expect("a runtime");
        let guard = tempfile::tempdir().expect("a folder");
        World { runtime, guard, limit, fetches: AtomicU64::new(0) }
    }

    fn open(&self) -> Cache {
        Cache::open(&self.guard.path().join("cache"), self.limit).expect("opens")
    }

    /// Asks for an entry; counts what is fetched.
    fn get(&self, cache: &Cache, number: u64, bytes: usize) -> Bytes {
        let (entry, content) = entry(number, bytes);
        let fetch = || async {
            self.fetches.fetch_add(1, Ordering::Relaxed);
            Ok(content.clone())
        };
        let found = self.runtime.block_on(cache.get_or_fetch(&entry, fetch)).expect("fetched");
        assert_eq!(found, content);
        found
    }

    fn fetched(&self) -> u64 {
        self.fetches.swap(0, Ordering::Relaxed)
    }

    /// Bytes of all files that are no bookkeeping.
    fn on_disk(&self) -> u64 {
        let folders = ["entries", "parts"].map(|name| self.guard.path().join("cache").join(name));
        let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("a folder"));
        files.map(|file| file.expect("a file").metadata().expect("known").len()).sum()
    }
}

#[derive(Clone, Debug)]
enum Act {
    Get(u64, usize),
    /// Claims an entry and dies.
    Die(u64, usize),
    /// Flips a byte of an entry.
    Damage(u64, usize),
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    let (number, bytes) = (0_u64..12, 1_usize..60);
    prop_oneof![
        6 => (number.clone(), bytes.clone()).prop_map(|(number, bytes)| Act::Get(number, bytes)),
        1 => (number.clone(), bytes.clone()).prop_map(|(number, bytes)| Act::Die(number, bytes)),
        1 => (number, bytes).prop_map(|(number, bytes)| Act::Damage(number, bytes)),
        1 => Just(Act::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_account_is_right_and_the_limit_is_kept(acts in proptest::collection::vec(act(), 1..40), limit in 60_u64..400) {
        let world = World::new(limit);
        let mut cache = world.open();
        for act in acts {
            match act {
                Act::Get(number, bytes) => drop(world.get(&cache, number, bytes)),
                Act::Die(number, bytes) => drop(cache.inner.look(&entry(number, bytes).0).expect("a look")),
                Act::Damage(number, bytes) => {
                    let name = entry(number, bytes).0.name().to_owned();
                    let path = cache.inner.folder.entries().join(name);
                    if let Ok(mut content) = std::fs::read(&path) {
                        content[0] ^= 1;
                        std::fs::write(&path, content).expect("written");
                    }
                }
                Act::Reopen => cache = world.open(),
            }
            let total = cache.inner.account.total().unwrap_or_default();
            prop_assert!(world.on_disk() <= limit && world.on_disk() <= total);
        }
        prop_assert_eq!(cache.bytes().expect("counted"), world.on_disk());
    }
}

#[test]
fn a_second_reading_fetches_nothing() {
    let world = World::new(10_000);
    for _ in 0..3 {
        let cache = world.open();
        (0..10).for_each(|number| drop(world.get(&cache, number, 700)));
    }
    assert_eq!(world.fetched(), 10);
    let stats = world.open().stats();
    assert_eq!(stats, CacheStats::default());
}

#[test]
fn what_was_used_longest_ago_goes_first() {
    let world = World::new(1600);
    let cache = world.open();
    for number in [0, 1, 2, 3, 4, 5, 6, 7, 0, 1] {
        drop(world.get(&cache, number, 200));
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(world.fetched(), 8);
    drop(world.get(&cache, 8, 200));
    world.fetched();
    [0, 1, 7, 8].iter().for_each(|&number| drop(world.get(&cache, number, 200)));
    assert_eq!(world.fetched(), 0, "those that were used again are there");
    drop(world.get(&cache, 2, 200));
    assert_eq!(world.fetched(), 1, "this one went");
}

#[test]
fn damage_is_healed_and_counted() {
    let world = World::new(10_000);
    let cache = world.open();
    let spoils: [fn(&mut Vec<u8>); 3] =
        [|bytes| bytes[400] ^= 4, |bytes| bytes.truncate(9), |bytes| bytes.push(0)];
    for (number, spoil) in spoils.into_iter().enumerate() {
        drop(world.get(&cache, number as u64, 700));
        let path = cache.inner.folder.entries().join(entry(number as u64, 700).0.name());
        let mut content = std::fs::read(&path).expect("read");
        spoil(&mut content);
        std::fs::write(&path, content).expect("written");
        drop(world.get(&cache, number as u64, 700));
        drop(world.get(&cache, number as u64, 700));
        assert_eq!(world.fetched(), 2);
    }
    assert_eq!(cache.stats().healed, 3);
    assert_eq!(cache.bytes().expect("counted"), 2100);
}

#[test]
fn damaged_storage_is_not_kept() {
    let world = World::new(10_000);
    let cache = world.open();
    let wrong = || async { Ok(Bytes::from_static(b"something else")) };
    let (entry, _) = entry(1, 14);
    let found = world.runtime.block_on(cache.get_or_fetch(&entry, wrong)).expect("as fetched");
    assert_eq!(found, "something else");
    assert_eq!(world.on_disk(), 0);
    let fails = || async { Err(DataError::Stopped) };
    assert!(world.runtime.block_on(cache.get_or_fetch(&entry, fails)).is_err());
    assert_eq!(world.on_disk(), 0);
}

#[test]
fn many_readers_at_once_fetch_once() {
    let world = World::new(1 << 20);
    let (entry, content) = entry(3, 5000);
    let caches: Vec<Cache> = (0..8).map(|_| world.open()).collect();
    let fetches = &world.fetches;
    world.runtime.block_on(async {
        let gets = caches.iter().map(|cache| {
            cache.get_or_fetch(&entry, || async {
                fetches.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(30)).await;
                Ok(content.clone())
            })
        });
        for found in futures::future::join_all(gets).await {
            assert_eq!(found.expect("fetched"), content);
        }
    });
    assert_eq!(world.fetched(), 1);
}

/// The ranks of a node start together, and the first of them make the folder.
#[test]
fn many_processes_may_make_the_folder_at_once() {
    for _ in 0..200 {
        let root = tempfile::tempdir().expect("a folder");
        std::thread::scope(|threads| {
            let open = || folder::Folder::open(root.path()).map(drop);
            let opened: Vec<_> = (0..8).map(|_| threads.spawn(open)).collect();
            for thread in opened {
                thread.join().expect("no panic").expect("opens");
            }
        });
        let left = std::fs::read_dir(root.path()).expect("a folder").count();
        assert_eq!(left, 3, "entries, parts and the marker");
    }
}

#[test]
fn what_others_made_is_left_alone() {
    let world = World::new(100);
    let foreign = world.guard.path().join("foreign");
    std::fs::create_dir(&foreign).expect("made");
    std::fs::write(foreign.join("notes.txt"), "mine").expect("written");
    let error = Cache::open(&foreign, 100).expect_err("refused");
    assert!(error.to_string().contains("notes.txt") && error.exit_code() == 2, "{error}");
    assert_eq!(std::fs::read_dir(&foreign).expect("a folder").count(), 1);

    let cache = world.open();
    for folder in ["entries", "parts"] {
        let path = cache.inner.folder.root().join(folder).join("notes.txt");
        std::fs::write(path, [0; 500]).expect("written");
    }
    (0..9).for_each(|number| drop(world.get(&cache, number, 60)));
    assert_eq!(cache.bytes().expect("counted"), 60, "foreign files do not count");
    assert_eq!(world.on_disk(), 1060);
}

#[test]
fn a_limit_below_two_windows_is_refused() {
    let world = World::new(0);
    let rows = (0..40).map(|i| row(i, 2)).collect();
    let data = world.runtime.block_on(Data::write(rows, options(2, 1_000_000)));
    let set = world.runtime.block_on(data.open());
    let largest = data.manifest.shards[0].groups.iter().map(|group| group.bytes).max();
    let least = Cache::least(&[&set]);
    assert_eq!(Some(least), largest.map(|bytes| 2 * 16 * bytes));
    let folder = world.guard.path().join("small");
    let error = Cache::open_for(&folder, least - 1, &[&set]).expect_err("refused");
    assert!(error.to_string().contains(&format!("{least} bytes")), "{error}");
    assert!(!folder.exists());
    Cache::open_for(&folder, least, &[&set]).expect("opens");
}
