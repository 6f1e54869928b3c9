//! Writes the demo's data sets to the folder that is named, and draws one clip on stdout:
//! `cargo run --release -p strand-data-tools --example synth -- FOLDER [FRAMES [HOLD [KINDS]]]`.

use std::error::Error;

use strand_data_tools::image::Frame;
use strand_data_tools::synth::{Generator, Split, SynthOptions, run};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize, default: &str| {
        let given = arguments.get(index).map(String::as_str);
        given.unwrap_or(default).to_owned()
    };
    let defaults = SynthOptions::default();
    let options = SynthOptions {
        out: argument(0, "synth"),
        frames: argument(1, "6").parse()?,
        hold: argument(2, "1").parse()?,
        kinds: argument(3, &defaults.kinds.to_string()).parse()?,
        ..defaults
    };
    let report = run(&options, &mut |_, _| {}).await?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    let generator = Generator::new(&options)?;
    generator.pictures(Split::Train, 0).iter().for_each(|picture| println!("{}", draw(picture)));
    for pair in generator.row(Split::Train, 0).qa {
        println!("{} {}", pair.question, pair.answer);
    }
    Ok(())
}

/// A picture in characters, two pixels in one.
fn draw(picture: &Frame) -> String {
    let mut text = String::new();
    for y in (0..picture.height()).step_by(2) {
        for x in 0..picture.width() {
            let at = (y * picture.width() + x) * 3;
            let bright = picture.rgb()[at..at + 3].contains(&255);
            text.push(if bright { '#' } else { '.' });
        }
        text.push('\n');
    }
    text
}
