//! What a model can know that sees the mean over frames only, and what one that sees them all can.

use std::collections::{HashMap, HashSet};

use half::f16;
use strand_data::Row;

use super::*;
use crate::image::Frame;

const TRAIN: u64 = 2000;
const TEST: u64 = 1000;

fn generator(kind: Kind, frames: usize) -> Generator {
    let kinds = kind.name().parse().unwrap();
    Generator::new(&SynthOptions { kinds, frames, ..SynthOptions::default() }).unwrap()
}

struct Example {
    mean: Vec<f32>,
    answer: String,
    options: Vec<String>,
}

fn examples(generator: &Generator, split: Split, count: u64) -> Vec<Example> {
    (0..count).map(|index| example(generator, split, index)).collect()
}

fn example(generator: &Generator, split: Split, index: u64) -> Example {
    let row = generator.row(split, index);
    let qa = row.qa[0].clone();
    Example { mean: mean(&row), answer: qa.answer, options: qa.options }
}

/// The mean over frames of a row's features, `[tokens * dim]`.
fn mean(row: &Row) -> Vec<f32> {
    let values = values(&row.features);
    let mut mean = vec![0.0; values.len() / row.frames];
    for frame in values.chunks(mean.len()) {
        add(&mut mean, frame, 1.0 / row.frames as f32);
    }
    mean
}

fn values(features: &[u8]) -> Vec<f32> {
    let values = features.chunks_exact(2);
    values.map(|value| f16::from_le_bytes([value[0], value[1]]).to_f32()).collect()
}

/// Logistic regression by gradient descent, one output an answer. Returns the share of held-out questions whose
/// best-scored option is right.
fn linear_probe(train: &[Example], test: &[Example]) -> f64 {
    let mut centre = vec![0.0; train[0].mean.len()];
    for example in train {
        add(&mut centre, &example.mean, 1.0 / train.len() as f32);
    }
    let centred = |example: &Example| -> Vec<f32> {
        example.mean.iter().zip(&centre).map(|(value, centre)| value - centre).collect()
    };
    let mut weights: HashMap<String, Vec<f32>> = HashMap::new();
    for example in train {
        weights.entry(example.answer.clone()).or_insert_with(|| vec![0.0; centre.len()]);
    }
    for epoch in 0..12 {
        for example in train {
            let input = centred(example);
            let scores: HashMap<String, f32> = weights
                .iter()
                .map(|(answer, weight)| (answer.clone(), dot(weight, &input).exp()))
                .collect();
            let sum: f32 = scores.values().sum();
            for (answer, weight) in &mut weights {
                let target = f32::from(*answer == example.answer);
                add(weight, &input, 0.01 / (1.0 + epoch as f32) * (target - scores[answer] / sum));
            }
        }
    }
    share(test, |example| {
        let input = centred(example);
        let score =
            |option: &&String| weights.get(*option).map_or(f32::MIN, |weight| dot(weight, &input));
        example.options.iter().max_by(|a, b| score(a).total_cmp(&score(b))).cloned()
    })
}

/// The answer of the nearest training example whose answer is among the options.
fn nearest_probe(train: &[Example], test: &[Example]) -> f64 {
    share(test, |example| {
        let candidates = train.iter().filter(|other| example.options.contains(&other.answer));
        let nearest = candidates.max_by(|a, b| {
            let closeness = |other: &Example| {
                2.0 * dot(&other.mean, &example.mean) - dot(&other.mean, &other.mean)
            };
            closeness(a).total_cmp(&closeness(b))
        });
        nearest.map(|other| other.answer.clone())
    })
}

fn share(test: &[Example], answer: impl Fn(&Example) -> Option<String>) -> f64 {
    let right = test.iter().filter(|example| answer(example).as_ref() == Some(&example.answer));
    right.count() as f64 / test.len() as f64
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums side by side: the compiler keeps the order of a single one and so cannot vectorise it.
    let mut sums = [0.0; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum()
}

fn add(sum: &mut [f32], values: &[f32], weight: f32) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += weight * value;
    }
}

