//! Computes the sizes of resized images, with the rounding of each reference.
//!
//! Python's `int()` truncates; its `round()` rounds halves to even. The references use both, and a
//! difference of one pixel changes the whole image.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub height: u32,
    pub width: u32,
}

impl Size {
    /// A placeholder for the model's size, before it is known.
    pub(super) const OF_MODEL: Self = Self::square(0);

    pub(super) const fn square(edge: u32) -> Self {
        Self {
            height: edge,
            width: edge,
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OF_MODEL => f.write_str("the model's size"),
            Self { height, width } => write!(f, "{height} x {width}"),
        }
    }
}

/// The rule for the size of a resized image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    /// The image is not resized.
    Keep,
    Exact(Size),
    /// transformers' `get_resize_output_image_size`, which is torchvision's `Resize` of one number.
    Shortest {
        edge: u32,
        longest: Option<u32>,
        /// Each edge is rounded up to a multiple of this.
        multiple: u32,
    },
    /// `get_size_with_aspect_ratio` of DETR. YOLOS rounds each edge down to a multiple of 16.
    DetrShortest {
        edge: u32,
        longest: Option<u32>,
        multiple: u32,
    },
    /// `get_image_size_for_max_height_width`: the largest size that fits.
    Within(Size),
    /// `_get_preprocess_shape` of SAM.
    Longest(u32),
    /// `get_resize_output_image_size` of ViLT.
    VilT {
        shorter: u32,
        multiple: u32,
    },
    /// `get_resize_output_image_size` of DPT.
    Dpt {
        size: Size,
        keep_aspect_ratio: bool,
        multiple: u32,
    },
    /// Each edge is rounded down to a multiple of this, as in GLPN.
    Multiple(u32),
    /// timm's `ResizeKeepRatio`: the image covers the size.
    Cover(Size),
    /// timm's `ResizeKeepRatio` with `longest=1`: the image fits into the size.
    Contain(Size),
    /// Ultralytics' `LetterBox`: the image fits into the size.
    Letterbox(Size),
}

impl Target {
    /// The size (width, height) of a resized image. A zero means that it cannot be resized.
    pub(super) fn of(&self, (width, height): (u32, u32)) -> (u64, u64) {
        let (w, h) = (f64::from(width), f64::from(height));
        match *self {
            Self::Keep => (width.into(), height.into()),
            Self::Exact(size) => (size.width.into(), size.height.into()),
            Self::Shortest {
                edge,
                longest,
                multiple,
            } => {
                let (short, long) = (w.min(h), w.max(h));
                let mut new_short = u64::from(edge);
                let mut new_long = (f64::from(edge) * long / short) as u64;
                if let Some(longest) = longest.map(u64::from).filter(|&longest| new_long > longest) {
                    new_short = (longest as f64 * new_short as f64 / new_long as f64) as u64;
                    new_long = longest;
                }
                let (new_width, new_height) = if width <= height {
                    (new_short, new_long)
                } else {
                    (new_long, new_short)
                };
                let up = |edge: u64| edge.next_multiple_of(multiple.max(1).into());
                (up(new_width), up(new_height))
            }
            Self::DetrShortest {
                edge,
                longest,
                multiple,
            } => {
                let (new_width, new_height) = detr(w, h, edge, longest);
                let down = |edge: u64| edge - edge % u64::from(multiple.max(1));
                (down(new_width), down(new_height))
            }
            Self::Within(size) => {
                let scale = (f64::from(size.height) / h).min(f64::from(size.width) / w);
                ((w * scale) as u64, (h * scale) as u64)
            }
            Self::Longest(edge) => {
                let scale = f64::from(edge) / w.max(h);
                ((w * scale + 0.5) as u64, (h * scale + 0.5) as u64)
            }
            Self::VilT { shorter, multiple } => vilt(w, h, shorter, multiple),
            Self::Dpt {
                size,
                keep_aspect_ratio,
                multiple,
            } => {
                let (mut scale_height, mut scale_width) = (f64::from(size.height) / h, f64::from(size.width) / w);
                if keep_aspect_ratio {
                    if (1.0 - scale_width).abs() < (1.0 - scale_height).abs() {
                        scale_height = scale_width;
                    } else {
                        scale_width = scale_height;
                    }
                }
                let multiple = f64::from(multiple.max(1));
                let rounded = |edge: f64| ((edge / multiple).round_ties_even() * multiple) as u64;
                (rounded(scale_width * w), rounded(scale_height * h))
            }
            Self::Multiple(multiple) => {
                let down = |edge: u32| u64::from(edge - edge % multiple.max(1));
                (down(width), down(height))
            }
            Self::Cover(size) => keep_ratio(w, h, (h / f64::from(size.height)).min(w / f64::from(size.width))),
            Self::Contain(size) => keep_ratio(w, h, (h / f64::from(size.height)).max(w / f64::from(size.width))),
            Self::Letterbox(size) => {
                let gain = letterbox_gain(size, (width, height));
                ((w * gain).round_ties_even() as u64, (h * gain).round_ties_even() as u64)
            }
        }
    }

    /// The size, if it is the same for every image.
    pub(super) fn fixed(&self) -> Option<Size> {
        match *self {
            Self::Exact(size) => Some(size),
            Self::Dpt {
                size,
                keep_aspect_ratio: false,
                multiple,
            } => {
                let multiple = f64::from(multiple.max(1));
                let rounded = |edge: u32| ((f64::from(edge) / multiple).round_ties_even() * multiple) as u32;
                Some(Size {
                    height: rounded(size.height),
                    width: rounded(size.width),
                })
            }
            _ => None,
        }
    }
}

/// The scale factor of Ultralytics' letterbox.
pub(super) fn letterbox_gain(size: Size, (width, height): (u32, u32)) -> f64 {
    (f64::from(size.height) / f64::from(height)).min(f64::from(size.width) / f64::from(width))
}

fn keep_ratio(w: f64, h: f64, ratio: f64) -> (u64, u64) {
    (
        (w / ratio).round_ties_even() as u64,
        (h / ratio).round_ties_even() as u64,
    )
}

fn detr(w: f64, h: f64, edge: u32, longest: Option<u32>) -> (u64, u64) {
    let mut size = f64::from(edge);
    let mut raw = size;
    if let Some(longest) = longest.map(f64::from) {
        let (short, long) = (w.min(h), w.max(h));
        if long / short * size > longest {
            raw = longest * short / long;
            size = raw.round_ties_even();
        }
    }
    if (h <= w && h == size) || (w <= h && w == size) {
        (w as u64, h as u64)
    } else if w < h {
        (size as u64, (raw * h / w) as u64)
    } else {
        ((raw * w / h) as u64, size as u64)
    }
}

fn vilt(w: f64, h: f64, shorter: u32, multiple: u32) -> (u64, u64) {
    let longer = (1333.0 / 800.0 * f64::from(shorter)).trunc();
    let shorter = f64::from(shorter);
    let scale = shorter / w.min(h);
    let (mut new_width, mut new_height) = if h < w {
        (scale * w, shorter)
    } else {
        (shorter, scale * h)
    };
    if new_width.max(new_height) > longer {
        let scale = longer / new_width.max(new_height);
        (new_width, new_height) = (scale * new_width, scale * new_height);
    }
    let down = |edge: f64| {
        let edge = (edge + 0.5) as u64;
        edge - edge % u64::from(multiple.max(1))
    };
    (down(new_width), down(new_height))
}
