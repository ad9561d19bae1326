use proptest::prelude::*;

use super::wire::{put_bytes, put_varint};
use super::*;
use crate::codec::testing::{decode, identity, input, output, signature, strings, tensor};
use crate::codec::{Documents, encode as encode_reply, negotiate};
use crate::tensor::{Signature, Tensor, Value};

const TYPE: &str = "application/x-recordio-protobuf";

fn frame(record: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_le_bytes().to_vec();
    out.extend((record.len() as u32).to_le_bytes());
    out.extend(record);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// A record with one entry in the map that is field number `map`.
fn entry_of(map: u32, name: &str, value: &[u8]) -> Vec<u8> {
    let (mut entry, mut record) = (Vec::new(), Vec::new());
    put_bytes(ENTRY_KEY, name.as_bytes(), &mut entry);
    put_bytes(ENTRY_VALUE, value, &mut entry);
    put_bytes(map, &entry, &mut record);
    record
}

/// The message `Value` of floats, sparse if there are keys.
fn floats(values: &[f32], keys: &[u64], shape: &[u64]) -> Vec<u8> {
    let packed: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let (mut content, mut message) = (Vec::new(), Vec::new());
    put_bytes(TENSOR_VALUES, &packed, &mut content);
    for (field, numbers) in [(TENSOR_KEYS, keys), (TENSOR_SHAPE, shape)] {
        if !numbers.is_empty() {
            let mut packed = Vec::new();
            numbers.iter().for_each(|&number| put_varint(number, &mut packed));
            put_bytes(field, &packed, &mut content);
        }
    }
    put_bytes(VALUE_FLOAT32, &content, &mut message);
    message
}

fn dense(values: &[f32]) -> Vec<u8> {
    frame(&entry_of(RECORD_FEATURES, "values", &floats(values, &[], &[])))
}

fn sparse(values: &[f32], keys: &[u64], width: u64) -> Vec<u8> {
    frame(&entry_of(RECORD_FEATURES, "values", &floats(values, keys, &[width])))
}

fn three() -> Signature {
    signature(
        &[input("x", DataType::F32, &[-1, 3])],
        &[output("y", DataType::F32, &[-1, 3])],
    )
}

fn read(body: Vec<u8>, signature: &Signature) -> Result<Vec<Tensor>, DecodeError> {
    decode(TYPE, body.into(), signature).map(|request| request.inputs)
}

#[test]
fn dense_and_sparse_records_are_rows() {
    let expected = [tensor(&[2, 3], &[1f32, 2., 3., 0., 5., 0.])];
    let table = [
        [dense(&[1., 2., 3.]), dense(&[0., 5., 0.])].concat(),
        [dense(&[1., 2., 3.]), sparse(&[5.], &[1], 3)].concat(),
        [sparse(&[3., 2., 1.], &[2, 1, 0], 3), sparse(&[5.], &[1], 3)].concat(),
    ];
    for body in table {
        assert_eq!(read(body, &three()).unwrap(), expected);
    }
    // A row of zeros consists of a shape alone.
    assert_eq!(
        read(sparse(&[], &[], 3), &three()).unwrap(),
        [tensor(&[1, 3], &[0f32; 3])]
    );
    let mut unknown = entry_of(RECORD_FEATURES, "values", &floats(&[1., 2., 3.], &[], &[]));
    put_bytes(14, b"a field that is not known", &mut unknown);
    assert_eq!(
        read(frame(&unknown), &three()).unwrap(),
        [tensor(&[1, 3], &[1f32, 2., 3.])]
    );
}

#[test]
fn features_are_assigned_to_inputs_by_name() {
    let signature = signature(
        &[input("a", DataType::F32, &[-1, 2]), input("b", DataType::F64, &[-1])],
        &[],
    );
    let mut record = entry_of(RECORD_FEATURES, "b", &floats(&[7.], &[], &[]));
    record.extend(entry_of(RECORD_FEATURES, "a", &floats(&[1., 2.], &[], &[])));
    let expected = [tensor(&[1, 2], &[1f32, 2.]), tensor(&[1], &[7f64])];
    assert_eq!(read(frame(&record), &signature).unwrap(), expected);
}

#[test]
fn refuses_malformed_records_and_names_their_number() {
    let cut = |mut body: Vec<u8>, length: usize| {
        body.truncate(length);
        body
    };
    let good = dense(&[1., 2., 3.]);
    let magic = [&[0u8; 4][..], &good[4..]].concat();
    let mut parts = good.clone();
    parts[7] = 0x20;
    let wide = sparse(&[1.], &[0], 1_000_000_000);
    let table = [
        (magic, "RecordIO's magic number"),
        (cut(good.clone(), 6), "in the middle of a record"),
        (cut(good.clone(), good.len() - 8), "in the middle of a record"),
        (parts, "split into parts"),
        (
            [good, dense(&[1., 2.])].concat(),
            "record 1 has 2 values where 3 are expected",
        ),
        (sparse(&[1.], &[3], 3), "the key 3"),
        (sparse(&[1., 2.], &[1, 1], 3), "two values for one element"),
        (sparse(&[1., 2.], &[1], 3), "2 values for 1 keys"),
        ([wide.clone(), wide].concat(), ""),
        (frame(&[]), "it has no features"),
    ];
    for (body, expected) in table {
        let error = read(body, &three()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_response_has_the_outputs_as_labels_and_can_be_read_as_a_request() {
    let signature = three();
    let asked = decode(
        TYPE,
        [dense(&[1., 2., 3.]), dense(&[4., 5., 6.])].concat().into(),
        &signature,
    )
    .unwrap();
    let (format, plan) = negotiate(Some(TYPE), Format::Json, &asked.reply, &signature).unwrap();
    let outputs = vec![Value::Tensor(asked.inputs[0].clone())];
    let reply = encode_reply(format, &plan, "m", &signature, &[outputs]).unwrap();
    assert_eq!(reply.content_type, TYPE);
    let again = crate::codec::decode(TYPE, reply.body, &Schema::of(signature), Documents::One).unwrap();
    assert_eq!(again.inputs, asked.inputs);
}

#[test]
fn strings_and_integers_are_written_unchanged() {
    let signature = signature(
        &[input("x", DataType::F32, &[-1, 3])],
        &[
            output("label", DataType::String, &[-1]),
            output("n", DataType::I64, &[-1]),
        ],
    );
    let asked = decode(TYPE, dense(&[1., 2., 3.]).into(), &signature).unwrap();
    let outputs = vec![
        Value::Tensor(strings(&[1], &[b"cat"])),
        Value::Tensor(tensor(&[1], &[-7i64])),
    ];
    let reply = encode_reply(Format::RecordIo, &asked.reply, "m", &signature, &[outputs]).unwrap();
    let reading = crate::codec::testing::signature(
        &[
            input("label", DataType::String, &[-1]),
            input("n", DataType::I64, &[-1]),
        ],
        &[],
    );
    let again = read(reply.body.to_vec(), &reading).unwrap();
    assert_eq!(again, [strings(&[1], &[b"cat"]), tensor(&[1], &[-7i64])]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(record in prop::collection::vec(any::<u8>(), 0..80), raw in any::<bool>()) {
        let body = if raw { record } else { frame(&record) };
        let _ = read(body.clone(), &three());
        let _ = read(body, &identity(DataType::F64));
    }

    #[test]
    fn a_record_with_any_byte_changed_is_read_or_refused(at in 0usize..40, byte in any::<u8>()) {
        let mut body = sparse(&[1., 2.], &[0, 2], 3);
        let at = at % body.len();
        body[at] = byte;
        let _ = read(body, &three());
    }
}