fn probes(kind: Kind, frames: usize) -> (f64, f64) {
    let generator = generator(kind, frames);
    let train = examples(&generator, Split::Train, TRAIN);
    let test = examples(&generator, Split::HeldOut, TEST);
    let shares = (linear_probe(&train, &test), nearest_probe(&train, &test));
    println!(
        "{} with {frames} frames, from the mean: linear {:.3}, nearest {:.3}",
        kind.name(),
        shares.0,
        shares.1
    );
    shares
}

#[test]
fn the_mean_over_frames_says_nothing_about_order() {
    for (kind, frames, chance) in [
        (Kind::Direction, 6, 0.5),
        (Kind::Direction, 7, 0.5),
        (Kind::First, 6, 0.5),
        (Kind::Turns, 6, 1.0 / 3.0),
    ] {
        let (linear, nearest) = probes(kind, frames);
        // Four standard deviations of 1,000 guesses are 0.06.
        assert!((linear - chance).abs() < 0.06, "{kind:?}: linear {linear}");
        assert!((nearest - chance).abs() < 0.06, "{kind:?}: nearest {nearest}");
    }
}

/// What a cell can hold, as the encoder shows it: shape and colour, no shape for a light.
type Code = (Option<usize>, usize, Vec<f32>);

/// For each cell all that it can hold, less the token of the empty cell, which comes apart.
fn codes(generator: &Generator) -> Vec<(Vec<f32>, Vec<Code>)> {
    let picture = |shape, colour, path: &[usize], lights: &[usize]| {
        let light = |&cell| scene::Light { colour, cell, flash: None };
        let lights = lights.iter().map(light).collect();
        let path = path.to_vec();
        let scene = scene::Scene {
            grid: 4,
            shape,
            colour,
            along_row: true,
            forwards: true,
            turns: 0,
            path,
            lights,
        };
        values(&generator.encoded(&render::render(&scene, 0, 32)))
    };
    let cell = |cell: usize| {
        let token = |values: Vec<f32>| values[cell * 64..(cell + 1) * 64].to_vec();
        let empty = token(picture(0, 0, &[], &[]));
        let mut codes = Vec::new();
        for colour in 0..6 {
            for shape in 0..4 {
                codes.push((Some(shape), colour, token(picture(shape, colour, &[cell], &[]))));
            }
            codes.push((None, colour, token(picture(0, colour, &[], &[cell]))));
        }
        codes.iter_mut().for_each(|(_, _, code)| add(code, &empty, -1.0));
        (empty, codes)
    };
    (0..16).map(cell).collect()
}

#[test]
fn the_mean_over_frames_answers_static_questions() {
    let codes = codes(&generator(Kind::Colour, 6));
    for kind in [Kind::Colour, Kind::Shape, Kind::Count] {
        let generator = generator(kind, 6);
        for index in 0..300 {
            let row = generator.row(Split::HeldOut, index);
            let found = decode(&mean(&row), &codes);
            let lights = found.iter().filter(|(shape, _)| shape.is_none()).count();
            let shape = found.iter().find_map(|&(shape, colour)| Some((shape?, colour))).unwrap();
            let answer = match kind {
                Kind::Colour => scene::COLOURS[shape.1].0,
                Kind::Shape => scene::SHAPES[shape.0],
                _ => ["two", "three", "four"][lights - 2],
            };
            assert_eq!(answer, row.qa[0].answer, "{}: {:?}", row.id, row.qa[0]);
        }
    }
}

/// What the cells hold, by the direction in which their mean leaves the empty cell: a share of the time makes it
/// shorter but does not turn it.
fn decode(mean: &[f32], codes: &[(Vec<f32>, Vec<Code>)]) -> Vec<(Option<usize>, usize)> {
    let cell = |(token, (empty, codes)): (&[f32], &(Vec<f32>, Vec<Code>))| {
        let mut rest = token.to_vec();
        add(&mut rest, empty, -1.0);
        let cosine =
            |code: &Code| dot(&rest, &code.2) / (dot(&rest, &rest) * dot(&code.2, &code.2)).sqrt();
        let best = codes.iter().max_by(|a, b| cosine(a).total_cmp(&cosine(b)))?;
        (dot(&rest, &rest) > 0.1).then_some((best.0, best.1))
    };
    mean.chunks(64).zip(codes).filter_map(cell).collect()
}

