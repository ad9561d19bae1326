//! Writes answers as CSV: a line for each record.

use super::numbers::{CELL, Number, write_elements, write_list};
use super::{Answer, Body, allocate};
use crate::task::TaskError;

impl Answer {
    /// Writes the answer as CSV, where a record is a row of cells.
    ///
    /// | answer | cells |
    /// |---|---|
    /// | labels | `label,score`, best first |
    /// | embeddings | the numbers |
    /// | similarities, scores | a number on each line |
    /// | ranking | `index,score` on each line |
    /// | one span | `score,start,end,answer` |
    pub fn to_csv(&self) -> Result<Vec<u8>, TaskError> {
        let mut out = allocate(self.json_bytes())?;
        let nested = |problem| Err(self.cannot_carry("text/csv", problem));
        match &self.body {
            Body::Labels { records, .. } => {
                for record in records {
                    for (i, scored) in record.iter().enumerate() {
                        comma(i, &mut out);
                        cell(&self.labels.name(scored.class), &mut out);
                        out.push(b',');
                        scored.score.write(&CELL, &mut out);
                    }
                    out.push(b'\n');
                }
            }
            Body::Embeddings(embeddings) => {
                for row in embeddings.rows() {
                    write_list(row, &CELL, &mut out);
                    out.push(b'\n');
                }
            }
            Body::Features(features) => {
                let shape = features.tensor.shape();
                let &[records, width] = shape else {
                    return nested("a record is an array with several axes; accept application/json");
                };
                for record in 0..records {
                    write_elements(&features.tensor, record * width..(record + 1) * width, &CELL, &mut out);
                    out.push(b'\n');
                }
            }
            Body::Similarities(numbers) | Body::Scores(numbers) => {
                for number in numbers {
                    number.write(&CELL, &mut out);
                    out.push(b'\n');
                }
            }
            Body::Ranking(ranked) => {
                for text in ranked {
                    text.index.write(&CELL, &mut out);
                    out.push(b',');
                    text.score.write(&CELL, &mut out);
                    out.push(b'\n');
                }
            }
            Body::ZeroShot(records) => {
                for record in records {
                    for (i, (label, score)) in record.labels.iter().zip(&record.scores).enumerate() {
                        comma(i, &mut out);
                        cell(label, &mut out);
                        out.push(b',');
                        score.write(&CELL, &mut out);
                    }
                    out.push(b'\n');
                }
            }
            Body::Spans(records) => {
                for record in records {
                    let [span] = record.as_slice() else {
                        return nested("a question has several answers; set top_k to 1, or accept application/json");
                    };
                    span.score.write(&CELL, &mut out);
                    for place in [span.start, span.end] {
                        out.push(b',');
                        place.write(&CELL, &mut out);
                    }
                    out.push(b',');
                    cell(&span.answer, &mut out);
                    out.push(b'\n');
                }
            }
            Body::Boxes(_) => return nested("an image has any number of boxes; accept application/json"),
            Body::ClassMaps(_) => return nested("a record is an image; accept image/png or application/json"),
            Body::Entities(_) => return nested("a text has any number of entities; accept application/json"),
            Body::Fills(_) => return nested("a text has several tokens for each mask; accept application/json"),
        }
        Ok(out)
    }
}

fn comma(i: usize, out: &mut Vec<u8>) {
    if i > 0 {
        out.push(b',');
    }
}

/// Writes text, in quotes if it contains special characters.
fn cell(text: &str, out: &mut Vec<u8>) {
    let is_special = |byte: u8| matches!(byte, b',' | b'"' | b'\n' | b'\r');
    if !text.is_empty() && !text.bytes().any(is_special) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}
