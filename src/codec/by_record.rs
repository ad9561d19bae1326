//! Splits outputs by the records of a request, for responses with a part per record.
//!
//! The part of a record is one entry of each output ([`OutputRows::PerRecord`]), or the whole
//! output of a run for this record alone. Every request compares the number of entries with the
//! number of records: an output is never split if the two differ.

use crate::codec::values::{value_bytes, write_key, write_row, write_value};
use crate::tensor::{OutputRows, OutputSpec, Records, Value};

/// The relation between the outputs of a request's runs and its records.
pub(super) enum RecordDivision<'a> {
    ByRecord(ByRecord<'a>),
    /// The outputs of one run belong to all `records` records together.
    Whole {
        records: usize,
    },
}

/// The outputs of each record.
pub(super) struct ByRecord<'a> {
    columns: Vec<OutputColumn<'a>>,
    runs: &'a [Vec<Value>],
    count: usize,
    /// Whether one run served all records. False for a single record.
    is_joint: bool,
}

struct OutputColumn<'a> {
    spec: &'a OutputSpec,
    /// The name as JSON, followed by the colon.
    key: Vec<u8>,
    is_whole: bool,
}

/// The part of an output that belongs to one record.
pub(super) enum RecordPart<'a> {
    Entry(&'a Value, usize),
    Whole(&'a Value),
}

/// Whether every output has one entry for each of `count` records.
pub(super) fn has_entries<'a>(mut outputs: impl Iterator<Item = &'a Value>, count: usize) -> bool {
    outputs.all(|output| output.entries() == Some(count))
}

/// Splits the outputs of `runs`: one run for all records, or one for each. Each run has a value for
/// each of `specs`.
pub(super) fn divide<'a>(specs: &[&'a OutputSpec], records: Records, runs: &'a [Vec<Value>]) -> RecordDivision<'a> {
    let count = match records {
        Records::Separable(count) | Records::Together(count) => count,
        Records::One => return RecordDivision::Whole { records: 1 },
    };
    let is_joint = runs.len() == 1 && count != 1;
    if !is_joint && runs.len() != count {
        return RecordDivision::Whole { records: count };
    }
    let entries = if is_joint { count } else { 1 };
    let columns: Vec<OutputColumn<'a>> = specs
        .iter()
        .enumerate()
        .map(|(index, &spec)| {
            let values = runs.iter().filter_map(|run| run.get(index));
            OutputColumn::new(spec, spec.rows == OutputRows::Whole || !has_entries(values, entries))
        })
        .collect();
    if is_joint && columns.iter().any(|column| column.is_whole) {
        return RecordDivision::Whole { records: count };
    }
    RecordDivision::ByRecord(ByRecord {
        columns,
        runs,
        count,
        is_joint,
    })
}

impl<'a> OutputColumn<'a> {
    fn new(spec: &'a OutputSpec, is_whole: bool) -> Self {
        let mut key = Vec::with_capacity(spec.name.len() + 3);
        write_key(&spec.name, &mut key);
        Self { spec, key, is_whole }
    }
}

impl<'a> ByRecord<'a> {
    /// Treats the outputs of one run as those of one record.
    pub fn one(specs: &[&'a OutputSpec], runs: &'a [Vec<Value>]) -> Self {
        Self {
            columns: specs.iter().map(|&spec| OutputColumn::new(spec, true)).collect(),
            runs,
            count: runs.len().min(1),
            is_joint: false,
        }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// The value of the only output, if one value holds the entries of all records.
    pub fn only_value(&self) -> Option<&'a Value> {
        match (self.columns.as_slice(), self.runs) {
            ([only], [run]) if !only.is_whole => run.first(),
            _ => None,
        }
    }

    /// The part of each output that belongs to a record.
    pub fn parts(&self, record: usize) -> impl Iterator<Item = (&'a OutputSpec, RecordPart<'a>)> {
        let (run, entry) = if self.is_joint { (0, record) } else { (record, 0) };
        let values = self.runs[run].iter();
        self.columns.iter().zip(values).map(move |(column, value)| {
            let part = if column.is_whole {
                RecordPart::Whole(value)
            } else {
                RecordPart::Entry(value, entry)
            };
            (column.spec, part)
        })
    }

    /// Writes a record as JSON: the value of a single output, or an object by output name.
    pub fn write_json(&self, record: usize, out: &mut Vec<u8>) {
        if let [_] = self.columns.as_slice() {
            self.parts(record).for_each(|(_, part)| part.write_json(out));
            return;
        }
        out.push(b'{');
        for (index, ((_, part), column)) in self.parts(record).zip(&self.columns).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&column.key);
            part.write_json(out);
        }
        out.push(b'}');
    }

    /// Estimates the size of all records as JSON, as
    /// [`json_bytes`](crate::codec::values::json_bytes).
    pub fn json_bytes(&self) -> usize {
        let keys = self.columns.iter().map(|column| column.key.len() + 1);
        let record = keys.fold(3, usize::saturating_add);
        let values = self.runs.iter().flatten().map(value_bytes);
        values.fold(self.count.saturating_mul(record), usize::saturating_add)
    }
}

