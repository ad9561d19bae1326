//! Writes answers as JSON: a document, or a line for each record.

use super::numbers::{FLOAT_BYTES, JSON, Number, write_elements, write_list};
use super::{Answer, Body, Entity, Features, Fill, Form, Ranked, Span, ZeroShot, allocate};
use crate::task::TaskError;

impl Answer {
    /// Writes the answer as one document: the answer to the record if the request held a single
    /// one, else a list.
    pub fn to_json(&self, form: Form) -> Result<Vec<u8>, TaskError> {
        let mut out = allocate(self.json_bytes())?;
        let records = self.records();
        // The pipeline for texts always puts a list around its single label.
        let is_flat = matches!(self.body, Body::Labels { is_flat: true, .. });
        let is_all = matches!(self.body, Body::Similarities(_) | Body::Ranking(_));
        let is_one = form == Form::One && records == 1 && !is_flat;
        if is_one || is_all {
            self.write_json(0, &mut out)?;
            return Ok(out);
        }
        out.push(b'[');
        for record in 0..records {
            if record > 0 {
                out.push(b',');
            }
            self.write_json(record, &mut out)?;
        }
        out.push(b']');
        Ok(out)
    }

    /// Writes the answer as JSON Lines: a line for each record.
    pub fn to_json_lines(&self) -> Result<Vec<u8>, TaskError> {
        let mut out = allocate(self.json_bytes())?;
        for record in 0..self.records() {
            self.write_json(record, &mut out)?;
            out.push(b'\n');
        }
        Ok(out)
    }

    /// Estimates the bytes of the answer as JSON; an upper bound for large arrays of numbers.
    pub fn json_bytes(&self) -> usize {
        let each = match &self.body {
            Body::Features(features) => features.tensor.len().saturating_mul(FLOAT_BYTES),
            Body::Embeddings(embeddings) => embeddings.tensor().len().saturating_mul(FLOAT_BYTES),
            Body::Similarities(numbers) | Body::Scores(numbers) => numbers.len().saturating_mul(FLOAT_BYTES),
            Body::Ranking(ranked) => ranked.len().saturating_mul(48),
            Body::Labels { records, .. } => records.iter().map(|labels| labels.len().saturating_mul(64)).sum(),
            Body::Boxes(records) => records.iter().map(|boxes| boxes.len().saturating_mul(120)).sum(),
            Body::ClassMaps(_) | Body::Entities(_) | Body::Fills(_) | Body::ZeroShot(_) | Body::Spans(_) => 256,
        };
        each.saturating_add(self.records().saturating_mul(4)).saturating_add(16)
    }

    fn write_json(&self, record: usize, out: &mut Vec<u8>) -> Result<(), TaskError> {
        match &self.body {
            Body::Labels { records, is_flat } => {
                let write = |scored: &super::Scored, out: &mut Vec<u8>| {
                    self.write_label(scored.class, out);
                    member(b"score", out);
                    scored.score.write(&JSON, out);
                    out.push(b'}');
                };
                let scored = &records[record];
                match (is_flat, scored.as_slice()) {
                    (true, [best]) => write(best, out),
                    (true, []) => out.extend_from_slice(b"{}"),
                    _ => list(scored, out, write),
                }
            }
            Body::Boxes(records) => list(&records[record], out, |found, out| {
                out.extend_from_slice(b"{\"score\":");
                found.score.write(&JSON, out);
                member(b"label", out);
                string(&self.labels.name(found.class), out);
                for (i, (name, number)) in ["xmin", "ymin", "xmax", "ymax"].iter().zip(found.corners).enumerate() {
                    match i {
                        0 => out.extend_from_slice(b",\"box\":{\""),
                        _ => out.extend_from_slice(b",\""),
                    }
                    out.extend_from_slice(name.as_bytes());
                    out.extend_from_slice(b"\":");
                    number.write(&JSON, out);
                }
                out.extend_from_slice(b"}}");
            }),
            Body::ClassMaps(records) => records[record].write_json(&self.labels, out)?,
            Body::Entities(records) => list(&records[record], out, write_entity),
            Body::Features(features) => write_features(features, record, out),
            Body::Embeddings(embeddings) => {
                out.push(b'[');
                write_list(embeddings.rows().nth(record).unwrap_or_default(), &JSON, out);
                out.push(b']');
            }
            Body::Similarities(numbers) => {
                out.push(b'[');
                write_list(numbers, &JSON, out);
                out.push(b']');
            }
            Body::Scores(scores) => scores[record].write(&JSON, out),
            Body::Ranking(ranked) => list(ranked, out, write_ranked),
            Body::Fills(records) => match records[record].as_slice() {
                [single] => list(single, out, write_fill),
                several => list(several, out, |one, out| list(one, out, write_fill)),
            },
            Body::ZeroShot(records) => write_zero_shot(&records[record], out),
            Body::Spans(records) => match records[record].as_slice() {
                [single] => write_span(single, out),
                several => list(several, out, write_span),
            },
        }
        Ok(())
    }

