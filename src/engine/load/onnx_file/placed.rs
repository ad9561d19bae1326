//! The constants of a small ONNX file whose data is in another file: finds them, and changes the
//! place where the model looks for them.
//!
//! ONNX Runtime writes such a file when it saves an optimised model and keeps the large constants
//! apart (`session.rs`). It is read into memory, because it holds only the graph.
//!
//! Only constants of the main graph are supported: ONNX Runtime accepts memory for a constant by
//! its name alone, and the body of an `If` or `Loop` may use the same name for another value.

use std::collections::HashSet;

use super::ScanError;
use super::message::{FieldValue, append, append_number, fields, malformed, owned_text, rewritten, text, varint};
use super::schema::number::{
    ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS, ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS, ENTRY_KEY, ENTRY_VALUE, FUNCTION_NODE,
    GRAPH_INITIALIZER, GRAPH_NODE, GRAPH_SPARSE_INITIALIZER, MODEL_FUNCTIONS, MODEL_GRAPH, NODE_ATTRIBUTE,
    TENSOR_DATA_LOCATION, TENSOR_DATA_TYPE, TENSOR_DIMS, TENSOR_EXTERNAL_DATA, TENSOR_NAME,
};

/// Limit on the bytes of the file. Without its large constants, a graph of 10,000 nodes has a few
/// megabytes.
pub const MOST_GRAPH: u64 = 16 << 20;

/// Limit on the constants in other files. Models have some hundred.
pub const MOST_CONSTANTS: usize = 4_096;

/// Limit on the nesting of graphs.
const MAX_DEPTH: usize = 32;

/// A constant whose data is in another file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedConstant {
    pub name: String,
    /// A number of `TensorProto.DataType`.
    pub data_type: u64,
    pub dims: Vec<u64>,
    pub place: Place,
}

/// The place of a constant's data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Name of the file, relative to the folder of the model.
    pub file: String,
    pub offset: u64,
    pub bytes: u64,
}

/// Finds the constants of `model`'s main graph whose data is in other files. An error if a graph
/// inside it has such constants, or if the name of one occurs twice.
pub fn placed_constants(model: &[u8]) -> Result<Vec<PlacedConstant>, ScanError> {
    let mut constants: Vec<PlacedConstant> = Vec::new();
    let mut inner = Vec::new();
    for field in fields(model) {
        let field = field?;
        if field.number == MODEL_FUNCTIONS {
            read_function(field.bytes()?, &mut inner)?;
        }
        if field.number != MODEL_GRAPH {
            continue;
        }
        for field in fields(field.bytes()?) {
            let field = field?;
            match field.number {
                GRAPH_INITIALIZER => constants.extend(placed_constant(field.bytes()?)?),
                GRAPH_NODE => read_inner(field.bytes()?, &mut inner, 0)?,
                _ => {}
            }
        }
    }
    if constants.len() > MOST_CONSTANTS {
        return Err(ScanError::TooManyValues);
    }
    let mut names: HashSet<&str> = inner.iter().map(|name| &**name).collect();
    if !constants.iter().all(|constant| names.insert(&constant.name)) {
        return Err(ScanError::Ambiguous("two constants of the same name"));
    }
    Ok(constants)
}

/// Returns `model` with the places that `place` returns for its constants in other files.
pub fn with_places<'a>(model: &[u8], place: impl Fn(&str) -> Option<&'a Place>) -> Result<Vec<u8>, ScanError> {
    rewritten(model, MODEL_GRAPH, |graph| {
        rewritten(graph, GRAPH_INITIALIZER, |tensor| {
            let placed = placed_constant(tensor)?;
            Ok(match placed.as_ref().and_then(|constant| place(&constant.name)) {
                Some(place) => tensor_at(tensor, place)?,
                None => tensor.to_vec(),
            })
        })
    })
}

/// Reads a tensor; `None` if its data is not in another file.
fn placed_constant(tensor: &[u8]) -> Result<Option<PlacedConstant>, ScanError> {
    let (mut name, mut data_type, mut dims) = (String::new(), 0, Vec::new());
    let mut place = Place::default();
    let mut is_placed = false;
    for field in fields(tensor) {
        let field = field?;
        match (field.number, field.value) {
            (TENSOR_NAME, FieldValue::Bytes(text)) => name = owned_text(text)?,
            (TENSOR_DATA_TYPE, FieldValue::Number(number)) => data_type = number,
            (TENSOR_DIMS, FieldValue::Number(number)) => dims.push(number),
            (TENSOR_DIMS, FieldValue::Bytes(packed)) => {
                let mut rest = packed;
                while !rest.is_empty() {
                    dims.push(varint(&mut rest)?);
                }
            }
            (TENSOR_EXTERNAL_DATA, FieldValue::Bytes(entry)) => {
                is_placed = true;
                let (mut key, mut value) = ("", "");
                for field in fields(entry) {
                    let field = field?;
                    match field.number {
                        ENTRY_KEY => key = text(field.bytes()?)?,
                        ENTRY_VALUE => value = text(field.bytes()?)?,
                        _ => {}
                    }
                }
                let number = || value.parse().map_err(|_| malformed("a place that is not a number"));
                match key {
                    "location" => place.file = value.to_owned(),
                    "offset" => place.offset = number()?,
                    "length" => place.bytes = number()?,
                    _ => {}
                }
            }
            _ => {}
        }
    }
    Ok(is_placed.then_some(PlacedConstant {
        name,
        data_type,
        dims,
        place,
    }))
}

