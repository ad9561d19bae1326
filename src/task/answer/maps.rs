//! Class maps, and their encoding as images.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use super::json::string;
use super::{Answer, Body};
use crate::task::{Labels, TaskError};

/// The class of each pixel of an image, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassMap {
    pub width: u32,
    pub height: u32,
    pub classes: Vec<u16>,
}

impl ClassMap {
    pub(in crate::task) fn new(width: u32, height: u32, classes: Vec<u16>) -> Self {
        Self { width, height, classes }
    }

    /// The classes in the map, in the order of their numbers.
    fn present(&self) -> Vec<u16> {
        // Neighbours mostly have the same class, so look up the set only when it changes.
        let mut present = BTreeSet::new();
        let mut last = None;
        for &class in &self.classes {
            if last != Some(class) {
                present.insert(class);
                last = Some(class);
            }
        }
        present.into_iter().collect()
    }

    /// Encodes the map as a grey PNG whose levels are class numbers, with 8 bits, or with 16 if a
    /// class number exceeds 255.
    pub fn to_png(&self) -> Result<Vec<u8>, TaskError> {
        if self.classes.iter().all(|&class| class < 256) {
            let levels = self.levels(|class| class as u8)?;
            return self.encode(&levels, ExtendedColorType::L8);
        }
        self.encode(bytemuck::cast_slice(&self.classes), ExtendedColorType::L16)
    }

    /// Writes an entry for each class in the map, as in transformers; its pixels are white.
    pub(super) fn write_json(&self, labels: &Labels, out: &mut Vec<u8>) -> Result<(), TaskError> {
        out.push(b'[');
        for (i, wanted) in self.present().into_iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(b"{\"score\":null,\"label\":");
            string(&labels.name(usize::from(wanted)), out);
            out.extend_from_slice(b",\"mask\":\"");
            let mask = self.levels(|class| if class == wanted { 255 } else { 0 })?;
            let png = self.encode(&mask, ExtendedColorType::L8)?;
            out.try_reserve(png.len() / 3 * 4 + 64)
                .map_err(|_| TaskError::OutOfMemory)?;
            out.extend_from_slice(STANDARD.encode(png).as_bytes());
            out.extend_from_slice(b"\"}");
        }
        out.push(b']');
        Ok(())
    }

    fn levels(&self, level: impl Fn(u16) -> u8) -> Result<Vec<u8>, TaskError> {
        let mut levels = Vec::new();
        levels
            .try_reserve_exact(self.classes.len())
            .map_err(|_| TaskError::OutOfMemory)?;
        levels.extend(self.classes.iter().map(|&class| level(class)));
        Ok(levels)
    }

    fn encode(&self, levels: &[u8], colour: ExtendedColorType) -> Result<Vec<u8>, TaskError> {
        let mut png = Vec::new();
        let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Up);
        encoder
            .write_image(levels, self.width, self.height, colour)
            .map_err(|error| TaskError::Input(format!("the map cannot be encoded as PNG: {error}")))?;
        Ok(png)
    }
}

impl Answer {
    /// Encodes the class map of the only image as a grey PNG.
    pub fn to_png(&self) -> Result<Vec<u8>, TaskError> {
        match &self.body {
            Body::ClassMaps(maps) => match maps.as_slice() {
                [map] => map.to_png(),
                _ => Err(self.cannot_carry(
                    "image/png",
                    "the request has several images; send one, or accept application/json",
                )),
            },
            _ => Err(self.cannot_carry("image/png", "the answer is not an image; accept application/json")),
        }
    }
}
