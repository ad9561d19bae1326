//! Walks through a model's messages and collects [`OnnxFacts`] and the [`OnnxHeader`].
//!
//! Everything that is counted or kept has a fixed limit. The limits follow from what exporters
//! write, not from the size of the file.

use std::io::{self, Read};

use super::narrow::NarrowConstants;
use super::schema::{FieldContent, Message, content};
use super::wire::{Wire, WireField};
use super::{LARGE_CONSTANT, OnnxFacts, OnnxHeader, ScanError};

/// Limit on the nesting of messages. Each level of subgraphs adds three.
pub(super) const MAX_DEPTH: usize = 96;

/// Limit on the files of external data. Exporters write at most one for each tensor.
pub(super) const MAX_EXTERNAL: usize = 100_000;

/// Limit on the total bytes of the names of those files.
const MAX_EXTERNAL_NAMES: usize = 16 << 20;

/// Limit on the inputs and outputs of graphs. The time to read their types from a session grows
/// with the square of their number: 0.8 s for this many.
pub(super) const MAX_VALUES: usize = 20_000;

/// Operators for [`OnnxFacts::has_unbounded_work`]. They include those whose work grows with a
/// product of sizes: the cost of one request says little about the next, and a run cannot be
/// stopped inside an operator.
const UNBOUNDED: [&str; 33] = [
    "AffineGrid",
    "BeamSearch",
    "Bernoulli",
    "BlackmanWindow",
    "CDist",
    "CenterCropPad",
    "Col2Im",
    "ConstantOfShape",
    "CropAndResize",
    "DFT",
    "Einsum",
    "Expand",
    "GreedySearch",
    "HammingWindow",
    "HannWindow",
    "Loop",
    "MaxRoiPool",
    "MaxUnpool",
    "MelWeightMatrix",
    "NonMaxSuppression",
    "OneHot",
    "Pad",
    "Range",
    "Resize",
    "RoiAlign",
    "Sampling",
    "Scan",
    "SequenceMap",
    "STFT",
    "Tile",
    "TopK",
    "Upsample",
    "WhisperBeamSearch",
];

/// Operators for [`OnnxFacts::has_data_sizes`]: they choose elements, or repeat a body as often as
/// the data say. Sizes that are computed from sizes (`ConstantOfShape`, `Range`) are not meant.
const DATA_SIZES: [&str; 6] = [
    "Compress",
    "Loop",
    "NonMaxSuppression",
    "NonZero",
    "StringSplit",
    "Unique",
];

pub(super) struct Scanner<R> {
    wire: Wire<R>,
    /// Bytes of the names in `facts.external`.
    external_names: usize,
    /// Number of inputs and outputs so far.
    values: usize,
    pub(super) narrow: NarrowConstants,
    pub(super) facts: OnnxFacts,
    pub(super) header: OnnxHeader,
}

/// The entries of a tensor that say where its data is.
#[derive(Debug, Default)]
struct External {
    locations: Vec<String>,
    offset: Option<String>,
    length: Option<String>,
}

impl<R: Read + io::Seek> Scanner<R> {
    pub(super) fn new(file: R) -> Self {
        Self {
            wire: Wire::new(file),
            external_names: 0,
            values: 0,
            narrow: NarrowConstants::default(),
            facts: OnnxFacts::default(),
            header: OnnxHeader::default(),
        }
    }

