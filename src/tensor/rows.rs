//! Concatenates tensors along their first axis, and splits them again, for batches.

use std::ops::Range;

use bytes::Bytes;

use super::{OwnedElements, Tensor, TensorData};

impl Tensor {
    /// Concatenates `parts` along the first axis. `None` if they differ in element type or in an
    /// axis other than the first, or if there is not enough memory.
    pub fn concatenate(parts: &[&Self]) -> Option<Self> {
        let first = parts.first()?;
        let mut rows = 0usize;
        for part in parts {
            let (&own, others) = part.shape.split_first()?;
            if part.data_type != first.data_type || others != &first.shape[1..] {
                return None;
            }
            rows = rows.checked_add(own)?;
        }
        let mut shape = first.shape.clone();
        shape[0] = rows;
        let data = match &first.data {
            TensorData::Fixed(_) => TensorData::Fixed(concatenated(parts.iter().filter_map(|part| part.as_bytes()))?),
            TensorData::Strings(_) => {
                let mut values = Vec::new();
                let all = || parts.iter().filter_map(|part| part.as_strings());
                values.try_reserve_exact(all().map(<[Bytes]>::len).sum()).ok()?;
                all().for_each(|part| values.extend_from_slice(part));
                TensorData::Strings(values)
            }
        };
        Some(Self {
            data_type: first.data_type,
            shape,
            data,
        })
    }

    /// Extracts index `index` of an axis; the result keeps the axis with size 1. `None` if the axis
    /// or the index does not exist, or if there is not enough memory.
    pub fn slice_of_axis(&self, axis: usize, index: usize) -> Option<Self> {
        let &size = self.shape.get(axis)?;
        if index >= size {
            return None;
        }
        let inner: usize = self.shape[axis + 1..].iter().product();
        let outer: usize = self.shape[..axis].iter().product();
        let mut shape = self.shape.clone();
        shape[axis] = 1;
        let mut flat = self.clone();
        flat.shape = vec![outer * size, inner];
        let parts: Option<Vec<Self>> = (0..outer)
            .map(|row| flat.rows(row * size + index..row * size + index + 1))
            .collect();
        let parts = parts?;
        let mut part = match parts.iter().collect::<Vec<_>>().as_slice() {
            [] => flat.rows(0..0)?,
            parts => Self::concatenate(parts)?,
        };
        part.shape = shape;
        Some(part)
    }

    /// Repeats the tensor `count` times along an axis of size 1. `None` if the axis has another
    /// size, or if there is not enough memory.
    pub fn repeated(&self, axis: usize, count: usize) -> Option<Self> {
        if self.shape.get(axis) != Some(&1) {
            return None;
        }
        let inner: usize = self.shape[axis + 1..].iter().product();
        let outer: usize = self.shape[..axis].iter().product();
        let mut flat = self.clone();
        flat.shape = vec![outer, inner];
        let parts: Option<Vec<Self>> = (0..outer).map(|row| flat.rows(row..row + 1)).collect();
        let parts = parts?;
        let mut all = Vec::new();
        all.try_reserve_exact(outer.checked_mul(count)?).ok()?;
        for part in &parts {
            all.extend(std::iter::repeat_n(part, count));
        }
        let mut shape = self.shape.clone();
        shape[axis] = count;
        if all.is_empty() {
            let mut none = flat.rows(0..0)?;
            none.shape = shape;
            return Some(none);
        }
        let mut whole = Self::concatenate(&all)?;
        whole.shape = shape;
        Some(whole)
    }

    /// Extracts a range of rows without copying their bytes. `None` if the range is out of bounds.
    pub fn rows(&self, rows: Range<usize>) -> Option<Self> {
        let (&all, others) = self.shape.split_first()?;
        if rows.start > rows.end || rows.end > all {
            return None;
        }
        // Each row has the same share of the `length` bytes or strings. An empty tensor has none.
        let part = |length: usize| {
            let each = length.checked_div(all).unwrap_or(0);
            rows.start * each..rows.end * each
        };
        let data = match &self.data {
            TensorData::Fixed(bytes) => TensorData::Fixed(bytes.slice(part(bytes.len()))),
            TensorData::Strings(values) => TensorData::Strings(values[part(values.len())].to_vec()),
        };
        let mut shape = Vec::with_capacity(self.shape.len());
        shape.push(rows.len());
        shape.extend_from_slice(others);
        Some(Self {
            data_type: self.data_type,
            shape,
            data,
        })
    }
}

