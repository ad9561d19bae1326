//! What an ONNX file says before ONNX Runtime is asked to parse it: which files it refers to and whether it holds tree
//! ensembles.
//!
//! Three things must be known earlier than a session exists: how much memory to reserve, that no weight file lies
//! outside the artifact, and that the file is a protobuf at all (so that a truncated upload is called that). The file
//! is walked field by field and tensor data is skipped over, so this costs as much as the graph is large, not the
//! weights. Field numbers are those of `onnx.proto`; of the file only the names of other files and of operators are kept in
//! memory.
//!
//! What ONNX Runtime would find in a file, this finds too: whatever its parser reads otherwise than ours is refused here,
//! because a model must not be able to name a file to the one that it hides from the other.

mod header;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

pub use header::Header;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The `location` of every tensor whose data lies in another file, as written, and how many bytes that file must
    /// have at least for what is said of offsets and lengths to be true.
    pub external: BTreeMap<String, u64>,
    /// A node of the TreeEnsemble family is present: such a model takes five times its file in memory.
    pub has_trees: bool,
    /// An operator is present whose work follows from the values of its inputs rather than from their sizes, so that a
    /// request of a few bytes can ask for any amount of it.
    pub has_unbounded_work: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("it is empty")]
    Empty,
    #[error("it is no ONNX protobuf, or it is truncated ({what} at byte {offset})")]
    Malformed { what: &'static str, offset: u64 },
    #[error("it refers to more than {MAX_EXTERNAL} other files, or their names are longer than 16 MiB in all")]
    TooManyFiles,
    #[error("it has the name of an operator or of a file that is longer than {MAX_STRING} bytes")]
    LongName,
    #[error("the {key} of its weights in {location:?} is {value:?}, which is no number of bytes")]
    NoNumber {
        key: &'static str,
        location: String,
        value: String,
    },
    #[error("its graphs have more than {MAX_VALUES} inputs and outputs")]
    TooManyValues,
    #[error("its graph is nested more than {MAX_DEPTH} messages deep")]
    TooDeep,
    #[error("read the file")]
    Io(#[from] io::Error),
}

/// Messages inside messages. A subgraph inside a subgraph is three deeper.
const MAX_DEPTH: usize = 96;

/// Files of external data. Exporters write one for each tensor at most.
const MAX_EXTERNAL: usize = 100_000;

/// Bytes of the names of those files, in all.
const MAX_EXTERNAL_NAMES: usize = 16 << 20;

/// Inputs and outputs of graphs. The time that it takes to learn their types grows with the square of their number: 0.8 s
/// for this many.
const MAX_VALUES: usize = 20_000;

/// See [`Facts::has_unbounded_work`].
const UNBOUNDED: [&str; 11] = [
    "Bernoulli",
    "ConstantOfShape",
    "Expand",
    "Loop",
    "OneHot",
    "Pad",
    "Range",
    "Resize",
    "Scan",
    "Tile",
    "Upsample",
];

/// Longer strings than this are neither operators' names nor file names.
const MAX_STRING: u64 = 4096;

/// Reads `path` through.
pub fn scan(path: &Path) -> Result<Facts, ScanError> {
    read(path).map(|(facts, _)| facts)
}

/// What the file at `path` says of itself.
pub fn header(path: &Path) -> Result<Header, ScanError> {
    read(path).map(|(_, header)| header)
}

fn read(path: &Path) -> Result<(Facts, Header), ScanError> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length == 0 {
        return Err(ScanError::Empty);
    }
    let mut scanner = Scanner {
        reader: BufReader::new(file),
        position: 0,
        external_names: 0,
        values: 0,
        facts: Facts::default(),
        header: Header::default(),
    };
    scanner.message(Message::Model, length, 0)?;
    Ok((scanner.facts, scanner.header))
}

/// The messages of `onnx.proto` that are looked into.
#[derive(Debug, Clone, Copy)]
enum Message {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
}

/// What a length-delimited field holds.
enum Content {
    Message(Message),
    OperatorName,
    ExternalEntry,
    Producer,
    ProducerVersion,
    OperatorSet,
    InputOrOutput,
    Skipped,
}

