//! Maps and logits at the size of the original.
//!
//! The classes are gone through line by line: two lines of logits of a class are mixed into one, and
//! that one is mixed along the line while the best class of each pixel is kept. So the memory is
//! that of a line, however many classes there are, and not that of all enlarged logits.

use super::{TaskError, missing};

/// For each pixel of one axis of the original, the two numbers of the output that it lies between.
pub(super) struct Axis {
    /// Numbers on the axis of the output.
    length: usize,
    places: Vec<Place>,
}

#[derive(Clone, Copy)]
struct Place {
    first: u32,
    second: u32,
    /// The part of the second one.
    weight: f32,
    /// The one that it lies in.
    nearest: u32,
}

impl Axis {
    /// An axis of `pixels` pixels. `content` is the part of the model's picture, which has `input`
    /// pixels, that shows the original.
    pub fn new(pixels: u32, length: usize, content: (f32, f32), input: u32) -> Result<Self, TaskError> {
        let last = u32::try_from(length).ok().and_then(|length| length.checked_sub(1));
        let last = last.ok_or_else(|| missing("outputs of one pixel or more"))?;
        let mut places = Vec::new();
        places
            .try_reserve_exact(pixels as usize)
            .map_err(|_| TaskError::OutOfMemory)?;
        let (start, end) = content;
        // For a picture without borders this is `length / pixels`, computed as PyTorch does.
        let is_whole = start == 0.0 && end == input as f32;
        let (scale, offset) = match is_whole {
            true => (length as f32 / pixels as f32, 0.0),
            false => {
                let by_input = length as f32 / input.max(1) as f32;
                ((end - start) * by_input / pixels as f32, start * by_input)
            }
        };
        for pixel in 0..pixels {
            let at = ((pixel as f32 + 0.5) * scale - 0.5 + offset).clamp(0.0, last as f32);
            let first = at as u32;
            places.push(Place {
                first,
                second: (first + 1).min(last),
                weight: at - first as f32,
                nearest: ((pixel as f32 * scale + offset).max(0.0) as u32).min(last),
            });
        }
        Ok(Self { length, places })
    }

    fn pixels(&self) -> usize {
        self.places.len()
    }
}

/// The best class of each pixel.
pub(super) fn best(logits: &[f32], classes: usize, columns: &Axis, lines: &Axis) -> Result<Vec<u16>, TaskError> {
    let mut map = room(columns, lines)?;
    let plane = columns.length * lines.length;
    let mut scores = vec![0f32; columns.pixels()];
    let mut mixed = vec![0f32; columns.length];
    for line in &lines.places {
        let start = map.len();
        map.resize(start + columns.pixels(), 0u16);
        let best = &mut map[start..];
        scores.fill(f32::NEG_INFINITY);
        for class in 0..classes {
            mix(&logits[class * plane..(class + 1) * plane], line, &mut mixed);
            let number = class as u16;
            for ((score, best), place) in scores.iter_mut().zip(best.iter_mut()).zip(&columns.places) {
                let here = between(&mixed, place);
                if here > *score {
                    *score = here;
                    *best = number;
                }
            }
        }
    }
    Ok(map)
}

/// Class 1 where the only channel exceeds `bound`, else class 0.
pub(super) fn exceeding(logits: &[f32], bound: f32, columns: &Axis, lines: &Axis) -> Result<Vec<u16>, TaskError> {
    let mut map = room(columns, lines)?;
    let mut mixed = vec![0f32; columns.length];
    for line in &lines.places {
        mix(logits, line, &mut mixed);
        map.extend(
            columns
                .places
                .iter()
                .map(|place| u16::from(between(&mixed, place) > bound)),
        );
    }
    Ok(map)
}

/// The class of the nearest pixel.
pub(super) fn nearest(classes: &[f32], columns: &Axis, lines: &Axis) -> Result<Vec<u16>, TaskError> {
    if classes.iter().any(|class| !(0.0..=f32::from(u16::MAX)).contains(class)) {
        return Err(missing("classes from 0 to 65535"));
    }
    let mut map = room(columns, lines)?;
    for line in &lines.places {
        let start = line.nearest as usize * columns.length;
        let own = &classes[start..start + columns.length];
        map.extend(columns.places.iter().map(|place| own[place.nearest as usize] as u16));
    }
    Ok(map)
}

/// The line between two lines of a plane.
fn mix(plane: &[f32], line: &Place, out: &mut [f32]) {
    let width = out.len();
    let of = |at: u32| &plane[at as usize * width..(at as usize + 1) * width];
    let (above, below) = (of(line.first), of(line.second));
    for ((out, &above), &below) in out.iter_mut().zip(above).zip(below) {
        *out = above * (1.0 - line.weight) + below * line.weight;
    }
}

fn between(line: &[f32], place: &Place) -> f32 {
    line[place.first as usize] * (1.0 - place.weight) + line[place.second as usize] * place.weight
}

fn room(columns: &Axis, lines: &Axis) -> Result<Vec<u16>, TaskError> {
    let mut map = Vec::new();
    let pixels = columns
        .pixels()
        .checked_mul(lines.pixels())
        .ok_or(TaskError::OutOfMemory)?;
    map.try_reserve_exact(pixels).map_err(|_| TaskError::OutOfMemory)?;
    Ok(map)
}