impl RecordPart<'_> {
    fn write_json(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Entry(value, entry) => write_row(value, entry, out),
            Self::Whole(value) => write_value(value, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::testing::{output, tensor};
    use crate::tensor::DataType;

    /// The records as JSON, or the number of records of an output that cannot be split.
    fn divided(rows: OutputRows, records: Records, entries: &[usize]) -> Result<Vec<String>, usize> {
        let spec = OutputSpec {
            rows,
            ..output("y", DataType::I64, &[-1])
        };
        let runs: Vec<Vec<Value>> = entries
            .iter()
            .enumerate()
            .map(|(run, &entries)| {
                let values: Vec<i64> = (0..entries as i64).map(|entry| 10 * run as i64 + entry).collect();
                vec![Value::Tensor(tensor(&[entries], &values))]
            })
            .collect();
        match divide(&[&spec], records, &runs) {
            RecordDivision::Whole { records } => Err(records),
            RecordDivision::ByRecord(by_record) => Ok((0..by_record.count())
                .map(|record| {
                    let mut out = Vec::new();
                    by_record.write_json(record, &mut out);
                    String::from_utf8(out).unwrap()
                })
                .collect()),
        }
    }

    #[test]
    fn splits_entries_by_record_only_if_there_is_one_per_record() {
        use OutputRows::{PerRecord, Whole};
        use Records::{One, Separable, Together};
        type Case<'a> = (OutputRows, Records, &'a [usize], Result<&'a [&'a str], usize>);
        let table: [Case<'_>; 17] = [
            (PerRecord, Separable(3), &[3], Ok(&["0", "1", "2"])),
            (PerRecord, Separable(1), &[1], Ok(&["0"])),
            (PerRecord, Separable(0), &[0], Ok(&[])),
            // The number of entries differs from what the model was known to return.
            (PerRecord, Separable(1), &[2], Ok(&["[0,1]"])),
            (PerRecord, Separable(1), &[0], Ok(&["[]"])),
            (PerRecord, Separable(2), &[3], Err(2)),
            // Each record had its own run.
            (PerRecord, Separable(2), &[1, 1], Ok(&["0", "10"])),
            (PerRecord, Separable(2), &[1, 0], Ok(&["[0]", "[]"])),
            (Whole, Separable(2), &[1, 2], Ok(&["[0]", "[10,11]"])),
            (Whole, Separable(1), &[1], Ok(&["[0]"])),
            (Whole, Separable(0), &[], Ok(&[])),
            // The numbers are equal by chance.
            (Whole, Separable(2), &[2], Err(2)),
            (PerRecord, Together(3), &[3], Ok(&["0", "1", "2"])),
            (PerRecord, Together(3), &[2], Err(3)),
            (Whole, Together(3), &[3], Err(3)),
            (PerRecord, One, &[1], Err(1)),
            (Whole, One, &[3], Err(1)),
        ];
        for (rows, records, entries, expected) in table {
            let expected = expected.map(|lines| lines.iter().map(ToString::to_string).collect());
            assert_eq!(
                divided(rows, records, entries),
                expected,
                "{rows:?} {records:?} {entries:?}"
            );
        }
    }
}