fn content(message: Message, field: u64) -> Content {
    match (message, field) {
        (Message::Model, 7) | (Message::Attribute, 6 | 11) => Content::Message(Message::Graph),
        (Message::Function, 11) => Content::Message(Message::Attribute),
        (Message::Model, 25) => Content::Message(Message::Function),
        (Message::Graph, 1) | (Message::Function, 7) => Content::Message(Message::Node),
        (Message::Graph, 5) | (Message::Attribute, 5 | 10) | (Message::SparseTensor, 1 | 2) => {
            Content::Message(Message::Tensor)
        }
        (Message::Graph, 15) | (Message::Attribute, 22 | 23) => Content::Message(Message::SparseTensor),
        (Message::Model, 2) => Content::Producer,
        (Message::Model, 3) => Content::ProducerVersion,
        (Message::Model, 8) => Content::OperatorSet,
        (Message::Graph, 11 | 12) => Content::InputOrOutput,
        (Message::Node, 4) => Content::OperatorName,
        (Message::Node, 5) => Content::Message(Message::Attribute),
        (Message::Tensor, 13) => Content::ExternalEntry,
        (
            Message::Model
            | Message::Graph
            | Message::Function
            | Message::Node
            | Message::Attribute
            | Message::Tensor
            | Message::SparseTensor,
            _,
        ) => Content::Skipped,
    }
}

struct Scanner<R> {
    reader: BufReader<R>,
    position: u64,
    /// Bytes of the names in `facts.external`.
    external_names: usize,
    /// Inputs and outputs seen.
    values: usize,
    facts: Facts,
    header: Header,
}

/// What the entries of a tensor say of where its data is.
#[derive(Debug, Default)]
struct External {
    locations: Vec<String>,
    offset: Option<String>,
    length: Option<String>,
}

impl<R: Read + io::Seek> Scanner<R> {
    fn message(&mut self, message: Message, end: u64, depth: usize) -> Result<(), ScanError> {
        if depth > MAX_DEPTH {
            return Err(ScanError::TooDeep);
        }
        let mut external = External::default();
        while self.position < end {
            let (field, wire_type) = self.tag(end)?;
            let length = match wire_type {
                0 => {
                    let number = self.varint(end)?;
                    if let (Message::Model, 1) = (message, field) {
                        self.header.ir_version = number;
                    }
                    continue;
                }
                1 => 8,
                2 => self.varint(end)?,
                5 => 4,
                _ => return Err(self.malformed("an unknown wire type")),
            };
            let field_end = self
                .position
                .checked_add(length)
                .filter(|&field_end| field_end <= end)
                .ok_or_else(|| self.malformed("a field longer than what holds it"))?;
            if wire_type != 2 {
                self.skip_to(field_end)?;
                continue;
            }
            match content(message, field) {
                Content::Message(inner) => self.message(inner, field_end, depth + 1)?,
                Content::OperatorName => {
                    let name = self.string(field_end)?;
                    self.facts.has_trees |= name.starts_with("TreeEnsemble");
                    self.facts.has_unbounded_work |= UNBOUNDED.contains(&name.as_str());
                    self.header.add_operator(&name);
                }
                Content::Producer => self.header.producer = self.shown(field_end)?,
                Content::ProducerVersion => self.header.producer_version = self.shown(field_end)?,
                Content::OperatorSet => self.operator_set(field_end)?,
                Content::ExternalEntry => self.external_entry(field_end, &mut external)?,
                Content::InputOrOutput => {
                    self.values += 1;
                    if self.values > MAX_VALUES {
                        return Err(ScanError::TooManyValues);
                    }
                    self.skip_to(field_end)?;
                }
                Content::Skipped => self.skip_to(field_end)?,
            }
        }
        self.add_external(external)
    }

