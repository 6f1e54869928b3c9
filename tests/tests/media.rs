//! Images and clips in one batch.

use anyhow::{Context, Result, ensure};
use strand_data::{Dataset, Media, Row, ShardWriter, WriterOptions};
use strand_store::Location;
use strand_tests::harness::{Workspace, same_within};

/// Writes the rows of a set, every third as an image: its first frame alone.
async fn write(from: &str, to: &str, only: Option<Media>) -> Result<()> {
    let set = Dataset::open(from).await?;
    let manifest = set.manifest().clone();
    let options = WriterOptions {
        rows_per_group: Some(4),
        ..WriterOptions::new(manifest.encoder, manifest.tokens, manifest.dim, manifest.dtype)
    };
    let mut writer = ShardWriter::create(Location::open(to)?, options).await?;
    let mut count = 0;
    for (shard, description) in manifest.shards.iter().enumerate() {
        for group in 0..description.groups.len() {
            for row in set.read_group(shard, group).await? {
                let row = if count % 3 == 0 { image(row) } else { row };
                count += 1;
                if only.is_none_or(|media| media == row.media) {
                    writer.write(row).await?;
                }
            }
        }
    }
    writer.finish().await?;
    Ok(())
}

fn image(row: Row) -> Row {
    let features = row.features.slice(..row.features.len() / row.frames);
    let seconds = row.seconds.into_iter().take(1).collect();
    Row {
        id: format!("image-{}", row.id),
        media: Media::Image,
        frames: 1,
        features,
        seconds,
        ..row
    }
}

/// One set that holds both, and two sets of one kind each: masked, with a teacher, on any layout.
#[test]
fn images_and_clips_train_together() -> Result<()> {
    let workspace = Workspace::new()?;
    let path = |name: &str| workspace.path(name).display().to_string();
    let runtime = tokio::runtime::Runtime::new()?;
    for (name, only) in
        [("both", None), ("images", Some(Media::Image)), ("clips", Some(Media::Video))]
    {
        runtime.block_on(write(&path("data/train"), &path(&format!("data/{name}")), only))?;
    }
    let both = [format!("data.train.url={}", path("data/both"))];
    let apart = [
        format!("data.train.url={}", path("data/clips")),
        format!("data.images.url={}", path("data/images")),
        "stages.base.data=[{set: train}, {set: images}]".to_owned(),
        "stages.all.data=[{set: train, weight: 2}, {set: images, weight: 1}]".to_owned(),
        "stages.all.order.per_step=one_set".to_owned(),
    ];
    for (name, changes) in [("both", &both[..]), ("apart", &apart[..])] {
        let arguments: Vec<&str> =
            changes.iter().flat_map(|change| ["--set", change.as_str()]).collect();
        workspace.train(&format!("{name}-1"), (1, 1), &arguments)?;
        let expected = workspace.metrics(&format!("{name}-1"))?;
        let of = |step: &serde_json::Value| -> Result<(usize, usize)> {
            let ids = step["sample_ids"].as_array().context("ids")?;
            let images =
                ids.iter().filter(|id| id.as_str().is_some_and(|id| id.starts_with("image-")));
            Ok((images.count(), ids.len()))
        };
        let counts = expected.iter().map(of).collect::<Result<Vec<_>>>()?;
        ensure!(counts[..10].iter().any(|&(images, all)| images > 0 && images < all), "{counts:?}");
        if name == "apart" {
            ensure!(
                counts[10..].iter().all(|&(images, all)| images == 0 || images == all),
                "{counts:?}"
            );
            let steps = counts[10..].iter().filter(|(images, _)| *images > 0).count();
            ensure!(steps == 4, "a third of the 12 steps are of images: {counts:?}");
        }
        workspace.train(&format!("{name}-2"), (2, 2), &arguments)?;
        let actual = workspace.metrics(&format!("{name}-2"))?;
        let worst = same_within(&actual, &expected, 1e-4)?;
        println!("{name}: losses on 2 × 2 ranks deviate by {worst:.1e} at most");
    }
    Ok(())
}
