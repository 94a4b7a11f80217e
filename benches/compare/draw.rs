//! A curve as an SVG: its points in equal steps, whatever they are, and each value
//! written beside its mark.

use std::path::Path;

use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::curves::Curve;
use super::work::{Failure, float};

const SIZE: (u32, u32) = (800, 420);
const FONT: &str = "sans-serif";
/// Colours that people with any eyes tell apart.
const COLOURS: [RGBColor; 3] = [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115)];
/// From here on, small values would lie on the axis: the scale is logarithmic.
const FAR_APART: f64 = 100.0;

/// Draws it into this file.
pub(crate) fn curve(curve: &Curve, path: &Path) -> Result<(), Failure> {
    let values = curve.series.iter().flat_map(|series| &series.values);
    let values: Vec<f64> = values.map(|value| float(*value)).collect();
    let highest = values.iter().copied().fold(1.0, f64::max);
    let lowest = values.iter().copied().fold(highest, f64::min).max(1.0);
    if highest / lowest > FAR_APART {
        on(curve, path, (lowest / 3.0..highest * 6.0).log_scale())
    } else {
        on(curve, path, 0.0..highest * 1.35)
    }
}

fn on<Y>(curve: &Curve, path: &Path, scale: Y) -> Result<(), Failure>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let last = f64::from(u32::try_from(curve.points.len())?) - 1.0;
    let mut chart = ChartBuilder::on(&root)
        .caption(curve.title, (FONT, 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(84)
        .build_cartesian_2d(-0.4..last + 0.4, scale)?;
    let label = |x: &f64| {
        let at = (0_u32..).zip(&curve.points).find(|(at, _)| (f64::from(*at) - x).abs() < 0.01);
        at.map(|(_, label)| label.clone()).unwrap_or_default()
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .max_light_lines(0)
        .x_labels(curve.points.len() + 1)
        .x_label_formatter(&label)
        .y_label_formatter(&|value| format!("{value:.0}"))
        .x_desc(curve.over)
        .y_desc(curve.unit)
        .label_style((FONT, 14))
        .draw()?;
    for (series, colour) in curve.series.iter().zip(COLOURS.into_iter().cycle()) {
        let marks = series.values.iter().zip(0_u32..);
        let marks: Vec<(f64, f64)> =
            marks.map(|(value, at)| (f64::from(at), float(*value))).collect();
        chart
            .draw_series(LineSeries::new(marks.iter().copied(), colour.stroke_width(2)))?
            .label(series.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        let beside =
            (FONT, 13).into_font().color(&colour).pos(Pos::new(HPos::Center, VPos::Bottom));
        chart.draw_series(marks.iter().map(|mark| {
            let value = Text::new(format!("{:.0}", mark.1), (0, -6), beside.clone());
            EmptyElement::at(*mark) + Circle::new((0, 0), 3, colour.filled()) + value
        }))?;
    }
    // The scale leaves room above the curves.
    let legend = SeriesLabelPosition::UpperRight;
    chart.configure_series_labels().position(legend).label_font((FONT, 14)).draw()?;
    Ok(root.present()?)
}
