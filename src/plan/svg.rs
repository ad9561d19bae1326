//! A drawing of a plan: the share of cold requests and the 99th percentile by the number of
//! servers.

use std::fmt::Write as _;

/// The results of one type of server, as points with the number of servers.
#[derive(Debug, Clone)]
pub struct Curve {
    pub name: String,
    /// Share of cold requests, in percent.
    pub cold: Vec<(u32, f64)>,
    /// 99th percentile, in milliseconds.
    pub p99: Vec<(u32, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 366.0;
const PANEL: f64 = 290.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 300.0;
const LEFT: [f64; 2] = [60.0, 440.0];

/// Names in a line of the legend, which is below the panels, and the height of such a line.
const NAMES: usize = 4;
const LINE: f64 = 18.0;

/// Colours that people with colour blindness can tell apart; further curves use them again, dashed.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];

fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            letter if letter.is_control() => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// The next number from `value` up that is 1, 2 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1e-6).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= value).unwrap_or(10.0 * power)
}

/// Draws a panel with a linear axis from 0, and the target as a line.
fn panel(out: &mut String, left: f64, title: &str, curves: &[(&Curve, &[(u32, f64)])], target: Option<f64>) {
    let points = || curves.iter().flat_map(|(_, points)| points.iter());
    let most_servers = points().map(|(servers, _)| *servers).max().unwrap_or(1);
    let most = round_up(points().map(|(_, value)| *value).chain(target).fold(0.0, f64::max));
    let across = |servers: u32| left + PANEL * f64::from(servers) / f64::from(most_servers);
    let up = |value: f64| BOTTOM - (BOTTOM - TOP) * value / most;
    // Writing to a string cannot fail.
    let _ = writeln!(out, r#"<text x="{left}" y="40" class="title">{title}</text>"#);
    for part in 0..=4 {
        let value = most * f64::from(part) / 4.0;
        let y = up(value);
        let _ = writeln!(
            out,
            r#"<line x1="{left}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}" class="grid"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            left + PANEL,
            left - 6.0,
            y + 4.0,
            (value * 1000.0).round() / 1000.0
        );
    }
    let step = most_servers.div_ceil(10);
    for servers in (0..=most_servers).step_by(step as usize).skip(1) {
        let _ = writeln!(
            out,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{servers}</text>"#,
            across(servers),
            BOTTOM + 18.0
        );
    }
    let _ = writeln!(
        out,
        r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">servers</text>"#,
        left + PANEL / 2.0,
        BOTTOM + 36.0
    );
    if let Some(target) = target {
        let y = up(target);
        let _ = writeln!(
            out,
            r#"<line x1="{left}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}" class="target"/>"#,
            left + PANEL
        );
    }
    for (index, (curve, points)) in curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let dash = if index < COLOURS.len() {
            ""
        } else {
            r#" stroke-dasharray="5 3""#
        };
        let line: Vec<String> = points
            .iter()
            .map(|(servers, value)| format!("{:.1},{:.1}", across(*servers), up(*value)))
            .collect();
        let name = escaped(&curve.name);
        let _ = writeln!(
            out,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"{dash}><title>{name}</title></polyline>"#,
            line.join(" ")
        );
        for (servers, value) in *points {
            let _ = writeln!(
                out,
                r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{colour}"><title>{name}, servers: {servers}; {value:.2}</title></circle>"#,
                across(*servers),
                up(*value)
            );
        }
    }
}

/// Draws the results as an SVG file. `cold` and `p99` are the targets, in the units of the curves.
pub fn svg(curves: &[Curve], cold: Option<f64>, p99: Option<f64>) -> String {
    let height = HEIGHT + LINE * curves.len().div_ceil(NAMES) as f64;
    let mut out = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12" role="img">
<title>Cold requests and the 99th percentile of the latency, by the number of servers</title>
<style>text {{ fill: #333 }} .title {{ font-weight: bold; font-size: 14px }} .grid {{ stroke: #ddd }} .target {{ stroke: #b00; stroke-dasharray: 6 4 }}</style>
<rect width="{WIDTH}" height="{height}" fill="#fff"/>
"##
    );
    let of = |points: fn(&Curve) -> &[(u32, f64)]| -> Vec<(&Curve, &[(u32, f64)])> {
        curves.iter().map(|curve| (curve, points(curve))).collect()
    };
    panel(&mut out, LEFT[0], "cold requests, %", &of(|curve| &curve.cold), cold);
    panel(
        &mut out,
        LEFT[1],
        "p99 of the latency, ms",
        &of(|curve| &curve.p99),
        p99,
    );
    for (index, curve) in curves.iter().enumerate() {
        let _ = writeln!(
            out,
            r#"<text x="{:.0}" y="{:.0}" style="fill: {}">{}</text>"#,
            LEFT[0] + 175.0 * (index % NAMES) as f64,
            HEIGHT + LINE * (index / NAMES) as f64,
            COLOURS[index % COLOURS.len()],
            escaped(&curve.name)
        );
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_inside_the_drawing_and_names_cannot_add_elements() {
        let curve = Curve {
            name: "<script>&\"".to_owned(),
            cold: vec![(1, 80.0), (3, 0.4), (50, 0.0)],
            p99: vec![(1, 12_345.0), (50, 0.02)],
        };
        let drawing = svg(&[curve], Some(1.0), Some(50.0));
        assert!(!drawing.contains("<script") && drawing.contains("&lt;script&gt;&amp;&quot;"));
        let numbers = |key: &str| -> Vec<f64> {
            let key = format!(" {key}=\"");
            let after = drawing.split(&key).skip(1);
            after
                .map(|text| text.split('"').next().unwrap().parse().unwrap())
                .collect()
        };
        let (across, down) = (numbers("cx"), numbers("cy"));
        assert_eq!((across.len(), down.len()), (5, 5));
        assert!(across.iter().all(|x| (0.0..=WIDTH).contains(x)));
        assert!(down.iter().all(|y| (TOP..=BOTTOM).contains(y)), "{down:?}");
    }

    #[test]
    fn the_legend_is_inside_the_drawing() {
        let curve = |index: u32| Curve {
            name: format!("type-{index}"),
            cold: vec![(1, 1.0)],
            p99: vec![(1, 1.0)],
        };
        let drawing = svg(&(0..11).map(curve).collect::<Vec<_>>(), None, None);
        let height: f64 = drawing
            .split('"')
            .nth(3)
            .unwrap()
            .split(' ')
            .nth(3)
            .unwrap()
            .parse()
            .unwrap();
        let names = drawing.lines().filter(|line| line.contains("style=\"fill"));
        let places = names.map(|line| {
            let number = |part: usize| line.split('"').nth(part).unwrap().parse::<f64>().unwrap();
            (number(1), number(3))
        });
        let places: Vec<(f64, f64)> = places.collect();
        assert_eq!(places.len(), 11);
        assert!(
            places.iter().all(|(x, y)| *x < WIDTH - 100.0 && *y < height),
            "{places:?} {height}"
        );
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, expected) in [
            (0.0, 1e-6),
            (0.3, 0.5),
            (1.0, 1.0),
            (12.0, 20.0),
            (51.0, 100.0),
            (99.0, 100.0),
        ] {
            assert!(
                (round_up(value) - expected).abs() < 1e-9,
                "{value}: {}",
                round_up(value)
            );
        }
    }
}
