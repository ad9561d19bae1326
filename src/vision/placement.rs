//! The way back from a model's coordinates to those of the picture.

use crate::vision::shape::Shape;

/// The place of a picture in the tensor that was made of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    /// Sizes (width, height) of the picture, upright.
    pub original: (u32, u32),
    /// Sizes (width, height) of the tensor.
    pub input: (u32, u32),
    /// The part of the tensor that shows the picture: left, top, width, height. The rest is
    /// padding.
    pub visible: (u32, u32, u32, u32),
    /// Tensor pixels for each picture pixel, across and down.
    scale: (f64, f64),
    /// The place of the picture's first pixel in the tensor; below zero where it is cut off.
    origin: (f64, f64),
}

impl Placement {
    pub(super) fn new(shape: &Shape, original: (u32, u32)) -> Self {
        let left = shape.frame_at.0 + shape.at.0;
        let top = shape.frame_at.1 + shape.at.1;
        let first = shape.source.map_or((0, 0), |part| (part.left, part.top));
        let origin =
            |at: u32, cut: u32, first: u32, scale: f64| f64::from(at) - f64::from(cut) - f64::from(first) * scale;
        Self {
            original,
            input: shape.output,
            visible: (left, top, shape.visible.width, shape.visible.height),
            scale: shape.scale,
            origin: (
                origin(left, shape.visible.left, first.0, shape.scale.0),
                origin(top, shape.visible.top, first.1, shape.scale.1),
            ),
        }
    }

    /// The place in the picture of a place in the tensor, both in pixels from the top left corner.
    /// A place in the padding is outside of the picture.
    pub fn map_back(&self, x: f32, y: f32) -> (f32, f32) {
        let back = |at: f32, origin: f64, scale: f64| ((f64::from(at) - origin) / scale) as f32;
        (
            back(x, self.origin.0, self.scale.0),
            back(y, self.origin.1, self.scale.1),
        )
    }
}