/// What a person would say who sees the pictures and knows nothing of how they were made.
struct Watched {
    places: Vec<(usize, usize)>,
    /// Colours in the order in which they flash.
    flashes: Vec<&'static str>,
}

fn watch(pictures: &[Frame]) -> Watched {
    let (mut places, mut flashes) = (Vec::new(), Vec::new());
    for picture in pictures {
        for cell in 0..16 {
            let (row, column) = (cell / 4, cell % 4);
            let pixels = (0..64).map(|at| ((row * 8 + at / 8) * 32 + column * 8 + at % 8) * 3);
            let bright: Vec<_> = pixels
                .map(|at| &picture.rgb()[at..at + 3])
                .filter(|pixel| pixel.contains(&255))
                .collect();
            match bright.len() {
                64 => flashes.push(name(bright[0])),
                20.. => places.push((row, column)),
                _ => {}
            }
        }
    }
    Watched { places, flashes }
}

fn name(pixel: &[u8]) -> &'static str {
    let known = scene::COLOURS.iter().find(|(_, value)| value == pixel);
    known.unwrap().0
}

fn answer(watched: &Watched, kind: Kind) -> &'static str {
    let ways: Vec<_> = ways(watched).collect();
    match kind {
        Kind::First => watched.flashes[0],
        Kind::Turns => {
            let turns = ways.windows(2).filter(|pair| pair[0] != pair[1]);
            ["never", "once", "twice"][turns.count()]
        }
        _ => ways[0],
    }
}

#[test]
fn all_frames_in_order_answer_everything() {
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_order()) {
        let generator = generator(kind, 6);
        for index in 0..500 {
            let row = generator.row(Split::HeldOut, index);
            let watched = watch(&generator.pictures(Split::HeldOut, index));
            assert_eq!(watched.places.len(), 6, "the shape is in sight in every frame");
            assert_eq!(answer(&watched, kind), row.qa[0].answer, "{}: {:?}", row.id, row.qa[0]);
        }
    }
}

#[test]
fn dense_answers_tell_what_happens_at_each_step() {
    for kind in Kind::ALL {
        let generator = generator(kind, 6);
        for index in 0..100 {
            let watched = watch(&generator.pictures(Split::Train, index));
            let pairs = generator.row(Split::Train, index).qa;
            assert_eq!((pairs.len(), pairs[1].kind.as_str()), (2, DENSE));
            let words: Vec<String> = match kind {
                Kind::Direction | Kind::Turns => ways(&watched).map(str::to_owned).collect(),
                Kind::First => {
                    let said = pairs[1].answer.split(' ').filter(|word| *word != "none");
                    assert!(said.eq(watched.flashes.iter().copied()), "{:?}", pairs[1]);
                    continue;
                }
                _ => places(&watched).collect(),
            };
            assert_eq!(pairs[1].answer, words.join(" "));
        }
    }
}

fn places(watched: &Watched) -> impl Iterator<Item = String> {
    let name =
        |(row, column): &(usize, usize)| format!("{}{}", ["a", "b", "c", "d"][*column], row + 1);
    watched.places.iter().map(name)
}

fn ways(watched: &Watched) -> impl Iterator<Item = &'static str> {
    watched.places.windows(2).map(|pair| {
        match ((pair[1].0 + 4 - pair[0].0) % 4, (pair[1].1 + 4 - pair[0].1) % 4) {
            (1, _) => "down",
            (3, _) => "up",
            (_, 1) => "right",
            _ => "left",
        }
    })
}

