//! What the charts share.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontDesc, FontFamily, FontStyle, TextStyle};

use crate::TelemetryError;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Why drawing failed, as text: the backend's own type is of no use to a reader.
pub(super) type Drawn = Result<(), String>;

/// Width of a chart in its own units; the page scales it.
pub(super) const WIDTH: u32 = 980;
/// Text on axes.
pub(super) const SOFT: RGBColor = RGBColor(100, 116, 139);
/// Text that matters.
pub(super) const INK: RGBColor = RGBColor(15, 23, 42);
/// Grid lines.
pub(super) const LINE: RGBColor = RGBColor(226, 232, 240);

/// Draws into an SVG of the given height.
pub(super) fn svg(
    title: &str,
    height: u32,
    draw: impl FnOnce(&Area<'_>) -> Drawn,
) -> Result<String, TelemetryError> {
    let mut image = String::new();
    let area = SVGBackend::with_string(&mut image, (WIDTH, height)).into_drawing_area();
    let drawn = draw(&area).and_then(|()| area.present().map_err(text));
    drop(area);
    drawn.map_err(|reason| TelemetryError::Chart { chart: title.into(), reason })?;
    Ok(image)
}

/// An error as text.
pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A font of the page's family.
pub(super) fn font(size: f64, color: RGBColor, bold: bool) -> TextStyle<'static> {
    let style = match bold {
        true => FontStyle::Bold,
        false => FontStyle::Normal,
    };
    FontDesc::new(FontFamily::SansSerif, size, style).color(&color)
}