    /// A `StringStringEntryProto`: key 1, value 2. Of the keys, `location` names a file.
    fn external_entry(&mut self, end: u64, external: &mut External) -> Result<(), ScanError> {
        let (mut key, mut value) = (String::new(), String::new());
        while self.position < end {
            let (field, wire_type) = self.tag(end)?;
            if wire_type != 2 {
                return Err(self.malformed("an external data entry that is no text"));
            }
            let text_end = self.text_end(end)?;
            match field {
                1 => key = self.string(text_end)?,
                2 => value = self.string(text_end)?,
                _ => self.skip_to(text_end)?,
            }
        }
        match key.as_str() {
            "location" => {
                self.external_names += value.len();
                if external.locations.len() >= MAX_EXTERNAL || self.external_names > MAX_EXTERNAL_NAMES {
                    return Err(ScanError::TooManyFiles);
                }
                external.locations.push(value);
            }
            "offset" => external.offset = Some(value),
            "length" => external.length = Some(value),
            _ => {}
        }
        Ok(())
    }

    /// Notes what a tensor says of where its data is. Every location that it gives counts: which one of several is taken
    /// is not for us to guess.
    fn add_external(&mut self, external: External) -> Result<(), ScanError> {
        let External {
            locations,
            offset,
            length,
        } = external;
        for location in locations {
            let bytes = |key, value: &Option<String>| match value.as_deref().map(str::parse::<u64>) {
                None => Ok(0),
                Some(Ok(bytes)) => Ok(bytes),
                Some(Err(_)) => Err(ScanError::NoNumber {
                    key,
                    location: brief(&location),
                    value: brief(value.as_deref().unwrap_or_default()),
                }),
            };
            let end = bytes("offset", &offset)?.saturating_add(bytes("length", &length)?);
            let known = self.facts.external.entry(location).or_default();
            *known = end.max(*known);
            if self.facts.external.len() > MAX_EXTERNAL {
                return Err(ScanError::TooManyFiles);
            }
        }
        Ok(())
    }

    /// An `OperatorSetIdProto`: domain 1, version 2.
    fn operator_set(&mut self, end: u64) -> Result<(), ScanError> {
        let (mut domain, mut version) = (String::new(), 0);
        while self.position < end {
            match self.tag(end)? {
                (2, 0) => version = self.varint(end)?,
                (_, 0) => drop(self.varint(end)?),
                (field, 2) => {
                    let text_end = self.text_end(end)?;
                    if field == 1 {
                        domain = self.shown(text_end)?;
                    } else {
                        self.skip_to(text_end)?;
                    }
                }
                (_, wire_type @ (1 | 5)) => {
                    let next = self.position + if wire_type == 1 { 8 } else { 4 };
                    if next > end {
                        return Err(self.malformed("a number cut off"));
                    }
                    self.skip_to(next)?;
                }
                _ => return Err(self.malformed("an unknown wire type")),
            }
        }
        self.header.add_opset(domain, version);
        Ok(())
    }

    /// A text that is only shown: the beginning of it, when it is long.
    fn shown(&mut self, end: u64) -> Result<String, ScanError> {
        const MOST: u64 = 200;
        let text = self.string(end.min(self.position + MOST))?;
        self.skip_to(end)?;
        Ok(text)
    }

    /// Reads the length of a text and returns where it ends, which is not after `end`.
    fn text_end(&mut self, end: u64) -> Result<u64, ScanError> {
        let length = self.varint(end)?;
        self.position
            .checked_add(length)
            .filter(|&text_end| text_end <= end)
            .ok_or_else(|| self.malformed("a text longer than what holds it"))
    }

    fn tag(&mut self, end: u64) -> Result<(u64, u64), ScanError> {
        let tag = self.varint(end)?;
        if tag >> 3 == 0 {
            return Err(self.malformed("a field without a number"));
        }
        // Protocol Buffers' own parser drops the bits above and takes what is left for the field's number.
        if tag > u64::from(u32::MAX) {
            return Err(self.malformed("a field whose number is too large"));
        }
        Ok((tag >> 3, tag & 7))
    }

    fn varint(&mut self, end: u64) -> Result<u64, ScanError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.position >= end {
                return Err(self.malformed("a number cut off"));
            }
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            self.position += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("a number of more than ten bytes"))
    }

    fn string(&mut self, end: u64) -> Result<String, ScanError> {
        let length = end - self.position;
        if length > MAX_STRING {
            return Err(ScanError::LongName);
        }
        let mut bytes = Vec::new();
        self.reader.by_ref().take(length).read_to_end(&mut bytes)?;
        self.position = end;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn skip_to(&mut self, end: u64) -> Result<(), ScanError> {
        let distance = i64::try_from(end - self.position).map_err(|_| self.malformed("a field too long"))?;
        self.reader.seek_relative(distance)?;
        self.position = end;
        Ok(())
    }

    fn malformed(&self, what: &'static str) -> ScanError {
        ScanError::Malformed {
            what,
            offset: self.position,
        }
    }
}