/// Appends the fields that say where the data of a tensor is.
pub(super) fn append_place(tensor: &mut Vec<u8>, place: &Place) {
    const EXTERNAL: u64 = 1;
    let (offset, length) = (place.offset.to_string(), place.bytes.to_string());
    for (key, value) in [("location", &place.file), ("offset", &offset), ("length", &length)] {
        let mut entry = Vec::new();
        append(&mut entry, ENTRY_KEY, key.as_bytes());
        append(&mut entry, ENTRY_VALUE, value.as_bytes());
        append(tensor, TENSOR_EXTERNAL_DATA, &entry);
    }
    append_number(tensor, TENSOR_DATA_LOCATION, EXTERNAL);
}

/// Returns `tensor` with its data at `place`.
fn tensor_at(tensor: &[u8], place: &Place) -> Result<Vec<u8>, ScanError> {
    let mut bytes = Vec::with_capacity(tensor.len() + place.file.len());
    for field in fields(tensor) {
        let field = field?;
        if field.number != TENSOR_EXTERNAL_DATA && field.number != TENSOR_DATA_LOCATION {
            bytes.extend(field.encoded);
        }
    }
    append_place(&mut bytes, place);
    Ok(bytes)
}

/// Adds the names of the constants of all graphs inside the attributes of `node` to `names`. Fails
/// if one of them is in another file.
fn read_inner(node: &[u8], names: &mut Vec<String>, depth: usize) -> Result<(), ScanError> {
    if depth > MAX_DEPTH {
        return Err(ScanError::TooDeep);
    }
    let is_placed = |tensor: &[u8]| placed_constant(tensor).map(|constant| constant.is_some());
    for field in fields(node) {
        let field = field?;
        if field.number != NODE_ATTRIBUTE {
            continue;
        }
        for field in fields(field.bytes()?) {
            let field = field?;
            match field.number {
                ATTRIBUTE_TENSOR | ATTRIBUTE_TENSORS if is_placed(field.bytes()?)? => return Err(inner()),
                ATTRIBUTE_GRAPH | ATTRIBUTE_GRAPHS => {
                    for field in fields(field.bytes()?) {
                        let field = field?;
                        match field.number {
                            GRAPH_INITIALIZER if is_placed(field.bytes()?)? => return Err(inner()),
                            GRAPH_INITIALIZER => names.extend(name_of(field.bytes()?)?),
                            // Its parts are tensors; no exporter places them in another file.
                            GRAPH_SPARSE_INITIALIZER => return Err(inner()),
                            GRAPH_NODE => read_inner(field.bytes()?, names, depth + 1)?,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn read_function(function: &[u8], names: &mut Vec<String>) -> Result<(), ScanError> {
    for field in fields(function) {
        let field = field?;
        if field.number == FUNCTION_NODE {
            read_inner(field.bytes()?, names, 0)?;
        }
    }
    Ok(())
}

fn name_of(tensor: &[u8]) -> Result<Option<String>, ScanError> {
    for field in fields(tensor) {
        let field = field?;
        if field.number == TENSOR_NAME {
            return owned_text(field.bytes()?).map(Some);
        }
    }
    Ok(None)
}

fn inner() -> ScanError {
    ScanError::Ambiguous("constants in another file, inside the body of an operator")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fields: &[(u64, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, content) in fields {
            append(&mut bytes, *number, content);
        }
        bytes
    }

    fn entry(key: &str, value: &str) -> Vec<u8> {
        message(&[(ENTRY_KEY, key.as_bytes()), (ENTRY_VALUE, value.as_bytes())])
    }

    /// A float tensor of shape 2 x 300 in the file `w`, at byte 4096.
    fn placed(name: &str) -> Vec<u8> {
        let mut tensor = vec![0x08, 0x02, 0x08, 0xac, 0x02, 0x10, 0x01];
        append(&mut tensor, TENSOR_NAME, name.as_bytes());
        for (key, value) in [("location", "w"), ("offset", "4096"), ("length", "2400")] {
            append(&mut tensor, TENSOR_EXTERNAL_DATA, &entry(key, value));
        }
        // `data_location`: external.
        tensor.extend([0x70, 0x01]);
        tensor
    }

    fn inline(name: &str) -> Vec<u8> {
        message(&[(TENSOR_NAME, name.as_bytes()), (9, b"\0\0\x80\x3f")])
    }

    fn model(graph: &[u8]) -> Vec<u8> {
        let mut model = vec![0x08, 0x09];
        append(&mut model, MODEL_GRAPH, graph);
        append(&mut model, 8, &[0x10, 0x11]);
        model
    }

    #[test]
    fn finds_placed_constants_and_moves_only_those_with_a_new_place() {
        let graph = message(&[
            (GRAPH_INITIALIZER, &placed("a")),
            (GRAPH_INITIALIZER, &inline("b")),
            (GRAPH_INITIALIZER, &placed("c")),
            (2, b"name of the graph"),
        ]);
        let model = model(&graph);
        let found = placed_constants(&model).unwrap();
        let at = |file: &str, offset| Place {
            file: file.to_owned(),
            offset,
            bytes: 2400,
        };
        let constant = |name: &str, place| PlacedConstant {
            name: name.to_owned(),
            data_type: 1,
            dims: vec![2, 300],
            place,
        };
        assert_eq!(found, [constant("a", at("w", 4096)), constant("c", at("w", 4096))]);
        let unchanged = with_places(&model, |_| None).unwrap();
        assert_eq!(unchanged, model);
        let new = at("another file", 1 << 40);
        let moved = with_places(&model, |name| (name == "c").then_some(&new)).unwrap();
        let found = placed_constants(&moved).unwrap();
        assert_eq!(found, [constant("a", at("w", 4096)), constant("c", new)]);
        let back = at("w", 4096);
        let restored = with_places(&moved, |_| Some(&back)).unwrap();
        assert_eq!(placed_constants(&restored).unwrap(), placed_constants(&model).unwrap());
    }

    #[test]
    fn constants_inside_operators_and_equal_names_are_refused() {
        let inner_graph = message(&[(GRAPH_INITIALIZER, &placed("a"))]);
        let attribute = message(&[(ATTRIBUTE_GRAPH, &inner_graph)]);
        let node = message(&[(NODE_ATTRIBUTE, &attribute)]);
        let nested = model(&message(&[(GRAPH_NODE, &node)]));
        assert!(matches!(placed_constants(&nested), Err(ScanError::Ambiguous(_))));
        let constant = message(&[(NODE_ATTRIBUTE, &message(&[(ATTRIBUTE_TENSOR, &placed("a"))]))]);
        let constant = model(&message(&[(GRAPH_NODE, &constant)]));
        assert!(matches!(placed_constants(&constant), Err(ScanError::Ambiguous(_))));
        // ONNX Runtime would use the constant of the main graph in the body, too.
        let body = message(&[(GRAPH_INITIALIZER, &inline("a"))]);
        let node = message(&[(NODE_ATTRIBUTE, &message(&[(ATTRIBUTE_GRAPH, &body)]))]);
        for (name, is_refused) in [("a", true), ("b", false)] {
            let graph = model(&message(&[(GRAPH_NODE, &node), (GRAPH_INITIALIZER, &placed(name))]));
            assert_eq!(placed_constants(&graph).is_err(), is_refused, "{name}");
        }
        let twice = message(&[(GRAPH_INITIALIZER, &placed("a")), (GRAPH_INITIALIZER, &placed("a"))]);
        assert!(matches!(placed_constants(&model(&twice)), Err(ScanError::Ambiguous(_))));
        let harmless = message(&[(NODE_ATTRIBUTE, &message(&[(ATTRIBUTE_TENSOR, &inline("a"))]))]);
        assert_eq!(
            placed_constants(&model(&message(&[(GRAPH_NODE, &harmless)]))).unwrap(),
            []
        );
    }

    #[test]
    fn truncated_and_damaged_files_are_errors() {
        let whole = model(&message(&[(GRAPH_INITIALIZER, &placed("a"))]));
        assert_eq!(placed_constants(&whole).unwrap().len(), 1);
        for length in 3..whole.len() - 4 {
            assert!(placed_constants(&whole[..length]).is_err(), "{length}");
        }
        for position in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[position] ^= 1 << bit;
                // Neither may panic.
                let _ = placed_constants(&damaged);
                let _ = with_places(&damaged, |_| None);
            }
        }
    }
}
