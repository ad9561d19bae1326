//! Describes the steps of a processor, for people.

use crate::vision::keys::Layout;
use crate::vision::levels::Levels;
use crate::vision::plan::{Frame, ImagePlan, Pad};
use crate::vision::size::Target;

pub(super) fn describe(plan: &ImagePlan, levels: &Levels, layout: Option<Layout>) -> Vec<String> {
    let mut steps = vec!["decode to RGB, upright".to_owned()];
    if let Some((down, across)) = plan.first_crop {
        steps.push(format!("crop the centre: {down:.4} x {across:.4} of the shorter edge"));
    }
    if let Some(target) = target(&plan.target) {
        let filter = plan.resampling.filter.name();
        let as_opencv = if plan.resampling.antialias {
            ""
        } else {
            " without antialias"
        };
        steps.push(format!("resize {target}, {filter}{as_opencv}"));
    }
    match plan.frame {
        Frame::Whole => {}
        Frame::Centre { size, .. } => steps.push(format!("crop the centre to {size}")),
        Frame::Letterbox { size, fill } => steps.push(format!("pad to {size} on all sides with {}", fill[0])),
    }
    if let Some(scale) = levels.scale {
        let offset = if levels.offset { ", minus 1" } else { "" };
        steps.push(format!("scale by {}{offset}", factor(scale)));
    }
    if let Some((mean, std)) = &levels.norm {
        let list = |values: &[f32]| {
            let texts: Vec<_> = values.iter().map(f32::to_string).collect();
            texts.join(", ")
        };
        let again = if levels.again { ", twice" } else { "" };
        steps.push(format!(
            "subtract the mean ({}) and divide by ({}){again}",
            list(mean),
            list(std)
        ));
    }
    match plan.pad {
        None => {}
        Some(Pad::To(size)) => steps.push(format!("pad to {size} below and to the right")),
        Some(Pad::Multiple { multiple, .. }) => steps.push(format!("pad to multiples of {multiple}")),
    }
    if levels.flips {
        steps.push("swap red and blue".to_owned());
    }
    if let Some(layout) = layout {
        steps.push(format!("order the axes as {layout}"));
    }
    steps
}

fn target(target: &Target) -> Option<String> {
    let edge = |edge: u32| match edge {
        0 => "the model's size".to_owned(),
        edge => edge.to_string(),
    };
    Some(match *target {
        Target::Keep => return None,
        Target::Exact(size) => format!("to {size}"),
        Target::Shortest {
            edge: shortest,
            longest,
            ..
        }
        | Target::DetrShortest {
            edge: shortest,
            longest,
            ..
        } => {
            let bound = longest.map_or_else(String::new, |longest| format!(", the longest to at most {longest}"));
            format!("the shortest edge to {}{bound}", edge(shortest))
        }
        Target::Within(size) | Target::Contain(size) | Target::Letterbox(size) => {
            format!("to fit into {size}, keeping the aspect ratio")
        }
        Target::Longest(longest) => format!("the longest edge to {}", edge(longest)),
        Target::VilT { shorter, multiple } => {
            format!(
                "the shortest edge to {}, edges to multiples of {multiple}",
                edge(shorter)
            )
        }
        Target::Dpt {
            size,
            keep_aspect_ratio,
            multiple,
        } => {
            let aspect = if keep_aspect_ratio {
                ", keeping the aspect ratio"
            } else {
                ""
            };
            let multiples = match multiple {
                0 | 1 => String::new(),
                multiple => format!(", edges to multiples of {multiple}"),
            };
            format!("to {size}{aspect}{multiples}")
        }
        Target::Multiple(multiple) => format!("edges down to multiples of {multiple}"),
        Target::Cover(size) => format!("to cover {size}, keeping the aspect ratio"),
    })
}

/// Formats a factor in the way people write it: `1/255`.
fn factor(scale: f64) -> String {
    let inverse = 1.0 / scale;
    if inverse.fract().abs() < 1e-6 || inverse.fract().abs() > 1.0 - 1e-6 {
        format!("1/{}", inverse.round())
    } else {
        scale.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::size::Size;

    #[test]
    fn describes_a_size_that_depends_on_the_model() {
        assert_eq!(
            target(&Target::Exact(Size::OF_MODEL)).as_deref(),
            Some("to the model's size")
        );
        assert_eq!(factor(1.0 / 255.0), "1/255");
        assert_eq!(factor(0.007_843_137_254_901_96), "0.00784313725490196");
    }
}
