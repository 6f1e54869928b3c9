//! One colour a stage, the same in every chart.

use std::fmt::Write;

use plotters::style::RGBColor;

use super::page::escape;

/// Easily told apart, on white, by colour-blind readers too; the first is quiet, for the stage that
/// the others start from.
const COLORS: [RGBColor; 8] = [
    RGBColor(148, 163, 184),
    RGBColor(245, 158, 11),
    RGBColor(37, 99, 235),
    RGBColor(13, 148, 136),
    RGBColor(219, 39, 119),
    RGBColor(124, 58, 237),
    RGBColor(101, 163, 13),
    RGBColor(220, 38, 38),
];

/// Colours by stage.
pub(super) struct Palette {
    stages: Vec<String>,
}

impl Palette {
    pub(super) fn new(stages: Vec<String>) -> Palette {
        Palette { stages }
    }

    pub(super) fn stages(&self) -> &[String] {
        &self.stages
    }

    pub(super) fn color(&self, stage: &str) -> RGBColor {
        let index = self.stages.iter().position(|name| name == stage);
        COLORS[index.unwrap_or(0) % COLORS.len()]
    }

    /// A dot in the stage's colour.
    pub(super) fn dot(&self, stage: &str) -> String {
        let RGBColor(r, g, b) = self.color(stage);
        format!("<i class=\"dot\" style=\"background:rgb({r},{g},{b})\"></i>")
    }

    /// Dots and names of those stages that occur among `used`.
    pub(super) fn legend<'a>(&self, used: impl Iterator<Item = &'a str>) -> String {
        let used: std::collections::HashSet<&str> = used.collect();
        let mut html = String::from("<p class=\"legend\">");
        for stage in self.stages.iter().filter(|stage| used.contains(stage.as_str())) {
            // Writing into a string cannot fail.
            let _ = write!(html, "<span>{}{}</span>", self.dot(stage), escape(stage));
        }
        html + "</p>"
    }
}
