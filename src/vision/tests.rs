//! Comparisons with Pillow and transformers, whose numbers come from `tests/vision/fixtures.py`,
//! and tests with hostile files.

mod hostile;
mod parsing;
mod processors;
mod reading;
mod resizing;

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use crate::tensor::{DataType, Dim, InputSpec};
use crate::vision::{ImageLimits, Picture};

const LIMITS: ImageLimits = ImageLimits {
    pixels: 1 << 22,
    bytes: 1 << 22,
};

pub(super) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vision")
        .join(name)
}

pub(super) fn json(name: &str) -> Json {
    let text = std::fs::read_to_string(fixture(name)).expect("fixtures are committed");
    serde_json::from_str(&text).unwrap()
}

pub(super) fn bytes_of(value: &Json) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

fn number(value: &Json) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn pair(value: &Json) -> (u32, u32) {
    (number(&value[0]), number(&value[1]))
}

/// Makes the same image as the script for the fixtures.
fn noise((width, height): (u32, u32), smooth: bool) -> Picture {
    let mut rgb = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..u64::from(height) {
        for x in 0..u64::from(width) {
            for c in 0..3u64 {
                let level = if smooth {
                    let slope = |at: u64, edge: u32| at * 255 / u64::from(edge.max(2) - 1);
                    let level = (slope(x, width) + slope(y, height) * (c + 1)) % 511;
                    if level > 255 { 510 - level } else { level }
                } else {
                    let mixed = (x * 73_856_093) ^ (y * 19_349_663) ^ (c * 83_492_791);
                    (mixed.wrapping_mul(2_654_435_761) & 0xffff_ffff) >> 13 & 0xff
                };
                rgb.push(level as u8);
            }
        }
    }
    Picture { width, height, rgb }
}

/// Makes the same sample positions as the script.
fn positions(count: usize, total: usize, seed: u64) -> impl Iterator<Item = usize> {
    let mut state = seed;
    (0..count.min(total)).map(move |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % total as u64) as usize
    })
}

fn input(data_type: DataType, dims: [Dim; 4]) -> InputSpec {
    InputSpec {
        name: "pixel_values".to_owned(),
        data_type,
        dims: Some(dims.into()),
    }
}

fn open_input() -> InputSpec {
    input(DataType::F32, [const { Dim::Dynamic(None) }; 4])
}

fn nchw(channels: usize, height: usize, width: usize) -> InputSpec {
    let [channels, height, width] = [channels, height, width].map(Dim::Fixed);
    input(DataType::F32, [Dim::Dynamic(None), channels, height, width])
}

fn nhwc(channels: usize, height: usize, width: usize) -> InputSpec {
    let [channels, height, width] = [channels, height, width].map(Dim::Fixed);
    input(DataType::F32, [Dim::Dynamic(None), height, width, channels])
}
