//! The chart: for each figure the ratio of each path to its limit, with its interval.

use super::{
    figures::Figure,
    report::{Series, compare},
    stats::Estimate,
};
use anyhow::{Context, Result};
use plotters::prelude::*;
use std::path::Path;

/// Width of a panel, height of a row in it and of its frame, in pixels.
const PANEL: (u32, u32, u32) = (760, 26, 80);

/// Draws the ratios as an SVG file.
///
/// # Errors
/// Those of drawing and of the file system.
pub(super) fn draw(file: &Path, all: &[Series]) -> Result<()> {
    let rows = all.iter().filter(|series| !series.limit).count();
    let panels = Figure::ALL.len();
    let height = u32::try_from(rows)? * PANEL.1 + PANEL.2;
    let size = (PANEL.0 * 2, height * u32::try_from(panels.div_ceil(2))?);
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, figure) in root
        .split_evenly((panels.div_ceil(2), 2))
        .iter()
        .zip(Figure::ALL)
    {
        panel(area, all, figure).with_context(|| format!("drawing {}", figure.title()))?;
    }
    root.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    all: &[Series],
    figure: Figure,
) -> Result<()> {
    let better = if figure.more_is_better() {
        "right"
    } else {
        "left"
    };
    let caption = format!(
        "{} — ratio to the limit, {better} is better",
        figure.title()
    );
    let dots: Vec<_> = compare(all, figure)
        .into_iter()
        .map(|one| Dot {
            name: &one.series.path,
            ratio: one.ratio,
            ours: one.series.path.starts_with("Fairlead"),
        })
        .collect();
    dotted(area, &caption, &dots)
}

/// A ratio and its name.
pub(super) struct Dot<'a> {
    pub(super) name: &'a str,
    pub(super) ratio: Estimate,
    pub(super) ours: bool,
}

/// Draws panels of ratios, two beside each other, each with its caption.
///
/// # Errors
/// Those of drawing and of the file system.
pub(super) fn ratios(file: &Path, panels: &[(&str, Vec<Dot<'_>>)]) -> Result<()> {
    let rows = panels.iter().map(|(_, dots)| dots.len()).max().unwrap_or(0);
    let height = u32::try_from(rows)? * PANEL.1 + PANEL.2;
    let lines = panels.len().div_ceil(2);
    let size = (PANEL.0 * 2, height * u32::try_from(lines)?);
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, (caption, dots)) in root.split_evenly((lines, 2)).iter().zip(panels) {
        dotted(area, caption, dots).with_context(|| format!("drawing {caption}"))?;
    }
    root.present()?;
    Ok(())
}

fn dotted(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    caption: &str,
    dots: &[Dot<'_>],
) -> Result<()> {
    let ends = || dots.iter().flat_map(|one| [one.ratio.low, one.ratio.high]);
    let low = ends().filter(|end| end.is_finite()).fold(0.9, f64::min) - 0.05;
    let high = ends().filter(|end| end.is_finite()).fold(1.1, f64::max) + 0.05;
    let names: Vec<_> = dots.iter().map(|one| one.name.to_owned()).collect();
    let rows = dots.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(210)
        .build_cartesian_2d(low..high, (-0.5..rows - 0.5).step(0.5))?;
    let name = |at: &f64| match at.fract() == 0.0 && *at >= 0.0 {
        true => names
            .get(names.len() - 1 - *at as usize)
            .cloned()
            .unwrap_or_default(),
        false => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(names.len() * 2 + 1)
        .y_label_formatter(&name)
        .label_style(("sans-serif", 12))
        .draw()?;
    chart.draw_series(LineSeries::new(
        [(1.0, -0.5), (1.0, rows - 0.5)],
        BLACK.mix(0.5),
    ))?;
    for (index, one) in dots.iter().rev().enumerate() {
        let y = index as f64;
        let color = if one.ours {
            BLUE
        } else {
            RGBColor(110, 110, 110)
        };
        let interval = [(one.ratio.low, y), (one.ratio.high, y)];
        chart.draw_series(LineSeries::new(interval, color.stroke_width(3)))?;
        chart.draw_series([Circle::new((one.ratio.value, y), 4, color.filled())])?;
    }
    Ok(())
}

/// A curve by its name.
pub(super) type Curve<'a> = (&'a str, Vec<(f64, f64)>);

/// Draws curves, both axes by powers of ten.
///
/// # Errors
/// Those of drawing and of the file system.
pub(super) fn curves(file: &Path, caption: &str, curves: &[Curve<'_>]) -> Result<()> {
    let points = || curves.iter().flat_map(|(_, points)| points);
    let low = points().fold(f64::INFINITY, |low, (_, y)| low.min(*y)) * 0.8;
    let high = points().fold(0.0, |high: f64, (_, y)| high.max(*y)) * 1.2;
    let most = points().fold(0.0, |most: f64, (x, _)| most.max(*x)) * 1.2;
    let root = SVGBackend::new(file, (760, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(caption, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d((0.8..most).log_scale(), (low..high).log_scale())?;
    chart.configure_mesh().draw()?;
    for (index, (name, points)) in curves.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let line = LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(3);
        chart
            .draw_series(line)?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    root.present()?;
    Ok(())
}