    /// Writes the start of an object, up to its label.
    fn write_label(&self, class: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"label\":");
        string(&self.labels.name(class), out);
    }
}

pub(super) fn string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing a string to memory cannot fail");
}

fn member(name: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name);
    out.extend_from_slice(b"\":");
}

fn list<T>(items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

fn write_entity(entity: &Entity, out: &mut Vec<u8>) {
    match entity.is_group {
        true => out.extend_from_slice(b"{\"entity_group\":"),
        false => out.extend_from_slice(b"{\"entity\":"),
    }
    string(&entity.label, out);
    member(b"score", out);
    entity.score.write(&JSON, out);
    if let Some(index) = entity.index {
        member(b"index", out);
        index.write(&JSON, out);
    }
    member(b"word", out);
    string(&entity.word, out);
    member(b"start", out);
    entity.start.write(&JSON, out);
    member(b"end", out);
    entity.end.write(&JSON, out);
    out.push(b'}');
}

/// Writes the part of a tensor for a record, with an axis of size 1 around it.
fn write_features(features: &Features, record: usize, out: &mut Vec<u8>) {
    let Some((_, inner)) = features.tensor.shape().split_first() else {
        return;
    };
    let width: usize = inner.iter().product();
    out.push(b'[');
    match (&features.kept, inner) {
        (Some(kept), &[_, numbers]) => {
            out.push(b'[');
            for (i, entry) in kept.get(record).into_iter().flatten().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                let start = record * width + entry * numbers;
                out.push(b'[');
                write_elements(&features.tensor, start..start + numbers, &JSON, out);
                out.push(b']');
            }
            out.push(b']');
        }
        _ => write_nested(features, inner, record * width, out),
    }
    out.push(b']');
}

fn write_nested(features: &Features, shape: &[usize], start: usize, out: &mut Vec<u8>) {
    out.push(b'[');
    if let Some((&count, inner)) = shape.split_first() {
        if inner.is_empty() {
            write_elements(&features.tensor, start..start + count, &JSON, out);
        } else {
            let width: usize = inner.iter().product();
            for entry in 0..count {
                if entry > 0 {
                    out.push(b',');
                }
                write_nested(features, inner, start + entry * width, out);
            }
        }
    }
    out.push(b']');
}

fn write_ranked(ranked: &Ranked, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"index\":");
    ranked.index.write(&JSON, out);
    member(b"score", out);
    ranked.score.write(&JSON, out);
    if let Some(text) = &ranked.text {
        member(b"text", out);
        string(text, out);
    }
    out.push(b'}');
}

fn write_fill(fill: &Fill, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"score\":");
    fill.score.write(&JSON, out);
    member(b"token", out);
    fill.token.write(&JSON, out);
    member(b"token_str", out);
    string(&fill.token_text, out);
    member(b"sequence", out);
    string(&fill.sequence, out);
    out.push(b'}');
}

fn write_zero_shot(answer: &ZeroShot, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"sequence\":");
    string(&answer.sequence, out);
    member(b"labels", out);
    list(&answer.labels, out, |label, out| string(label, out));
    member(b"scores", out);
    out.push(b'[');
    write_list(&answer.scores, &JSON, out);
    out.extend_from_slice(b"]}");
}

fn write_span(span: &Span, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"score\":");
    span.score.write(&JSON, out);
    member(b"start", out);
    span.start.write(&JSON, out);
    member(b"end", out);
    span.end.write(&JSON, out);
    member(b"answer", out);
    string(&span.answer, out);
    out.push(b'}');
}
