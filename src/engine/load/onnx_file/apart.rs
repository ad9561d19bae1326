//! Moves the large constants of an ONNX file to a file of their own, as exporters of large models
//! write them.
//!
//! ONNX Runtime reads a model file into memory as a whole, parses it into a second copy, and makes
//! a third one for the session. Constants in another file are mapped instead. Measured for a model
//! of 46 MB: to optimise and to write it takes 62 MB instead of 186, and half of the time.
//!
//! Only what is simple to move is moved: raw data of constants of the main graph. Everything else
//! stays, byte for byte. The result means the same to every reader of ONNX.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use super::ScanError;
use super::message::append;
use super::placed::{MOST_CONSTANTS, MOST_GRAPH, Place, append_place};
use super::schema::number::{
    GRAPH_INITIALIZER, MODEL_GRAPH, TENSOR_DATA_LOCATION, TENSOR_EXTERNAL_DATA, TENSOR_RAW_DATA,
};
use super::wire::{Wire, WireField};

/// Positions of constants in the new file are multiples of this.
const ALIGNMENT: u64 = 4096;

/// Bytes that are copied at a time.
const PIECE: usize = 256 << 10;

/// The constants to move, and the place of the main graph.
#[derive(Debug, Default)]
pub struct LargeConstants {
    /// The field of the main graph, and the content of it.
    graph: Range,
    graph_content: Range,
    /// In the order of the file.
    tensors: Vec<LargeTensor>,
    length: u64,
}

/// Bytes of the model file from `start` to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Range {
    start: u64,
    end: u64,
}

#[derive(Debug)]
struct LargeTensor {
    /// The field in the graph.
    field: Range,
    /// The content of the field.
    content: Range,
    /// The field of the raw data, and the data.
    raw: Range,
    data: Range,
}

impl Range {
    fn bytes(self) -> u64 {
        self.end - self.start
    }
}

impl LargeConstants {
    /// Finds the constants of at least `bound` bytes in `model`, whose position must be at its
    /// start. `None` if there are none or too many, or if too much else is left.
    pub fn find(model: &File, bound: u64) -> Result<Option<Self>, ScanError> {
        let length = model.metadata()?.len();
        let mut wire = Wire::new(model);
        let mut found = Self {
            length,
            ..Self::default()
        };
        loop {
            let start = wire.position;
            let Some((number, value)) = wire.field(length)? else {
                break;
            };
            let (MODEL_GRAPH, WireField::Bytes(end)) = (number, &value) else {
                wire.skip(&value)?;
                continue;
            };
            // A second graph would be merged with the first.
            if found.graph.end != 0 {
                return Ok(None);
            }
            let (content, end) = (wire.position, *end);
            found.graph = Range { start, end };
            found.graph_content = Range { start: content, end };
            found.find_in_graph(&mut wire, end, bound)?;
        }
        let moved: u64 = found.tensors.iter().map(|tensor| tensor.data.bytes()).sum();
        let is_small = length - moved <= MOST_GRAPH && found.tensors.len() <= MOST_CONSTANTS;
        Ok((moved > 0 && is_small).then_some(found))
    }

    fn find_in_graph(&mut self, wire: &mut Wire<&File>, end: u64, bound: u64) -> Result<(), ScanError> {
        loop {
            let start = wire.position;
            let Some((number, value)) = wire.field(end)? else {
                return Ok(());
            };
            let (GRAPH_INITIALIZER, WireField::Bytes(field_end)) = (number, &value) else {
                wire.skip(&value)?;
                continue;
            };
            let (content, field_end) = (wire.position, *field_end);
            let (mut raw, mut is_simple) = (None, true);
            loop {
                let start = wire.position;
                let Some((number, value)) = wire.field(field_end)? else {
                    break;
                };
                match (number, &value) {
                    (TENSOR_RAW_DATA, WireField::Bytes(data_end)) => {
                        is_simple &= raw.is_none();
                        let end = *data_end;
                        let data = Range {
                            start: wire.position,
                            end,
                        };
                        raw = Some((Range { start, end }, data));
                    }
                    // Its data is in another file, or says where it is.
                    (TENSOR_EXTERNAL_DATA | TENSOR_DATA_LOCATION, _) => is_simple = false,
                    _ => {}
                }
                wire.skip(&value)?;
            }
            if let Some((raw, data)) = raw
                && is_simple
                && data.bytes() >= bound
            {
                self.tensors.push(LargeTensor {
                    field: Range { start, end: field_end },
                    content: Range {
                        start: content,
                        end: field_end,
                    },
                    raw,
                    data,
                });
            }
        }
    }

