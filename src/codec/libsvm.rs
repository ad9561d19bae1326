//! `text/libsvm` and `text/x-libsvm`: a row per line, each value with its index (`1 0:17.99
//! 3:1001`).
//!
//! The decoder skips a label at the start of a line, `qid:`, and comments after `#`, as XGBoost's
//! container does for requests. The model's signature gives the number of values in a row. Indices
//! count from 0, the default of that container. They count from 1 with the parameter `base=1`, or
//! if no line has index 0 and one has the index that exists only when counting from 1. An index
//! that a line omits has the value 0, as in a sparse matrix of SciPy. With the parameter
//! `absent=nan` it is a missing value, as in XGBoost's own matrices.
//!
//! Invariants: a line claims at most one row of the model's width, and the size of all rows is
//! bounded.

use bytes::Bytes;

use super::alloc;
use super::bind::{product, row_shape};
use super::element::{ElementKind, with_kind};
use super::error::{DecodeError, InputError, describe_inputs, excerpt};
use super::fit::mismatch;
use super::json_reader::utf8;
use super::media_type::MediaType;
use super::numbers::AnyNumber;
use super::schema::Schema;
use super::sparse::{MAX_DENSE_BYTES, dense_bytes, too_large};
use super::{DecodedRequest, Format, ReplyPlan};
use crate::tensor::{DataType, InputSpec, Tensor};

fn malformed(problem: impl Into<String>) -> DecodeError {
    DecodeError::malformed(Format::LibSvm, problem)
}

pub(super) fn decode(media_type: &MediaType<'_>, body: &Bytes, schema: &Schema) -> Result<DecodedRequest, DecodeError> {
    let text = utf8(Format::LibSvm, body)?;
    let base = match media_type.parameter("base") {
        None => None,
        Some("0") => Some(0),
        Some("1") => Some(1),
        Some(_) => return Err(malformed("its parameter base must be 0 or 1")),
    };
    let absent = match media_type.parameter("absent") {
        None | Some("0") => AnyNumber::Int(0),
        Some(value) if value.eq_ignore_ascii_case("nan") => AnyNumber::Float(f64::NAN),
        Some(_) => return Err(malformed("its parameter absent must be 0 or nan")),
    };
    let unnamed = || InputError::Unnamed {
        what: "a LIBSVM row",
        takes: describe_inputs(schema.signature()),
        instead: "send application/json with the inputs by name",
    };
    let input = schema.only_input().ok_or_else(unnamed)?;
    let spec = &schema.signature().inputs[input];
    let row = row_shape(spec).ok_or_else(|| {
        let problem = "LIBSVM omits indices, and the model does not say how many there are; send CSV or JSON";
        schema.layout_error(problem.to_owned())
    })?;
    let width = product(&row).ok_or_else(|| too_large("a row"))?;
    let lines: Vec<&str> = lines(text).collect();
    if lines.is_empty() {
        return Err(malformed("it has no rows"));
    }
    let base = match base {
        Some(base) => base,
        None => base_of(&lines, width)?,
    };
    let tensor = tensor(spec, &row, &lines, base, absent)?;
    let mut inputs = schema.empty_slots();
    inputs[input] = Some(tensor);
    let count = lines.len();
    Ok(DecodedRequest::new(
        schema.complete(inputs, Some(count))?,
        ReplyPlan::counted(count),
    ))
}

/// The lines with a row, without comments.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim_ascii())
        .filter(|line| !line.is_empty())
}

/// The indices of a line and their values. The first cell may be a label.
fn cells(line: &str, row: usize) -> impl Iterator<Item = Result<(u64, &str), DecodeError>> {
    let cells = line.split_ascii_whitespace().enumerate();
    cells.filter_map(move |(position, cell)| {
        let Some((index, value)) = cell.split_once(':') else {
            let label = (position > 0).then(|| malformed(format!("row {row}: {} is not index:value", excerpt(cell))));
            return label.map(Err);
        };
        if index == "qid" {
            return None;
        }
        let number = index
            .parse()
            .map_err(|_| malformed(format!("row {row}: {} is not an index", excerpt(index))));
        Some(number.map(|number| (number, value)))
    })
}

/// Detects the first index of all lines: 0 or 1.
fn base_of(lines: &[&str], width: usize) -> Result<u64, DecodeError> {
    let (mut has_zero, mut most) = (false, 0);
    for (row, line) in lines.iter().enumerate() {
        for cell in cells(line, row + 1) {
            let (index, _) = cell?;
            has_zero |= index == 0;
            most = most.max(index);
        }
    }
    Ok(u64::from(!has_zero && most == width as u64))
}

