//! Small data sets for tests.

use bytes::Bytes;
use strand_store::Location;

use crate::{Dataset, Dtype, Encoder, Manifest, Media, Qa, Row, ShardWriter, WriterOptions};

pub const TOKENS: usize = 2;
pub const DIM: usize = 8;

pub fn encoder() -> Encoder {
    Encoder {
        kind: "patch".into(),
        hash: "0".into(),
        config: String::new(),
        image_size: 32,
        sampling: "middle:4".into(),
        question_conditioned: false,
    }
}

pub fn options(rows_per_group: usize, shard_bytes: u64) -> WriterOptions {
    let rows_per_group = Some(rows_per_group);
    WriterOptions {
        rows_per_group,
        shard_bytes,
        ..WriterOptions::new(encoder(), TOKENS, DIM, Dtype::F16)
    }
}

/// Row `i`: its features count up from `i`, one frame in five is an image.
pub fn row(i: usize, frames: usize) -> Row {
    let (frames, media) = if frames == 1 { (1, Media::Image) } else { (frames, Media::Video) };
    // Finite, and no row's are found in another's.
    let bits = |value| ((i * 131 + value * 7) % 0x7c00) as u16;
    let values = (0..frames * TOKENS * DIM).map(|value| half::f16::from_bits(bits(value)));
    Row {
        id: format!("clip-{i}"),
        video: format!("videos/{i}.mp4"),
        media,
        frames,
        tokens: TOKENS,
        features: values.flat_map(half::f16::to_le_bytes).collect::<Vec<u8>>().into(),
        seconds: (0..frames).map(|frame| frame as f32 / 2.0).collect(),
        qa: (0..i % 3 + 1).map(|pair| question(i, pair)).collect(),
    }
}

fn question(i: usize, pair: usize) -> Qa {
    Qa {
        instruction: if pair == 0 { String::new() } else { "Look.".into() },
        question: format!("What of {i}, {pair}? é"),
        answer: format!("{}", i * 10 + pair),
        options: (0..pair).map(|option| format!("option {option}")).collect(),
        kind: "order".into(),
    }
}

pub struct Folder {
    pub guard: tempfile::TempDir,
    pub location: Location,
    pub manifest: Manifest,
}

impl Folder {
    pub async fn write(rows: Vec<Row>, options: WriterOptions) -> Folder {
        let guard = tempfile::tempdir().expect("a folder");
        let location = Location::open(guard.path().to_str().expect("UTF-8")).expect("opens");
        let mut writer = ShardWriter::create(location.clone(), options).await.expect("a writer");
        for row in rows {
            writer.write(row).await.expect("written");
        }
        let manifest = writer.finish().await.expect("finished");
        Folder { guard, location, manifest }
    }

    pub async fn open(&self) -> Dataset {
        Dataset::open_at(self.location.clone()).await.expect("opens")
    }

    /// Changes a file of the folder.
    pub fn edit(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.guard.path().join(path);
        let mut bytes = std::fs::read(&path).expect("read");
        change(&mut bytes);
        std::fs::write(&path, bytes).expect("written");
    }

    /// Replaces the manifest by one with other shards and a right id.
    pub async fn forge(&self, change: impl FnOnce(&mut Manifest)) {
        let mut forged = self.manifest.clone();
        change(&mut forged);
        let Manifest { encoder, tokens, dim, dtype, shards, .. } = forged;
        let forged = Manifest::new(encoder, tokens, dim, dtype, shards);
        self.location.put(crate::MANIFEST, Bytes::from(forged.to_json())).await.expect("written");
    }
}
