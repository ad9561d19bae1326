//! Maps coordinates of a model back to those of the image.

use crate::vision::shape::Shape;

/// The placement of an image in its tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    /// Size (width, height) of the upright image.
    pub original: (u32, u32),
    /// Size (width, height) of the tensor.
    pub input: (u32, u32),
    /// The part of the tensor that shows the image: left, top, width, height. The rest is padding.
    pub visible: (u32, u32, u32, u32),
    /// Tensor pixels per image pixel, across and down.
    scale: (f64, f64),
    /// The position of the image's first pixel in the tensor; negative if it was cropped.
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

    /// Maps a position in the tensor to one in the image, both in pixels from the top left corner.
    /// A position in the padding is mapped outside of the image.
    pub fn map_back(&self, x: f32, y: f32) -> (f32, f32) {
        let back = |at: f32, origin: f64, scale: f64| ((f64::from(at) - origin) / scale) as f32;
        (
            back(x, self.origin.0, self.scale.0),
            back(y, self.origin.1, self.scale.1),
        )
    }
}
