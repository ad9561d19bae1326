//! Computes the sizes and positions for one image from the plan and the image's size. This is a
//! pure function, so that the memory is known before the work begins.

use crate::vision::VisionError;
use crate::vision::plan::{Frame, ImagePlan, Pad, Rounding};
use crate::vision::resample::Part;
use crate::vision::size::{Size, Target, letterbox_gain};

/// Numbers across and down.
type Pair = (u32, u32);

/// Maximum pixels of a tensor. Models need far fewer; files may request more by mistake.
const MAX_OUTPUT_PIXELS: u64 = 1 << 26;

/// The sizes and positions for one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    /// The part of the image that is used; `None` for all of it.
    pub source: Option<Part>,
    /// Size (width, height) of the used part after resizing.
    pub resized: (u32, u32),
    /// The part of the resized image that is visible.
    pub visible: Part,
    /// Size (width, height) of the frame, and the position of the visible part in it.
    pub frame: (u32, u32),
    pub at: (u32, u32),
    /// Size (width, height) of the tensor, and the position of the frame in it.
    pub output: (u32, u32),
    pub frame_at: (u32, u32),
    /// Tensor pixels per image pixel.
    pub scale: (f64, f64),
    pub fill: [u8; 3],
}

impl Shape {
    pub(super) fn new(plan: &ImagePlan, (width, height): (u32, u32)) -> Result<Self, VisionError> {
        let refuse = |problem: String| VisionError::Shape { width, height, problem };
        let source = first_crop(plan, width, height).map_err(refuse)?;
        let used = source.map_or((width, height), |part| (part.width, part.height));
        let (resized_width, resized_height) = plan.target.of(used);
        let resized = match (u32::try_from(resized_width), u32::try_from(resized_height)) {
            (Ok(width @ 1..), Ok(height @ 1..)) => (width, height),
            _ => {
                let problem = format!("resizing results in {resized_width} x {resized_height} pixels");
                return Err(refuse(problem));
            }
        };
        let (frame, start, fill) = framed(&plan.frame, resized);
        let across = overlap(start.0, frame.0, resized.0);
        let down = overlap(start.1, frame.1, resized.1);
        let (output, frame_at) = padded(plan.pad, frame).map_err(refuse)?;
        if u64::from(output.0) * u64::from(output.1) > MAX_OUTPUT_PIXELS {
            let problem = format!(
                "the model's input would have {} x {} pixels, at most {MAX_OUTPUT_PIXELS} allowed",
                output.0, output.1
            );
            return Err(refuse(problem));
        }
        let scale = match plan.target {
            Target::Letterbox(size) => {
                let gain = letterbox_gain(size, used);
                (gain, gain)
            }
            _ => (
                f64::from(resized.0) / f64::from(used.0),
                f64::from(resized.1) / f64::from(used.1),
            ),
        };
        Ok(Self {
            source,
            resized,
            visible: Part {
                left: across.from,
                top: down.from,
                width: across.length,
                height: down.length,
            },
            frame,
            at: (across.at, down.at),
            output,
            frame_at,
            scale,
            fill,
        })
    }

    /// Whether the image fills the whole frame.
    pub(super) fn is_filled(&self) -> bool {
        (self.visible.width, self.visible.height) == self.frame
    }
}

/// The crop before resizing, as in Perceiver.
fn first_crop(plan: &ImagePlan, width: u32, height: u32) -> Result<Option<Part>, String> {
    let Some((part_down, part_across)) = plan.first_crop else {
        return Ok(None);
    };
    let shorter = f64::from(width.min(height));
    let (crop_height, crop_width) = ((part_down * shorter) as u32, (part_across * shorter) as u32);
    if !(1..=width).contains(&crop_width) || !(1..=height).contains(&crop_height) {
        return Err(format!(
            "a crop of {crop_height} x {crop_width} (height x width) is not possible"
        ));
    }
    Ok(Some(Part {
        left: (width - crop_width) / 2,
        top: (height - crop_height) / 2,
        width: crop_width,
        height: crop_height,
    }))
}

/// The size of the frame, and its position on the resized image, which is negative if the image is
/// smaller.
fn framed(frame: &Frame, resized: (u32, u32)) -> ((u32, u32), (i64, i64), [u8; 3]) {
    let along = |size: Size, start: &dyn Fn(i64) -> i64| {
        // Pixels of the image beyond the frame; negative if it does not fill the frame.
        let excess = |edge: u32, of: u32| i64::from(edge) - i64::from(of);
        (
            (size.width, size.height),
            (
                start(excess(resized.0, size.width)),
                start(excess(resized.1, size.height)),
            ),
        )
    };
    match *frame {
        Frame::Whole => (resized, (0, 0), [0; 3]),
        Frame::Centre { size, rounding, fill } => {
            let (frame, start) = match rounding {
                Rounding::Down => along(size, &|excess| excess.div_euclid(2)),
                Rounding::HalfEven => along(size, &|excess| match excess {
                    0.. => (excess as f64 / 2.0).round_ties_even() as i64,
                    missing => -((-missing) / 2),
                }),
            };
            (frame, start, fill)
        }
        Frame::Letterbox { size, fill } => {
            let (frame, start) = along(size, &|excess| -((-excess as f64 / 2.0 - 0.1).round_ties_even() as i64));
            (frame, start, fill)
        }
    }
}

/// The range of an image that a frame shows, along one axis.
struct Overlap {
    /// The start in the image.
    from: u32,
    /// The start in the frame.
    at: u32,
    length: u32,
}

fn overlap(start: i64, frame: u32, picture: u32) -> Overlap {
    let end = (start + i64::from(frame)).min(picture.into());
    let from = start.max(0);
    // Both are within sizes that fit into `u32`.
    Overlap {
        from: from as u32,
        at: (from - start) as u32,
        length: (end - from) as u32,
    }
}

/// The size of the padded tensor, and the position of the frame in it.
fn padded(pad: Option<Pad>, (width, height): Pair) -> Result<(Pair, Pair), String> {
    match pad {
        None => Ok(((width, height), (0, 0))),
        Some(Pad::To(size)) if width <= size.width && height <= size.height => Ok(((size.width, size.height), (0, 0))),
        Some(Pad::To(size)) => Err(format!(
            "resizing results in {height} x {width} (height x width), which is larger than the {size} to pad to"
        )),
        Some(Pad::Multiple { multiple, centred }) => {
            let up = |edge: u32| edge.checked_next_multiple_of(multiple);
            let (Some(up_width), Some(up_height)) = (up(width), up(height)) else {
                return Err("padding makes it too large".to_owned());
            };
            let before = |up: u32, edge: u32| if centred { (up - edge) / 2 } else { 0 };
            Ok((
                (up_width, up_height),
                (before(up_width, width), before(up_height, height)),
            ))
        }
    }
}
