use std::io::{Cursor, Write};

use bytes::Bytes;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::{MAX_MEMBERS, decoded_bytes};
use crate::codec::testing::{decode, encoded, input, output, pairs, row_plan, signature, tensor};
use crate::codec::{DecodeError, Format, Schema, npy};
use crate::tensor::{DataType, Signature, Tensor, Value};

const NAMED: &[u8] = include_bytes!("../../../tests/arrays/named.npz");
const COMPRESSED: &[u8] = include_bytes!("../../../tests/arrays/compressed.npz");
const CSR: &[u8] = include_bytes!("../../../tests/arrays/csr.npz");

fn send(body: &[u8], signature: &Signature) -> Result<Vec<Tensor>, DecodeError> {
    decode("application/x-npz", Bytes::copy_from_slice(body), signature).map(|request| request.inputs)
}

fn refusal(body: &[u8]) -> String {
    send(body, &pairs()).unwrap_err().to_string()
}

fn matrix() -> Tensor {
    tensor(&[3, 2], &[1.5f32, 0., 0., -2.5, 0., 3.])
}

/// An archive of members with these names.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn array(tensor: &Tensor) -> Vec<u8> {
    npy::encode("a", tensor).unwrap()
}

/// A sparse matrix as SciPy writes it, with the value 1 at each of these positions.
fn csr(shape: [i64; 2], starts: &[i64], columns: &[i64]) -> Vec<u8> {
    let ones = vec![1f32; columns.len()];
    let format = Tensor::from_strings(vec![], vec![Bytes::from_static(b"csr")]).unwrap();
    archive(&[
        ("indices.npy", &array(&tensor(&[columns.len()], columns))),
        ("indptr.npy", &array(&tensor(&[starts.len()], starts))),
        ("format.npy", &array(&format)),
        ("shape.npy", &array(&tensor(&[2], &shape))),
        ("data.npy", &array(&tensor(&[ones.len()], &ones))),
    ])
}

#[test]
fn reads_archives_of_numpy_and_scipy() {
    let table: [(&str, &[u8]); 8] = [
        ("named", NAMED),
        ("unnamed", include_bytes!("../../../tests/arrays/unnamed.npz")),
        ("compressed", COMPRESSED),
        ("csr", CSR),
        ("csc", include_bytes!("../../../tests/arrays/csc.npz")),
        ("coo", include_bytes!("../../../tests/arrays/coo.npz")),
        ("csr_array", include_bytes!("../../../tests/arrays/csr_array.npz")),
        ("made here", &csr([3, 2], &[0, 0, 0, 0], &[])),
    ];
    for (name, body) in table {
        let expected = match name {
            "made here" => tensor(&[3, 2], &[0f32; 6]),
            _ => matrix(),
        };
        assert_eq!(send(body, &pairs()).unwrap(), [expected], "{name}");
    }
    let bsr = refusal(include_bytes!("../../../tests/arrays/bsr.npz"));
    assert!(
        bsr.contains("format \"bsr\" are not supported; convert with tocsr()"),
        "{bsr}"
    );
}

#[test]
fn arrays_go_to_inputs_by_name() {
    let two = signature(
        &[input("x", DataType::F32, &[-1, 2]), input("n", DataType::I32, &[-1])],
        &[],
    );
    let several = include_bytes!("../../../tests/arrays/several.npz");
    assert_eq!(send(several, &two).unwrap(), [matrix(), tensor(&[3], &[7i32, 8, 9])]);
    let unknown = refusal(several);
    assert!(unknown.contains("the model has no input \"n\""), "{unknown}");
}

#[test]
fn reads_the_archives_that_it_writes() {
    let outputs = [
        output("label", DataType::I64, &[-1]),
        output("p", DataType::F32, &[-1, 2]),
    ];
    let model = signature(&[input("x", DataType::F32, &[-1, 2])], &outputs);
    let values = [
        Value::Tensor(tensor(&[2], &[1i64, 0])),
        Value::Tensor(tensor(&[2, 2], &[0.25f32, 0.75, 0.5, 0.5])),
    ];
    let reply = encoded(Format::Npz, &row_plan(), &model, &values);
    assert_eq!(reply.content_type, "application/x-npz");
    let next = signature(
        &[
            input("p", DataType::F64, &[-1, 2]),
            input("label", DataType::I64, &[-1]),
        ],
        &[],
    );
    let inputs = send(&reply.body, &next).unwrap();
    assert_eq!(
        inputs,
        [tensor(&[2, 2], &[0.25f64, 0.75, 0.5, 0.5]), tensor(&[2], &[1i64, 0])]
    );
    // The name of a single output may differ from that of the only input.
    let only = encoded(Format::Npz, &row_plan(), &pairs(), &values[1..]);
    assert_eq!(
        send(&only.body, &pairs()).unwrap(),
        [tensor(&[2, 2], &[0.25f32, 0.75, 0.5, 0.5])]
    );
}