    pub(super) fn message(&mut self, message: Message, end: u64, depth: usize) -> Result<(), ScanError> {
        if depth > MAX_DEPTH {
            return Err(ScanError::TooDeep);
        }
        let mut external = External::default();
        let (mut data_type, mut data, mut raw) = (0, 0, 0);
        while let Some((field, value)) = self.wire.field(end)? {
            let field_end = match value {
                WireField::Bytes(field_end) => field_end,
                WireField::Number(number) => {
                    match (message, field) {
                        (Message::Model, 1) => self.header.ir_version = number,
                        (Message::Tensor, 2) => data_type = number,
                        _ => {}
                    }
                    continue;
                }
                WireField::Fixed32(_) | WireField::Fixed64(_) => continue,
            };
            // `int32_data`, which also holds narrow types, and `raw_data`.
            if let (Message::Tensor, 5 | 9) = (message, field) {
                data += field_end - self.wire.position;
            }
            if let (Message::Tensor, 9) = (message, field) {
                raw += field_end - self.wire.position;
            }
            match content(message, field) {
                FieldContent::Message(inner) => self.message(inner, field_end, depth + 1)?,
                FieldContent::OperatorName => {
                    let name = self.wire.string(field_end)?;
                    self.facts.has_trees |= name.starts_with("TreeEnsemble");
                    self.facts.has_unbounded_work |= UNBOUNDED.contains(&name.as_str());
                    self.facts.has_data_sizes |= DATA_SIZES.contains(&name.as_str());
                    self.header.add_operator(&name);
                }
                FieldContent::Producer => self.header.producer = self.shown(field_end)?,
                FieldContent::ProducerVersion => self.header.producer_version = self.shown(field_end)?,
                FieldContent::OperatorSet => self.operator_set(field_end)?,
                FieldContent::ExternalEntry => self.external_entry(field_end, &mut external)?,
                FieldContent::InputOrOutput => {
                    self.values += 1;
                    if self.values > MAX_VALUES {
                        return Err(ScanError::TooManyValues);
                    }
                    self.wire.skip_to(field_end)?;
                }
                FieldContent::Skipped => self.wire.skip_to(field_end)?,
            }
        }
        if data_type != 0 {
            let external_bytes = external.length.as_deref().and_then(|length| length.parse().ok());
            self.narrow.add(data_type, external_bytes.unwrap_or(data));
            let bytes = external_bytes.unwrap_or(raw);
            self.facts.largest = self.facts.largest.max(bytes);
            if bytes >= LARGE_CONSTANT {
                self.facts.large = self.facts.large.saturating_add(bytes);
            }
        }
        self.add_external(external)
    }

    /// Reads a `StringStringEntryProto`: key 1, value 2. The key `location` names a file.
    fn external_entry(&mut self, end: u64, external: &mut External) -> Result<(), ScanError> {
        let (mut key, mut value) = (String::new(), String::new());
        while self.wire.position < end {
            let (field, wire_type) = self.wire.tag(end)?;
            if wire_type != 2 {
                return Err(self.wire.malformed("an external data entry that is not text"));
            }
            let text_end = self.wire.text_end(end)?;
            match field {
                1 => key = self.wire.string(text_end)?,
                2 => value = self.wire.string(text_end)?,
                _ => self.wire.skip_to(text_end)?,
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

    /// Records where the data of a tensor is. If it has several locations, all of them count,
    /// because it is unknown which one ONNX Runtime uses.
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
                Some(Err(_)) => Err(ScanError::InvalidNumber {
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

    /// Reads an `OperatorSetIdProto`: domain 1, version 2.
    fn operator_set(&mut self, end: u64) -> Result<(), ScanError> {
        let (mut domain, mut version) = (String::new(), 0);
        while let Some((field, value)) = self.wire.field(end)? {
            match (field, value) {
                (1, WireField::Bytes(text_end)) => domain = self.shown(text_end)?,
                (2, WireField::Number(number)) => version = number,
                (_, value) => self.wire.skip(&value)?,
            }
        }
        self.header.add_opset(domain, version);
        Ok(())
    }

    /// Reads a text that is only displayed; a long one is cut off.
    fn shown(&mut self, end: u64) -> Result<String, ScanError> {
        const MAX_SHOWN: u64 = 200;
        let text = self.wire.string(end.min(self.wire.position + MAX_SHOWN))?;
        self.wire.skip_to(end)?;
        Ok(text)
    }
}

/// Cuts a text off for a message.
fn brief(text: &str) -> String {
    text.chars().take(100).collect()
}