#[test]
fn answers_are_equally_distributed_and_options_hold_them_anywhere() {
    for kind in Kind::ALL {
        let generator = generator(kind, 6);
        let (mut answers, mut positions) = (HashMap::new(), HashMap::new());
        for index in 0..600 {
            let row = generator.row(Split::HeldOut, index);
            let [qa] = &row.qa[..] else { panic!("one question") };
            assert_eq!(qa.kind, kind.name());
            let position = qa.options.iter().position(|option| *option == qa.answer).unwrap();
            *positions.entry(position).or_insert(0_usize) += 1;
            *answers.entry(qa.answer.clone()).or_insert(0_usize) += 1;
            assert_eq!(qa.options.iter().collect::<HashSet<_>>().len(), qa.options.len());
        }
        let share = 600 / answers.len();
        let slack = if kind == Kind::First { 45 } else { 0 };
        assert!(
            answers.values().all(|count| count.abs_diff(share) <= slack),
            "{kind:?}: {answers:?}"
        );
        let share = 600 / positions.len();
        assert!(
            positions.values().all(|count| count.abs_diff(share) < 60),
            "{kind:?}: {positions:?}"
        );
    }
}

#[test]
fn no_held_out_layout_is_in_training() {
    let still = |generator: &Generator, split, index| {
        let (mut scene, _) = generator.scene(split, index);
        scene.path.sort_unstable();
        scene.lights.iter_mut().for_each(|light| light.flash = None);
        scene.lights.sort_by_key(|light| light.cell);
        format!("{} {} {:?} {:?}", scene.shape, scene.colour, scene.path, scene.lights)
    };
    let [one, other] = [0, 1]
        .map(|seed| Generator::new(&SynthOptions { seed, ..SynthOptions::default() }).unwrap());
    let train: HashSet<_> = (0..5000).map(|index| still(&one, Split::Train, index)).collect();
    let held_out: HashSet<_> =
        (0..1000).map(|index| still(&other, Split::HeldOut, index)).collect();
    assert!(train.len() > 4500 && held_out.len() > 900);
    assert_eq!(train.intersection(&held_out).count(), 0);
}

#[test]
fn no_word_of_the_set_is_unknown_and_answers_are_single_tokens() {
    let generator = Generator::new(&SynthOptions::default()).unwrap();
    let (json, vocab_size) = generator.tokenizer().unwrap();
    assert_eq!(vocab_size, 512);
    let tokenizer = tokenizers::Tokenizer::from_bytes(json).unwrap();
    for index in 0..500 {
        for qa in generator.row(Split::Train, index).qa {
            for text in [&qa.question, &qa.answer] {
                let words = text.split_whitespace().count();
                let encoding = tokenizer.encode(text.as_str(), false).unwrap();
                assert_eq!(encoding.len(), words, "{text}");
                assert!(encoding.get_ids().iter().all(|&id| id > 258), "{text}");
            }
        }
    }
}

#[test]
fn longer_clips_hold_each_step() {
    let options = SynthOptions { frames: 12, hold: 2, ..SynthOptions::default() };
    let held = Generator::new(&options).unwrap().row(Split::Train, 3);
    let plain = Generator::new(&SynthOptions::default()).unwrap().row(Split::Train, 3);
    assert_eq!(held.qa, plain.qa);
    let frame = 16 * 64 * 2;
    for (at, features) in plain.features.chunks(frame).enumerate() {
        for copy in 0..2 {
            let start = (2 * at + copy) * frame;
            assert_eq!(features, &held.features[start..start + frame]);
        }
    }
}

#[test]
fn sizes_that_cannot_work_are_refused() {
    let base = SynthOptions::default;
    let wrong = [
        (SynthOptions { patches: 15, ..base() }, "15 patches"),
        (SynthOptions { patches: 4, ..base() }, "4 patches"),
        (SynthOptions { frames: 3, ..base() }, "`turns`"),
        (SynthOptions { frames: 7, hold: 2, ..base() }, "held for 2"),
        (SynthOptions { frames: 0, ..base() }, "0 frames"),
        (SynthOptions { size: 30, ..base() }, "image size 30"),
        (SynthOptions { train_rows: 0, ..base() }, "at least one row"),
    ];
    for (options, named) in wrong {
        let error = Generator::new(&options).expect_err(named);
        assert!(error.to_string().contains(named), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