#[test]
fn refuses_broken_archives_and_names_the_problem() {
    let file = array(&matrix());
    let flipped = |at: usize, to: u8| {
        let mut body = NAMED.to_vec();
        body[at] = to;
        body
    };
    let entry = NAMED.windows(4).position(|part| part == b"PK\x01\x02").unwrap();
    let data = NAMED.windows(6).position(|part| part == b"\x93NUMPY").unwrap();
    let mut twice = archive(&[("x.npy", &file), ("y.npy", &file)]);
    while let Some(at) = twice.windows(5).position(|part| part == b"y.npy") {
        twice[at] = b'x';
    }
    let mut short = NAMED.to_vec();
    // The uncompressed size in the directory.
    short[entry + 24] += 1;
    let mut encrypted = NAMED.to_vec();
    encrypted[entry + 8] |= 1;
    let table = [
        (NAMED[..NAMED.len() / 2].to_vec(), "not a whole ZIP archive"),
        (b"PK\x03\x04".to_vec(), "not a whole ZIP archive"),
        (twice, "two members with the same name"),
        (short, "does not have the declared"),
        (encrypted, "is encrypted"),
        (flipped(entry + 10, 12), "is compressed by"),
        (flipped(data + 140, 0xff), "cannot be unpacked"),
        (archive(&[("x.txt", &file)]), "member \"x.txt\" is not an array"),
        (
            archive(&[("x.npy", b"rubbish")]),
            "member \"x.npy\": it does not begin with",
        ),
        (archive(&[]), "it has no arrays"),
        (
            csr([3, 2], &[0, 1, 1], &[0]),
            "from 0 to the number of indices in 3 steps",
        ),
        (csr([3, 2], &[0, 2, 1, 1], &[0]), "in 3 steps"),
        (
            csr([3, 2], &[0, 1, 1, 1], &[2]),
            "row 0, column 2, outside its matrix of 3 rows and 2 columns",
        ),
        (csr([3, 2], &[0, 1, 1, 1], &[-1]), "-1 is out of range"),
        (csr([3, 2], &[0, 2, 2, 2], &[1, 1]), "at row 0, column 1: two values"),
        (
            csr([1, 1_000_000_000], &[0, 1], &[7]),
            "given a sparse matrix of shape [1, 1000000000]",
        ),
    ];
    for (body, problem) in table {
        let refusal = refusal(&body);
        assert!(refusal.contains(problem), "{problem}: {refusal}");
    }
    let many: Vec<String> = (0..=MAX_MEMBERS).map(|i| format!("{i}.npy")).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &file[..])).collect();
    assert!(refusal(&archive(&many)).contains("more than 1024 members"));
}

#[test]
fn refuses_small_bodies_that_claim_huge_arrays_before_allocating() {
    let wide = signature(&[input("x", DataType::F32, &[-1, -1])], &[]);
    for body in [
        csr([1, 1_000_000_000], &[0, 1], &[7]),
        csr([i64::MAX, 2], &[0, 1], &[7]),
        csr([1 << 40, 1 << 40], &[0, 1], &[7]),
    ] {
        let error = send(&body, &wide).unwrap_err();
        let is_expected = matches!(error, DecodeError::TooLarge { .. } | DecodeError::Malformed { .. });
        assert!(is_expected, "{error}");
        let size = body.len();
        let estimate = crate::codec::decoded_bytes("application/x-npz", &Bytes::from(body), &Schema::of(wide.clone()));
        assert_eq!(estimate, size);
    }
    // A ZIP bomb: each member is small, but the total is not.
    let zeros = vec![0u8; 64 << 20];
    let bomb = archive(&[
        ("a.npy", &zeros),
        ("b.npy", &zeros),
        ("c.npy", &zeros),
        ("d.npy", &zeros),
        ("e.npy", b""),
    ]);
    assert!(bomb.len() < 1 << 20);
    let mut bomb = bomb;
    assert!(matches!(send(&bomb, &pairs()), Err(DecodeError::Malformed { .. })));
    let last = bomb.windows(4).rposition(|part| part == b"PK\x01\x02").unwrap();
    bomb[last + 24..last + 28].copy_from_slice(&1u32.to_le_bytes());
    assert!(matches!(send(&bomb, &pairs()), Err(DecodeError::TooLarge { .. })));
}

#[test]
fn the_estimate_covers_the_unpacked_arrays() {
    let schema = Schema::of(pairs());
    let dense = decoded_bytes(&Bytes::from_static(COMPRESSED), &schema).unwrap();
    assert_eq!(dense, 128 + 48);
    let members = decoded_bytes(&Bytes::from_static(CSR), &Schema::of(signature(&[], &[])));
    assert_eq!(members, None);
    let sparse = decoded_bytes(&Bytes::from_static(CSR), &schema).unwrap();
    assert!(sparse > 5 * 128 + 3 * 2 * 4, "{sparse}");
}
