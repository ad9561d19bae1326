//! The ONNX element types in the text formats: one implementation of [`ElementKind`] per
//! [`DataType`].
//!
//! The formats are generic over `ElementKind`, and [`with_kind!`] selects the type at run time. So
//! the compiler specialises each loop over elements, and no loop branches on the type.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use half::{bf16, f16};
use jiter::Peek;

use crate::codec::error::BoxedDecodeError;
use crate::codec::json_reader::{JsonReader, JsonString};
use crate::codec::numbers::{AnyNumber, NonFinite, Numeric, ValueProblem};
use crate::tensor::{DataType, Tensor, TensorError};

/// An element type in the text formats.
pub(super) trait ElementKind: 'static {
    /// The stored form of an element: a byte for a boolean, bytes for a string.
    type Item: Clone + PartialEq + Send + Sync + 'static;
    const DATA_TYPE: DataType;
    /// Limit on the bytes of an element as text. Strings add their own length.
    const TEXT_BYTES: usize;

    /// Parses the JSON number at the start of `text`; see [`Numeric::scan`].
    fn scan(text: &[u8]) -> Option<(Self::Item, usize)>;
    /// Parses a number in JSON or CSV.
    fn from_number_text(text: &str) -> Result<Self::Item, ValueProblem>;
    fn from_json_string(text: JsonString<'_>) -> Result<Self::Item, ValueProblem>;
    fn from_bool(value: bool) -> Result<Self::Item, ValueProblem>;
    /// Converts the bytes of TF-Serving's `{"b64": ".."}`.
    fn from_binary(bytes: Vec<u8>) -> Result<Self::Item, ValueProblem>;
    /// The value for JSON's null and for an empty cell.
    fn missing() -> Result<Self::Item, ValueProblem>;
    /// Parses a CSV cell.
    fn from_cell(cell: &str) -> Result<Self::Item, ValueProblem>;
    /// Converts a number of another element type.
    fn from_number(number: AnyNumber) -> Result<Self::Item, ValueProblem>;
    /// Converts an element to a number. `None` for strings.
    fn to_number(item: &Self::Item) -> Option<AnyNumber>;

    fn tensor(shape: Vec<usize>, items: Vec<Self::Item>) -> Result<Tensor, TensorError>;
    /// The elements of a tensor of this type.
    fn items(tensor: &Tensor) -> &[Self::Item];
    fn write_json(item: &Self::Item, out: &mut Vec<u8>);
    fn write_cell(item: &Self::Item, out: &mut Vec<u8>);
}

/// Evaluates an expression with `$kind` bound to the [`ElementKind`] of a [`DataType`].
macro_rules! with_kind {
    ($data_type:expr, $kind:ident => $body:expr) => {
        $crate::codec::element::with_kind!(@arms $data_type, $kind, $body;
            F16 half::f16, Bf16 half::bf16, F32 f32, F64 f64,
            I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64,
            Bool bool, String String)
    };
    (@arms $data_type:expr, $kind:ident, $body:expr; $($name:ident $rust:ty),+) => {
        match $data_type {
            $($crate::tensor::DataType::$name => {
                type $kind = $rust;
                $body
            })+
        }
    };
}
pub(super) use with_kind;

/// Reads the JSON value that starts with `peek` as one element.
#[inline]
pub(super) fn read_json<K: ElementKind>(
    reader: &mut JsonReader<'_>,
    peek: Peek,
) -> Result<Result<K::Item, ValueProblem>, BoxedDecodeError> {
    Ok(match peek {
        Peek::True | Peek::False => K::from_bool(reader.boolean(peek)?),
        Peek::Null => {
            reader.null()?;
            K::missing()
        }
        Peek::String => K::from_json_string(reader.string()?),
        Peek::Object if K::DATA_TYPE == DataType::String => read_binary(reader)?.and_then(K::from_binary),
        Peek::Object => K::from_binary(Vec::new()),
        // Anything else: the parser rejects it unless it is a number.
        number => K::from_number_text(reader.number(number)?),
    })
}

/// Reads bytes in TF-Serving's form: an object whose only key is `b64`.
#[cold]
fn read_binary(reader: &mut JsonReader<'_>) -> Result<Result<Vec<u8>, ValueProblem>, BoxedDecodeError> {
    if reader.enter_object()? != Some("b64") || reader.peek()? != Peek::String {
        return Ok(Err(ValueProblem::NotBase64));
    }
    let bytes = STANDARD.decode(reader.string()?.as_str());
    if reader.next_key()?.is_some() {
        return Ok(Err(ValueProblem::NotBase64));
    }
    Ok(bytes.map_err(|_| ValueProblem::NotBase64))
}

