//! Enlarges maps and logits to the size of the original.
//!
//! A pixel of the original is between four pixels of the output. If one class is the best in all
//! four, it is the best everywhere between them, because every interpolated score is a mean of the
//! four with the same weights. So logits are interpolated only at the edges of objects, and
//! enlarged logits are never stored, however many classes there are.

use super::{TaskError, missing};

/// For each pixel along one axis of the original, the two pixels of the output that it is between.
pub(super) struct Axis {
    /// Pixels of the output along the axis.
    length: usize,
    places: Vec<Interpolation>,
}

#[derive(Clone, Copy)]
struct Interpolation {
    first: u32,
    second: u32,
    /// The weight of the second pixel.
    weight: f32,
    /// The nearest pixel.
    nearest: u32,
}

impl Axis {
    /// An axis of `pixels` pixels. `content` is the part of the model's input (of `input` pixels)
    /// that shows the original.
    pub fn new(pixels: u32, length: usize, content: (f32, f32), input: u32) -> Result<Self, TaskError> {
        let last = u32::try_from(length).ok().and_then(|length| length.checked_sub(1));
        let last = last.ok_or_else(|| missing("outputs of one pixel or more"))?;
        let mut places = allocate(pixels as usize, 1)?;
        let (start, end) = content;
        // Without borders this is `length / pixels`, computed as in PyTorch.
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
            places.push(Interpolation {
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

    /// Groups the pixels that are between the same two pixels of the output.
    fn runs(&self) -> impl Iterator<Item = &[Interpolation]> {
        self.places.chunk_by(|one, next| one.first == next.first)
    }
}

/// The best class of each pixel.
pub(super) fn best(logits: &[f32], classes: usize, columns: &Axis, lines: &Axis) -> Result<Vec<u16>, TaskError> {
    let width = columns.length;
    let scores = by_pixel(logits, classes)?;
    let mut own = allocate(width, lines.length)?;
    own.extend(scores.chunks_exact(classes).map(greatest));
    let mut map = allocate(columns.pixels(), lines.pixels())?;
    let mut mixed = Mixed::new(classes);
    for line in &lines.places {
        let (above, below) = (line.first as usize * width, line.second as usize * width);
        for run in columns.runs() {
            let (left, right) = (run[0].first as usize, run[0].second as usize);
            let class = own[above + left];
            let corners = [above + right, below + left, below + right];
            if corners.into_iter().all(|at| own[at] == class) {
                map.extend(std::iter::repeat_n(class, run.len()));
                continue;
            }
            let of = |at: usize| &scores[at * classes..(at + 1) * classes];
            mix(of(above + left), of(below + left), line.weight, &mut mixed.left);
            mix(of(above + right), of(below + right), line.weight, &mut mixed.right);
            for place in run {
                mix(&mixed.left, &mixed.right, place.weight, &mut mixed.between);
                map.push(greatest(&mixed.between));
            }
        }
    }
    Ok(map)
}

/// Buffers for the scores of all classes at the left and right end of a line, and between.
struct Mixed {
    left: Vec<f32>,
    right: Vec<f32>,
    between: Vec<f32>,
}

impl Mixed {
    fn new(classes: usize) -> Self {
        Self {
            left: vec![0.0; classes],
            right: vec![0.0; classes],
            between: vec![0.0; classes],
        }
    }
}

/// Class 1 for pixels where the only channel exceeds `bound`, else class 0.
pub(super) fn exceeding(logits: &[f32], bound: f32, columns: &Axis, lines: &Axis) -> Result<Vec<u16>, TaskError> {
    let width = columns.length;
    let mut map = allocate(columns.pixels(), lines.pixels())?;
    let mut mixed = vec![0f32; width];
    for line in &lines.places {
        let of = |at: u32| &logits[at as usize * width..(at as usize + 1) * width];
        mix(of(line.first), of(line.second), line.weight, &mut mixed);
        let score = |place: &Interpolation| {
            let (left, right) = (mixed[place.first as usize], mixed[place.second as usize]);
            left * (1.0 - place.weight) + right * place.weight
        };
        map.extend(columns.places.iter().map(|place| u16::from(score(place) > bound)));
    }
    Ok(map)
}

/// The class of the nearest pixel.
pub(super) fn nearest(classes: &[f32], columns: &Axis, lines: &Axis) -> Result<Vec<u16>, TaskError> {
    if classes.iter().any(|class| !(0.0..=f32::from(u16::MAX)).contains(class)) {
        return Err(missing("classes from 0 to 65535"));
    }
    let mut map = allocate(columns.pixels(), lines.pixels())?;
    for line in &lines.places {
        let start = line.nearest as usize * columns.length;
        let own = &classes[start..start + columns.length];
        map.extend(columns.places.iter().map(|place| own[place.nearest as usize] as u16));
    }
    Ok(map)
}

/// Converts planes of one class each to adjacent scores for each pixel.
fn by_pixel(logits: &[f32], classes: usize) -> Result<Vec<f32>, TaskError> {
    // Limited by the number of cache lines.
    const PIXELS: usize = 16;
    let plane = logits.len() / classes.max(1);
    let mut scores = allocate(logits.len(), 1)?;
    scores.resize(logits.len(), 0f32);
    for (block, out) in scores.chunks_mut(PIXELS * classes).enumerate() {
        let start = block * PIXELS;
        for class in 0..classes {
            let own = &logits[class * plane + start..];
            for (pixel, &score) in out.chunks_exact_mut(classes).zip(own) {
                pixel[class] = score;
            }
        }
    }
    Ok(scores)
}

/// Interpolates linearly between two lists of numbers.
fn mix(one: &[f32], other: &[f32], weight: f32, out: &mut [f32]) {
    for ((out, &one), &other) in out.iter_mut().zip(one).zip(other) {
        *out = one * (1.0 - weight) + other * weight;
    }
}

/// The class with the largest score; the first of equal ones.
fn greatest(scores: &[f32]) -> u16 {
    const LANES: usize = 8;
    // Independent lanes let the compiler use vector instructions.
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = scores.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &score) in lanes.iter_mut().zip(block) {
            *lane = if score > *lane { score } else { *lane };
        }
    }
    let all = lanes.iter().chain(rest);
    let greatest = all.fold(
        f32::NEG_INFINITY,
        |best, &score| if score > best { score } else { best },
    );
    scores.iter().position(|&score| score == greatest).unwrap_or(0) as u16
}

fn allocate<T>(count: usize, times: usize) -> Result<Vec<T>, TaskError> {
    let mut all = Vec::new();
    let count = count.checked_mul(times).ok_or(TaskError::OutOfMemory)?;
    all.try_reserve_exact(count).map_err(|_| TaskError::OutOfMemory)?;
    Ok(all)
}