    /// Writes the data to `data`, whose name is `name`, and the rest of `model` to `graph`.
    pub fn move_to(&self, model: &File, graph: &mut impl Write, data: &mut impl Write, name: &str) -> io::Result<()> {
        let mut content = Vec::new();
        let (mut position, mut offset) = (self.graph_content.start, 0u64);
        for tensor in &self.tensors {
            let aligned = offset.next_multiple_of(ALIGNMENT);
            data.write_all(&vec![0; usize::try_from(aligned - offset).unwrap_or(0)])?;
            copy(model, tensor.data, data)?;
            copy(model, between(position, tensor.field.start), &mut content)?;
            let mut moved = Vec::new();
            copy(model, between(tensor.content.start, tensor.raw.start), &mut moved)?;
            copy(model, between(tensor.raw.end, tensor.content.end), &mut moved)?;
            let place = Place {
                file: name.to_owned(),
                offset: aligned,
                bytes: tensor.data.bytes(),
            };
            append_place(&mut moved, &place);
            append(&mut content, GRAPH_INITIALIZER, &moved);
            position = tensor.field.end;
            offset = aligned + place.bytes;
        }
        copy(model, between(position, self.graph_content.end), &mut content)?;
        copy(model, between(0, self.graph.start), graph)?;
        let mut field = Vec::new();
        append(&mut field, MODEL_GRAPH, &content);
        graph.write_all(&field)?;
        copy(model, between(self.graph.end, self.length), graph)
    }
}

fn between(start: u64, end: u64) -> Range {
    Range { start, end }
}

/// Copies a part of `from`, piece by piece.
fn copy(from: &File, part: Range, to: &mut impl Write) -> io::Result<()> {
    let mut piece = vec![0; usize::try_from(part.bytes()).map_or(PIECE, |bytes| bytes.min(PIECE))];
    let mut position = part.start;
    while position < part.end {
        let length = usize::try_from(part.end - position).map_or(piece.len(), |left| left.min(piece.len()));
        from.read_exact_at(&mut piece[..length], position)?;
        to.write_all(&piece[..length])?;
        position += length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use super::super::placed::{PlacedConstant, placed_constants, with_places};
    use super::*;

    const BOUND: u64 = 1000;

    fn tensor(name: &str, bytes: usize, fill: u8) -> Vec<u8> {
        let mut tensor = vec![0x08, 0x05, 0x10, 0x01];
        append(&mut tensor, 9, &vec![fill; bytes]);
        append(&mut tensor, 8, name.as_bytes());
        tensor
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    fn moved(model: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let file = file(model);
        let found = LargeConstants::find(&file, BOUND).unwrap()?;
        let (mut graph, mut data) = (Vec::new(), Vec::new());
        found.move_to(&file, &mut graph, &mut data, "data").unwrap();
        Some((graph, data))
    }

    /// A model with these fields of the graph, and with fields before and after it.
    fn model(graph: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let mut content = Vec::new();
        for (number, field) in graph {
            append(&mut content, *number, field);
        }
        let mut model = vec![0x08, 0x09];
        append(&mut model, 7, &content);
        append(&mut model, 8, &[0x10, 0x11]);
        model
    }

    #[test]
    fn large_constants_move_to_pages_of_the_other_file_and_the_rest_stays() {
        let before = model(&[
            (10, b"a text".to_vec()),
            (5, tensor("large", 5000, 1)),
            (5, tensor("small", 999, 2)),
            (2, b"name".to_vec()),
            (5, tensor("other", 1000, 3)),
            (11, b"an input".to_vec()),
        ]);
        let (graph, data) = moved(&before).unwrap();
        let constant = |name: &str, offset, bytes| PlacedConstant {
            name: name.to_owned(),
            data_type: 1,
            dims: vec![5],
            place: Place {
                file: "data".to_owned(),
                offset,
                bytes,
            },
        };
        let found = placed_constants(&graph).unwrap();
        assert_eq!(found, [constant("large", 0, 5000), constant("other", 8192, 1000)]);
        assert_eq!(data.len(), 9192);
        assert!(data[..5000].iter().all(|&byte| byte == 1) && data[8192..].iter().all(|&byte| byte == 3));
        assert!(graph.len() < 1300, "{}", graph.len());
        for kept in [
            &b"a text"[..],
            b"name",
            b"an input",
            b"small",
            &[0x42, 0x02, 0x10, 0x11],
        ] {
            assert!(graph.windows(kept.len()).any(|window| window == kept), "{kept:?}");
        }
        // The rest is a valid message: rewriting it changes nothing.
        assert_eq!(with_places(&graph, |_| None).unwrap(), graph);
    }

    #[test]
    fn what_is_not_simple_stays_in_the_file() {
        let mut external = tensor("external", 5000, 1);
        append(&mut external, 13, b"");
        let mut twice = tensor("twice", 5000, 1);
        append(&mut twice, 9, &[1; 5000]);
        for constant in [external, twice, tensor("small", 999, 1)] {
            assert_eq!(moved(&model(&[(5, constant)])), None);
        }
        // Two graphs, which a parser merges.
        let one = model(&[(5, tensor("large", 5000, 1))]);
        assert!(moved(&one).is_some());
        assert_eq!(moved(&[one.clone(), one].concat()), None);
        assert_eq!(moved(b""), None);
    }

    #[test]
    fn truncated_files_are_errors() {
        let whole = model(&[(5, tensor("large", 5000, 1))]);
        for length in (3..whole.len() - 4).step_by(97) {
            assert!(
                LargeConstants::find(&file(&whole[..length]), BOUND).is_err(),
                "{length}"
            );
        }
    }
}