/// Python's names, which TF-Serving writes as bare tokens in JSON.
const JSON_TOKENS: NonFinite = NonFinite {
    nan: "NaN",
    positive: "Infinity",
    negative: "-Infinity",
};
/// The names that `numpy.savetxt` writes and every CSV reader knows.
const CELL_TOKENS: NonFinite = NonFinite {
    nan: "nan",
    positive: "inf",
    negative: "-inf",
};

macro_rules! numeric_kinds {
    ($($rust:ident),+ $(,)?) => { $(
        impl ElementKind for $rust {
            type Item = Self;
            const DATA_TYPE: DataType = <Self as crate::tensor::Element>::DATA_TYPE;
            const TEXT_BYTES: usize = <Self as Numeric>::TEXT_BYTES;

            #[inline]
            fn scan(text: &[u8]) -> Option<(Self, usize)> {
                <Self as Numeric>::scan(text)
            }

            #[inline]
            fn from_number_text(text: &str) -> Result<Self, ValueProblem> {
                <Self as Numeric>::parse(text)
            }

            fn from_json_string(text: JsonString<'_>) -> Result<Self, ValueProblem> {
                match text.as_str() {
                    // Programs that convert CSV to JSON objects often keep numbers as strings.
                    text if text.trim_ascii().is_empty() => Err(ValueProblem::NotANumber),
                    text => Self::from_number_text(text.trim_ascii()),
                }
            }

            fn from_bool(value: bool) -> Result<Self, ValueProblem> {
                Ok(<Self as Numeric>::from_bool(value))
            }

            fn from_binary(_: Vec<u8>) -> Result<Self, ValueProblem> {
                Err(ValueProblem::NotANumber)
            }

            fn missing() -> Result<Self, ValueProblem> {
                <Self as Numeric>::missing().ok_or(ValueProblem::Absent)
            }

            #[inline]
            fn from_cell(cell: &str) -> Result<Self, ValueProblem> {
                if let Some((value, length)) = <Self as Numeric>::scan(cell.as_bytes())
                    && length == cell.len()
                {
                    return Ok(value);
                }
                let cell = cell.trim_ascii();
                if cell.is_empty() {
                    return <Self as ElementKind>::missing();
                }
                Self::from_number_text(cell)
            }

            #[inline]
            fn from_number(number: AnyNumber) -> Result<Self, ValueProblem> {
                <Self as Numeric>::from_number(number)
            }

            #[inline]
            fn to_number(item: &Self) -> Option<AnyNumber> {
                Some(<Self as Numeric>::to_number(*item))
            }

            fn tensor(shape: Vec<usize>, items: Vec<Self>) -> Result<Tensor, TensorError> {
                Tensor::from_vec(shape, items)
            }

            fn items(tensor: &Tensor) -> &[Self] {
                tensor.as_slice().expect("the kind matches the tensor's type")
            }

            #[inline]
            fn write_json(item: &Self, out: &mut Vec<u8>) {
                item.write(&JSON_TOKENS, out);
            }

            #[inline]
            fn write_cell(item: &Self, out: &mut Vec<u8>) {
                item.write(&CELL_TOKENS, out);
            }
        }
    )+ };
}

numeric_kinds!(f16, bf16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64);

fn bool_text(value: bool) -> &'static [u8] {
    if value { b"true" } else { b"false" }
}

impl ElementKind for bool {
    type Item = u8;
    const DATA_TYPE: DataType = DataType::Bool;
    const TEXT_BYTES: usize = "false".len();

    fn scan(_: &[u8]) -> Option<(u8, usize)> {
        None
    }

    fn from_number_text(text: &str) -> Result<u8, ValueProblem> {
        match u8::parse(text) {
            Ok(bit @ (0 | 1)) => Ok(bit),
            Ok(_) | Err(_) => Err(ValueProblem::NotABoolean),
        }
    }

    fn from_json_string(text: JsonString<'_>) -> Result<u8, ValueProblem> {
        match text.as_str().trim_ascii() {
            "" => Err(ValueProblem::NotABoolean),
            text => Self::from_cell(text),
        }
    }

    fn from_bool(value: bool) -> Result<u8, ValueProblem> {
        Ok(value.into())
    }

