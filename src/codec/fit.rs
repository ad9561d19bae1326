//! Fits the shape in a request to the input of a model, and adds an axis that the request omits.
//!
//! Clients omit axes of size 1: the first axis of a single row, or the last axis of a column of
//! single values. The form of the request decides which axis may be missing, so the leniency is a
//! property of the form ([`ShapeForm`]), not of the model. A shape that already fits is never
//! changed, and an axis is never removed.

use crate::codec::error::{InputError, excerpt, type_text};
use crate::tensor::{Dim, InputSpec};

/// The origin of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShapeForm {
    /// Declared by the caller (OIP): used unchanged.
    Declared,
    /// A stack of instances, one per row. The first axis is present, so only a last axis of size 1
    /// can be missing: `[N]` for a model that takes `[N, 1]`, as scikit-learn exports do for each
    /// column.
    Rows,
    /// One array (bare JSON, column form, CSV, NPY). A single row may omit its first axis;
    /// otherwise as [`ShapeForm::Rows`].
    Whole,
}

/// Limit on the empty lists in an array without elements. Text formats write such lists out, so the
/// body bounds their number. Formats that declare a shape could claim 2^60 empty rows in a few
/// bytes.
const MAX_EMPTY_LISTS: usize = 1 << 20;

/// Whether an array without elements claims more than [`MAX_EMPTY_LISTS`] empty lists.
pub(super) fn is_overclaimed(shape: &[usize]) -> bool {
    let dims = shape.iter().filter(|&&dim| dim != 0);
    let lists = dims.fold(1usize, |lists, &dim| lists.saturating_mul(dim));
    shape.contains(&0) && lists > MAX_EMPTY_LISTS
}

/// Returns the shape that the model gets for an array of `shape`, or `shape` itself as the error.
pub(super) fn fit(spec: &InputSpec, shape: Vec<usize>, form: ShapeForm) -> Result<Vec<usize>, Vec<usize>> {
    if is_overclaimed(&shape) {
        return Err(shape);
    }
    if spec.accepts(&shape) {
        return Ok(shape);
    }
    let Some(dims) = &spec.dims else { return Ok(shape) };
    if form == ShapeForm::Declared || shape.len() >= dims.len() {
        return Err(shape);
    }
    if shape.last() == Some(&0) {
        // An empty list has no inner shape: `[]` stands for zero rows of any width.
        let mut filled = shape.clone();
        filled.extend(dims[shape.len()..].iter().map(|dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Dynamic(_) => 0,
        }));
        if spec.accepts(&filled) {
            return fit(spec, filled, ShapeForm::Declared).map_err(|_| shape);
        }
    }
    if form == ShapeForm::Whole {
        let one_row: Vec<usize> = std::iter::once(1).chain(shape.iter().copied()).collect();
        if spec.accepts(&one_row) {
            return Ok(one_row);
        }
    }
    if dims.last() == Some(&Dim::Fixed(1)) {
        let column: Vec<usize> = shape.iter().copied().chain(std::iter::once(1)).collect();
        if spec.accepts(&column) {
            return Ok(column);
        }
    }
    Err(shape)
}

/// The error for a value that the input does not accept; `given` describes the value.
#[cold]
pub(super) fn mismatch(spec: &InputSpec, given: impl std::fmt::Display) -> InputError {
    InputError::Mismatch {
        name: excerpt(&spec.name),
        given: type_text(given),
        takes: type_text(spec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DataType;

    fn spec(dims: &[i64]) -> InputSpec {
        InputSpec {
            name: "x".into(),
            data_type: DataType::F32,
            dims: Some(
                dims.iter()
                    .map(|&d| usize::try_from(d).map_or(Dim::Dynamic(None), Dim::Fixed))
                    .collect(),
            ),
        }
    }

    #[test]
    fn a_missing_axis_is_added_where_the_form_allows_it() {
        use ShapeForm::{Declared, Rows, Whole};
        // The model's dimensions (-1 is dynamic), the form, the given shape, the expected shape.
        type Case<'a> = (&'a [i64], ShapeForm, &'a [usize], Option<&'a [usize]>);
        let table: [Case; 24] = [
            (&[-1, 4], Whole, &[2, 4], Some(&[2, 4])),
            (&[-1, 4], Whole, &[4], Some(&[1, 4])),
            (&[-1, 4], Rows, &[4], None),
            (&[-1, 4], Declared, &[4], None),
            (&[-1, 4], Whole, &[3], None),
            (&[-1, 4], Whole, &[2, 3], None),
            (&[-1, 4], Whole, &[1, 1, 4], None),
            (&[-1, 1], Rows, &[3], Some(&[3, 1])),
            (&[-1, 1], Whole, &[3], Some(&[3, 1])),
            (&[-1, 1], Whole, &[1], Some(&[1, 1])),
            (&[-1, 1], Declared, &[3], None),
            (&[-1, -1], Whole, &[3], Some(&[1, 3])),
            (&[-1, -1], Rows, &[3], None),
            (&[2, 1], Rows, &[3], None),
            (&[-1, 3, 8, 8], Whole, &[3, 8, 8], Some(&[1, 3, 8, 8])),
            (&[-1, 3, 8, 8], Whole, &[8, 8], None),
            (&[], Whole, &[], Some(&[])),
            (&[-1], Whole, &[], Some(&[1])),
            (&[], Whole, &[1], None),
            (&[-1, 4], Whole, &[0], Some(&[0, 4])),
            (&[-1, -1, 7], Rows, &[0], Some(&[0, 0, 7])),
            (&[3, 4], Whole, &[0], None),
            (&[-1, -1, 7], Rows, &[2, 0], Some(&[2, 0, 7])),
            (&[-1, -1], Declared, &[usize::MAX, 0], None),
        ];
        for (dims, form, given, expected) in table {
            let fitted = fit(&spec(dims), given.to_vec(), form);
            assert_eq!(fitted.ok().as_deref(), expected, "{dims:?} {form:?} {given:?}");
        }
    }

    #[test]
    fn any_shape_fits_an_input_of_unknown_rank() {
        let unknown = InputSpec {
            dims: None,
            ..spec(&[])
        };
        for shape in [vec![], vec![3], vec![2, 0, 5]] {
            assert_eq!(fit(&unknown, shape.clone(), ShapeForm::Rows), Ok(shape));
        }
    }

    #[test]
    fn a_claim_of_very_many_empty_lists_is_refused() {
        let unknown = InputSpec {
            dims: None,
            ..spec(&[])
        };
        assert!(fit(&unknown, vec![1 << 20, 0], ShapeForm::Declared).is_ok());
        assert!(fit(&unknown, vec![(1 << 20) + 1, 0], ShapeForm::Declared).is_err());
        assert!(fit(&unknown, vec![0, 1 << 40, 1 << 40], ShapeForm::Whole).is_err());
    }
}
