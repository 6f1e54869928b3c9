//! What the demo runs: the one place to edit.

/// The recipe, relative to the root.
pub const RECIPE: &str = "recipes/demo.yaml";

/// Ranks of the launch: dp 2 × tp 2.
pub const RANKS: &str = "4";

/// Folders of the data and the arguments of `strand` that make them; the folder follows as the last one.
/// The long clips show every step for two frames: six local frames of twelve see what six frames see.
pub const SYNTH: [(&str, &[&str]); 2] = [
    ("short", &["data", "synth", "--seed", "1", "--kinds", KINDS, "--out"]),
    (
        "long",
        &[
            "data", "synth", "--seed", "2", "--kinds", KINDS, "--frames", "12", "--hold", "2",
            "--out",
        ],
    ),
];

/// Most questions about order ask for the direction, the first of them that a small model learns.
const KINDS: &str = "direction=16,first=1,turns=1,colour=6,shape=1,count=1";

/// Arguments of `strand launch` that shorten the demo.
pub const QUICK: &[&str] =
    &["--set", "stages.mean.length.steps=60", "--set", "stages.global_local.length.steps=30"];

/// The stages, in the table's order.
pub const STAGES: [&str; 4] = ["base", "mean", "all", "global_local"];

/// Kinds of questions that need the order of the frames.
pub const ORDER: [&str; 3] = ["direction", "first", "turns"];

/// Kinds of questions that one frame answers.
pub const STATIC: [&str; 3] = ["colour", "shape", "count"];

/// What to type next; `{run}` becomes the run's folder.
pub const NEXT: &[&str] =
    &["target/release/strand checkpoint list {run}", "target/release/strand --help"];
