//! Questions about a scene, in words.

use rand::Rng;
use strand_data::{Qa, draw};

use super::mix::Kind;
use super::scene::{COLOURS, LIGHTS, RowKey, SHAPES, Scene, shuffle};

/// What `kind` says of answers that tell where things are, step by step.
pub const DENSE: &str = "dense";

const COUNTS: [&str; 3] = ["two", "three", "four"];
const TURNS: [&str; 3] = ["never", "once", "twice"];
const NO_LIGHT: &str = "none";
const WHERE: &str = "Where is the shape at each step?";
const WHICH_WAY: &str = "Which way does the shape go at each step?";
const WHICH_FLASHES: &str = "Which light flashes at each step?";

/// The question of a kind with its right answer and its options in random order.
pub(super) fn question(scene: &Scene, kind: Kind, row: &RowKey) -> Qa {
    let mut rng = draw(row.seed, row.index, row.split.name(), "options");
    let (question, mut options, right) = match kind {
        Kind::Direction => direction(scene),
        Kind::First => first(scene, &mut rng),
        Kind::Turns => asked("How often does the shape turn back?", &TURNS, scene.turns),
        Kind::Colour => {
            asked("What colour is the shape?", &COLOURS.map(|colour| colour.0), scene.colour)
        }
        Kind::Shape => asked("What is the shape?", &SHAPES, scene.shape),
        Kind::Count => asked("How many lights are there?", &COUNTS, scene.lights.len() - LIGHTS[0]),
    };
    let answer = options[right].clone();
    shuffle(&mut options, &mut rng);
    Qa { question, answer, options, kind: kind.name().to_owned(), ..Qa::default() }
}

/// The dense question that goes with a kind: what happens at each step.
pub(super) fn dense(scene: &Scene, kind: Kind) -> Qa {
    let (question, answer) = match kind {
        Kind::First => (WHICH_FLASHES, flashes(scene)),
        Kind::Direction | Kind::Turns => (WHICH_WAY, ways(scene)),
        _ => (WHERE, places(scene)),
    };
    Qa { question: question.to_owned(), answer, kind: DENSE.to_owned(), ..Qa::default() }
}

type Asked = (String, Vec<String>, usize);

fn asked(question: &str, options: &[&str], right: usize) -> Asked {
    let options = options.iter().map(|&option| option.to_owned()).collect();
    (question.to_owned(), options, right)
}

/// Forwards and backwards along the shape's lane.
fn way_names(scene: &Scene) -> [&'static str; 2] {
    if scene.along_row { ["right", "left"] } else { ["down", "up"] }
}

fn direction(scene: &Scene) -> Asked {
    let options = way_names(scene);
    asked("Which way does the shape move?", &options, usize::from(!scene.forwards))
}

fn first(scene: &Scene, rng: &mut impl Rng) -> Asked {
    let mut flashing: Vec<_> = scene
        .lights
        .iter()
        .filter_map(|light| Some((light.flash?, COLOURS[light.colour].0)))
        .collect();
    shuffle(&mut flashing, rng);
    let names: Vec<&str> = flashing.iter().map(|&(_, name)| name).collect();
    let right = usize::from(flashing[1].0 < flashing[0].0);
    let question = format!("Which light flashes first, the {} or the {} one?", names[0], names[1]);
    asked(&question, &names, right)
}

fn places(scene: &Scene) -> String {
    let names = scene.path.iter().map(|&cell| cell_name(scene.grid, cell));
    names.collect::<Vec<_>>().join(" ")
}

fn ways(scene: &Scene) -> String {
    let along = |cell: usize| if scene.along_row { cell % scene.grid } else { cell / scene.grid };
    let name = |step: &[usize]| {
        let forwards = (along(step[0]) + 1) % scene.grid == along(step[1]);
        way_names(scene)[usize::from(!forwards)]
    };
    scene.path.windows(2).map(name).collect::<Vec<_>>().join(" ")
}

fn flashes(scene: &Scene) -> String {
    let name = |step| {
        let lit = scene.lights.iter().find(|light| light.flash == Some(step));
        lit.map_or(NO_LIGHT, |light| COLOURS[light.colour].0)
    };
    (0..scene.path.len()).map(name).collect::<Vec<_>>().join(" ")
}

/// A column's letter and a row's number: `a1` is the cell at the top left.
fn cell_name(grid: usize, cell: usize) -> String {
    let column = char::from(b'a' + (cell % grid) as u8);
    format!("{column}{}", cell / grid + 1)
}

/// Every word that questions and answers use, for the tokenizer: sentences, not a list without repeats.
pub(super) fn texts(grid: usize) -> Vec<String> {
    let colours = COLOURS.map(|colour| colour.0);
    let mut texts: Vec<String> =
        [WHERE, WHICH_WAY, WHICH_FLASHES, NO_LIGHT, "right left down up"].map(str::to_owned).into();
    texts.extend((0..grid * grid).map(|cell| cell_name(grid, cell)));
    for words in [&colours[..], &SHAPES, &COUNTS, &TURNS] {
        texts.push(words.join(" "));
    }
    texts.extend(
        [
            "Which way does the shape move?",
            "How often does the shape turn back?",
            "What colour is the shape?",
            "What is the shape?",
            "How many lights are there?",
            "Which light flashes first, the red or the blue one?",
        ]
        .map(str::to_owned),
    );
    texts
}