    fn from_binary(_: Vec<u8>) -> Result<u8, ValueProblem> {
        Err(ValueProblem::NotABoolean)
    }

    fn missing() -> Result<u8, ValueProblem> {
        Err(ValueProblem::Absent)
    }

    /// Accepts pandas' `True` and `False` too.
    fn from_cell(cell: &str) -> Result<u8, ValueProblem> {
        let cell = cell.trim_ascii();
        if cell.is_empty() {
            <Self as ElementKind>::missing()
        } else if cell.eq_ignore_ascii_case("true") {
            Ok(1)
        } else if cell.eq_ignore_ascii_case("false") {
            Ok(0)
        } else {
            Self::from_number_text(cell)
        }
    }

    fn from_number(number: AnyNumber) -> Result<u8, ValueProblem> {
        match <u8 as Numeric>::from_number(number) {
            Ok(bit @ (0 | 1)) => Ok(bit),
            Ok(_) | Err(_) => Err(ValueProblem::NotABoolean),
        }
    }

    fn to_number(item: &u8) -> Option<AnyNumber> {
        Some(AnyNumber::Uint(u64::from(*item)))
    }

    fn tensor(shape: Vec<usize>, items: Vec<u8>) -> Result<Tensor, TensorError> {
        Tensor::from_bools(shape, items)
    }

    fn items(tensor: &Tensor) -> &[u8] {
        tensor.as_bytes().expect("the kind matches the tensor's type")
    }

    fn write_json(item: &u8, out: &mut Vec<u8>) {
        out.extend_from_slice(bool_text(*item != 0));
    }

    fn write_cell(item: &u8, out: &mut Vec<u8>) {
        out.extend_from_slice(bool_text(*item != 0));
    }
}

impl ElementKind for String {
    type Item = Bytes;
    const DATA_TYPE: DataType = DataType::String;
    const TEXT_BYTES: usize = 2;

    fn scan(_: &[u8]) -> Option<(Bytes, usize)> {
        None
    }

    fn from_number_text(_: &str) -> Result<Bytes, ValueProblem> {
        Err(ValueProblem::NotAString)
    }

    fn from_json_string(text: JsonString<'_>) -> Result<Bytes, ValueProblem> {
        Ok(text.to_bytes())
    }

    fn from_bool(_: bool) -> Result<Bytes, ValueProblem> {
        Err(ValueProblem::NotAString)
    }

    fn from_binary(bytes: Vec<u8>) -> Result<Bytes, ValueProblem> {
        Ok(bytes.into())
    }

    fn missing() -> Result<Bytes, ValueProblem> {
        Err(ValueProblem::Absent)
    }

    fn from_cell(cell: &str) -> Result<Bytes, ValueProblem> {
        Ok(Bytes::copy_from_slice(cell.as_bytes()))
    }

    fn from_number(_: AnyNumber) -> Result<Bytes, ValueProblem> {
        Err(ValueProblem::NotAString)
    }

    fn to_number(_: &Bytes) -> Option<AnyNumber> {
        None
    }

    fn tensor(shape: Vec<usize>, items: Vec<Bytes>) -> Result<Tensor, TensorError> {
        Tensor::from_strings(shape, items)
    }

    fn items(tensor: &Tensor) -> &[Bytes] {
        tensor.as_strings().expect("the kind matches the tensor's type")
    }

    /// Writes a JSON string, or TF-Serving's `{"b64": ".."}` for bytes that are not UTF-8.
    fn write_json(item: &Bytes, out: &mut Vec<u8>) {
        match std::str::from_utf8(item) {
            Ok(text) => write_json_string(text, out),
            Err(_) => {
                out.extend_from_slice(b"{\"b64\":\"");
                out.extend_from_slice(STANDARD.encode(item).as_bytes());
                out.extend_from_slice(b"\"}");
            }
        }
    }

    /// Quotes the cell if it is empty or contains a comma, a quote or a line break.
    fn write_cell(item: &Bytes, out: &mut Vec<u8>) {
        let special = |b: &u8| matches!(b, b',' | b'"' | b'\n' | b'\r');
        if !item.is_empty() && !item.iter().any(special) {
            out.extend_from_slice(item);
            return;
        }
        out.push(b'"');
        for &b in item {
            if b == b'"' {
                out.push(b'"');
            }
            out.push(b);
        }
        out.push(b'"');
    }
}

pub(super) fn write_json_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing a string to memory does not fail");
}