fn tensor(
    spec: &InputSpec,
    row_dims: &[usize],
    lines: &[&str],
    base: u64,
    absent: AnyNumber,
) -> Result<Tensor, DecodeError> {
    let width = product(row_dims).ok_or_else(|| too_large("a row"))?;
    let bytes = dense_bytes([lines.len(), width], spec.data_type);
    if spec.data_type == DataType::String {
        return Err(mismatch(spec, "numbers").into());
    }
    if bytes.is_none_or(|bytes| bytes > MAX_DENSE_BYTES) {
        return Err(too_large(format_args!("{} rows of {width} values", lines.len())));
    }
    with_kind!(spec.data_type, K => {
        let absent = K::from_number(absent).map_err(|problem| InputError::Value {
            name: excerpt(&spec.name),
            at: String::new(),
            problem: problem.describe("an omitted index", spec.data_type),
        })?;
        let mut items = alloc::with_capacity(lines.len() * width)?;
        items.resize(lines.len() * width, absent);
        let mut seen: Vec<bool> = alloc::with_capacity(width)?;
        for (row, line) in lines.iter().enumerate() {
            seen.clear();
            seen.resize(width, false);
            for cell in cells(line, row + 1) {
                let (index, value) = cell?;
                let at = index.checked_sub(base).and_then(|index| usize::try_from(index).ok()).filter(|&at| at < width);
                let Some(at) = at else {
                    return Err(malformed(format!(
                        "row {}: index {index} is outside {base} to {}, the indices of {width} values",
                        row + 1,
                        base + (width as u64).saturating_sub(1)
                    )));
                };
                if std::mem::replace(&mut seen[at], true) {
                    return Err(malformed(format!("row {}: index {index} is given twice", row + 1)));
                }
                items[row * width + at] = K::from_cell(value).map_err(|problem| InputError::Value {
                    name: excerpt(&spec.name),
                    at: format!(" at row {} index {index}", row + 1),
                    problem: problem.describe(&excerpt(value), spec.data_type),
                })?;
            }
        }
        let shape = std::iter::once(lines.len()).chain(row_dims.iter().copied()).collect();
        K::tensor(shape, items).map_err(|error| super::column::wrong_size(spec, &error).into())
    })
}

/// The bytes of all rows once they are dense.
pub(super) fn decoded_bytes(body: &Bytes, schema: &Schema) -> Option<usize> {
    let spec = &schema.signature().inputs[schema.only_input()?];
    let rows = body.iter().filter(|&&byte| byte == b'\n').count() + 1;
    dense_bytes([rows, product(&row_shape(spec)?)?], spec.data_type)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::testing::{decode, identity, input, signature, tensor};
    use crate::tensor::Signature;

    fn three() -> Signature {
        signature(&[input("x", DataType::F32, &[-1, 3])], &[])
    }

    fn read(content_type: &str, body: &str, signature: &Signature) -> Result<Vec<Tensor>, DecodeError> {
        decode(content_type, Bytes::copy_from_slice(body.as_bytes()), signature).map(|request| request.inputs)
    }

    #[test]
    fn indices_count_from_0_or_from_1() {
        let expected = [tensor(&[2, 3], &[1.5f32, 0., 2., 0., 0., 3.])];
        for (content_type, body) in [
            ("text/libsvm", "0:1.5 2:2\n2:3\n"),
            ("text/x-libsvm", "1 0:1.5 2:2 # a comment\n\n-1 2:3"),
            ("text/libsvm", "1 qid:7 0:1.5 2:2\r\n0 qid:7 2:3\r\n"),
            ("text/libsvm", "1:1.5 3:2\n3:3\n"),
            ("text/libsvm; base=1", "1:1.5 3:2\n3:3\n"),
            ("text/libsvm; base=0", "0:1.5 2:2\n2:3\n"),
        ] {
            assert_eq!(read(content_type, body, &three()).unwrap(), expected, "{body}");
        }
        let missing = &read("text/libsvm; absent=nan", "0:1\n", &three()).unwrap()[0];
        let values = missing.as_slice::<f32>().unwrap();
        assert!(values[0] == 1.0 && values[1].is_nan() && values[2].is_nan());
        // Without index 0 and without the index that exists only when counting from 1.
        assert_eq!(
            read("text/libsvm", "1:1\n", &three()).unwrap(),
            [tensor(&[1, 3], &[0f32, 1., 0.])]
        );
    }

    #[test]
    fn refuses_malformed_rows_and_names_the_index() {
        let table = [
            ("text/libsvm", "0:1 3:2\n", "index 3 is outside 0 to 2"),
            ("text/libsvm", "0:1 0:2\n", "index 0 is given twice"),
            ("text/libsvm", "1 a:2\n", "\"a\" is not an index"),
            ("text/libsvm", "1 0:1 2\n", "\"2\" is not index:value"),
            ("text/libsvm", "0:x\n", "at row 1 index 0: \"x\" is not a number"),
            ("text/libsvm", "99999999999999999999:1", "is not an index"),
            ("text/libsvm", " \n", "it has no rows"),
            ("text/libsvm; base=2", "0:1", "base must be 0 or 1"),
            ("text/libsvm; absent=1", "0:1", "absent must be 0 or nan"),
        ];
        for (content_type, body, expected) in table {
            let error = read(content_type, body, &three()).expect_err(body).to_string();
            assert!(error.contains(expected), "{body}: {error}");
        }
        let wide = signature(&[input("x", DataType::F32, &[-1, 1_000_000_000])], &[]);
        let error = read("text/libsvm", "0:1\n1:1\n", &wide).unwrap_err().to_string();
        assert!(error.contains("2 rows of 1000000000 values"), "{error}");
        let error = read("text/libsvm", "0:1\n", &identity(DataType::F32))
            .unwrap_err()
            .to_string();
        assert!(error.contains("does not say how many"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-z:# .\n-]{0,60}") {
            let _ = read("text/libsvm", &text, &three());
        }
    }
}