/// Concatenates the parts into a buffer that is aligned for every element type. `None` if there is
/// not enough memory.
fn concatenated<'a>(parts: impl Iterator<Item = &'a Bytes> + Clone) -> Option<Bytes> {
    let length = parts
        .clone()
        .try_fold(0usize, |length, part| length.checked_add(part.len()))?;
    let mut words: Vec<u64> = Vec::new();
    words.try_reserve_exact(length.div_ceil(8)).ok()?;
    words.resize(length.div_ceil(8), 0);
    let mut rest = bytemuck::cast_slice_mut::<u64, u8>(&mut words);
    for part in parts {
        let (place, after) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = after;
    }
    Some(Bytes::from_owner(OwnedElements(words)).slice(..length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(rows: Range<u16>, width: u16) -> Tensor {
        let values = rows
            .clone()
            .flat_map(|row| (0..width).map(move |column| f64::from(row * width + column)));
        Tensor::from_vec(vec![rows.len(), width.into()], values.collect()).unwrap()
    }

    fn strings(rows: Range<u16>) -> Tensor {
        let values = rows.clone().map(|row| Bytes::from(format!("row {row}")));
        Tensor::from_strings(vec![rows.len(), 1], values.collect()).unwrap()
    }

    #[test]
    fn rows_of_a_concatenation_equal_its_parts() {
        let cuts = [0u16, 1, 1, 4, 7, 12];
        for make in [|rows| floats(rows, 3), |rows| floats(rows, 0), strings] {
            let parts: Vec<Tensor> = cuts.windows(2).map(|cut| make(cut[0]..cut[1])).collect();
            let whole = Tensor::concatenate(&parts.iter().collect::<Vec<_>>()).unwrap();
            assert_eq!(whole, make(0..12));
            for (cut, part) in cuts.windows(2).zip(&parts) {
                assert_eq!(whole.rows(cut[0].into()..cut[1].into()).as_ref(), Some(part));
            }
            assert_eq!(whole.rows(11..13), None);
        }
    }

    #[test]
    fn rows_share_the_bytes_of_the_whole() {
        let whole = floats(0..4, 2);
        let part = whole.rows(1..3).unwrap();
        assert_eq!(part.as_slice::<f64>().unwrap(), &[2.0, 3.0, 4.0, 5.0]);
        assert_eq!(
            part.as_bytes().unwrap().as_ptr(),
            whole.as_bytes().unwrap()[16..].as_ptr()
        );
    }

    #[test]
    fn slices_of_a_repeated_tensor_equal_the_tensor() {
        let whole = Tensor::from_vec(vec![2, 3, 2], (0..12).map(f64::from).collect()).unwrap();
        let slice = whole.slice_of_axis(1, 2).unwrap();
        assert_eq!(
            (slice.shape(), slice.as_slice::<f64>().unwrap()),
            (&[2, 1, 2][..], &[4.0, 5.0, 10.0, 11.0][..])
        );
        assert_eq!(slice.repeated(1, 3).unwrap().slice_of_axis(1, 1).unwrap(), slice);
        assert_eq!(whole.slice_of_axis(0, 1).unwrap().shape(), [1, 3, 2]);
        assert_eq!(
            (
                whole.slice_of_axis(1, 3),
                whole.slice_of_axis(3, 0),
                whole.repeated(1, 2)
            ),
            (None, None, None)
        );
    }

    #[test]
    fn refuses_to_concatenate_tensors_that_differ_in_more_than_their_rows() {
        let scalar = Tensor::from_vec(vec![], vec![1f64]).unwrap();
        let other_type = Tensor::from_vec(vec![1, 3], vec![1f32; 3]).unwrap();
        let rows = floats(0..2, 3);
        for other in [&floats(0..2, 2), &other_type, &scalar] {
            assert_eq!(Tensor::concatenate(&[&rows, other]), None);
            assert_eq!(Tensor::concatenate(&[other, &rows]), None);
        }
        assert_eq!(Tensor::concatenate(&[]), None);
        assert_eq!(scalar.rows(0..1), None);
    }
}