/// The beginning of a text that may be long, for a message.
fn brief(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn field(number: u64, content: &[u8]) -> Vec<u8> {
        let mut bytes = varint(number << 3 | 2);
        bytes.extend(varint(content.len() as u64));
        bytes.extend(content);
        bytes
    }

    /// A field of a number that no message of `onnx.proto` has, in any wire type that there is.
    fn unknown_field() -> impl Strategy<Value = Vec<u8>> {
        let number = 1000u64..1 << 29;
        (
            number,
            any::<u64>(),
            proptest::collection::vec(any::<u8>(), 0..20),
            0..4,
        )
            .prop_map(|(number, value, bytes, kind)| match kind {
                0 => [varint(number << 3), varint(value)].concat(),
                1 => [&varint(number << 3 | 1)[..], &value.to_le_bytes()].concat(),
                2 => [&varint(number << 3 | 5)[..], &(value as u32).to_le_bytes()].concat(),
                _ => field(number, &bytes),
            })
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    fn scan_bytes(bytes: &[u8]) -> Result<Facts, ScanError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        scan(file.path())
    }

    fn entry(key: &str, value: &str) -> Vec<u8> {
        field(13, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat())
    }

    fn external_tensor(location: &str) -> Vec<u8> {
        entry("location", location)
    }

    /// A model with a tree operator and an external tensor, both inside an `If` branch.
    fn nested() -> Vec<u8> {
        let branch = [
            field(1, &field(4, b"TreeEnsembleRegressor")),
            field(5, &external_tensor("weights.bin")),
        ]
        .concat();
        let node = [field(4, b"If"), field(5, &field(6, &branch))].concat();
        field(7, &field(1, &node))
    }

    #[test]
    fn operators_and_external_files_are_found_in_subgraphs_too() {
        let facts = scan_bytes(&nested()).unwrap();
        assert_eq!(
            facts,
            Facts {
                external: BTreeMap::from([("weights.bin".to_owned(), 0)]),
                has_trees: true,
                has_unbounded_work: false,
            }
        );
    }

    #[test]
    fn functions_and_the_defaults_of_their_attributes_are_looked_into() {
        let default = field(11, &field(5, &external_tensor("../secret.bin")));
        let function = field(25, &[default, field(7, &field(4, b"Loop"))].concat());
        let facts = scan_bytes(&function).unwrap();
        assert_eq!(facts.external, BTreeMap::from([("../secret.bin".to_owned(), 0)]));
        assert!(facts.has_unbounded_work);
    }

    #[test]
    fn a_file_says_who_wrote_it_and_what_it_needs() {
        let opset = |domain: &[u8], version| field(8, &[field(1, domain), varint(2 << 3), varint(version)].concat());
        let model = [
            [varint(1 << 3), varint(8)].concat(),
            field(2, b"skl2onnx"),
            field(3, "1.16".repeat(100).as_bytes()),
            opset(b"", 17),
            opset(b"ai.onnx.ml", 3),
            nested(),
        ]
        .concat();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), model).unwrap();
        assert_eq!(
            header(file.path()).unwrap(),
            Header {
                ir_version: 8,
                opsets: BTreeMap::from([("ai.onnx".to_owned(), 17), ("ai.onnx.ml".to_owned(), 3)]),
                producer: "skl2onnx".to_owned(),
                producer_version: "1.16".repeat(50),
                operators: BTreeMap::from([("If".to_owned(), 1), ("TreeEnsembleRegressor".to_owned(), 1)]),
            }
        );
    }

    #[test]
    fn a_file_of_weights_must_be_as_long_as_the_furthest_tensor_in_it_says() {
        let tensor = |entries: &[(&str, &str)]| {
            let entries: Vec<u8> = entries.iter().flat_map(|(key, value)| entry(key, value)).collect();
            field(7, &field(5, &entries))
        };
        let two = [
            tensor(&[("location", "w"), ("offset", "64"), ("length", "16")]),
            tensor(&[("length", "32"), ("location", "w")]),
        ];
        let facts = scan_bytes(&two.concat()).unwrap();
        assert_eq!(facts.external, BTreeMap::from([("w".to_owned(), 80)]));
        let huge = u64::MAX.to_string();
        let facts = scan_bytes(&tensor(&[("location", "w"), ("offset", &huge), ("length", &huge)])).unwrap();
        assert_eq!(facts.external["w"], u64::MAX);
        for value in ["-1", "", "16.0", "many", "99999999999999999999"] {
            let error = scan_bytes(&tensor(&[("offset", value), ("location", "w")])).unwrap_err();
            assert!(
                matches!(error, ScanError::NoNumber { key: "offset", .. }),
                "{value}: {error}"
            );
        }
        // Where no file is named, nothing is said of one.
        assert_eq!(scan_bytes(&tensor(&[("offset", "many")])).unwrap(), Facts::default());
    }

    #[test]
    fn a_field_number_that_another_reader_would_cut_is_refused() {
        // 2^29 + 7 is 7, the graph, in the lower 32 bits of the tag.
        let error = scan_bytes(&field(1 << 29 | 7, &external_tensor("../secret.bin"))).unwrap_err();
        assert!(error.to_string().contains("number is too large"), "{error}");
    }

    #[test]
    fn more_files_than_anyone_writes_and_names_longer_than_any_are_refused() {
        let long = "w".repeat(4096);
        let named = |count: usize| -> Vec<u8> {
            let tensors =
                (0..count).flat_map(|number| field(5, &external_tensor(&format!("{number:04}{}", &long[4..]))));
            field(7, &tensors.collect::<Vec<u8>>())
        };
        assert_eq!(scan_bytes(&named(4000)).unwrap().external.len(), 4000);
        assert!(matches!(scan_bytes(&named(4097)), Err(ScanError::TooManyFiles)));
        let longer = field(7, &field(5, &external_tensor(&format!("{long}w"))));
        assert!(matches!(scan_bytes(&longer), Err(ScanError::LongName)));
    }

    #[test]
    fn more_inputs_than_anyone_has_are_refused() {
        let inputs = |count: usize| field(7, &field(11, &field(1, b"x")).repeat(count));
        assert!(scan_bytes(&inputs(MAX_VALUES)).is_ok());
        assert!(matches!(
            scan_bytes(&inputs(MAX_VALUES + 1)),
            Err(ScanError::TooManyValues)
        ));
    }

    #[test]
    fn a_file_cut_short_anywhere_inside_the_graph_is_refused() {
        let model = nested();
        for length in 1..model.len() {
            assert!(scan_bytes(&model[..length]).is_err(), "{length}");
        }
        assert!(matches!(scan_bytes(&[]), Err(ScanError::Empty)));
    }

    #[test]
    fn a_graph_nested_without_end_is_refused() {
        let mut graph = Vec::new();
        for _ in 0..40 {
            graph = field(1, &field(5, &field(6, &graph)));
        }
        assert!(matches!(scan_bytes(&field(7, &graph)), Err(ScanError::TooDeep)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = scan_bytes(&bytes);
        }

        #[test]
        fn a_model_with_a_byte_changed_is_read_or_refused_and_never_panics(at in any::<proptest::sample::Index>(), byte: u8) {
            let mut model = nested();
            let at = at.index(model.len());
            model[at] = byte;
            let _ = scan_bytes(&model);
        }

        #[test]
        fn a_file_is_found_wherever_fields_of_any_kind_stand_around_its_name(
            before in proptest::collection::vec(unknown_field(), 0..8),
            after in proptest::collection::vec(unknown_field(), 0..8),
        ) {
            let around = |inner: Vec<u8>| [before.concat(), inner, after.concat()].concat();
            let model = around(field(7, &around(field(5, &around(external_tensor("weights.bin"))))));
            let facts = scan_bytes(&model).unwrap();
            prop_assert_eq!(facts.external, BTreeMap::from([("weights.bin".to_owned(), 0)]));
        }
    }
}
