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

/// A field whose number no message of `onnx.proto` uses, of any wire type.
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

fn scan_bytes(bytes: &[u8]) -> Result<OnnxFacts, ScanError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    scan(&File::open(file.path()).unwrap())
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
fn the_scan_finds_operators_and_external_files_in_subgraphs() {
    let facts = scan_bytes(&nested()).unwrap();
    assert_eq!(
        facts,
        OnnxFacts {
            external: BTreeMap::from([("weights.bin".to_owned(), 0)]),
            large: 0,
            largest: 0,
            widened: 0,
            has_trees: true,
            has_unbounded_work: false,
            has_data_sizes: false,
        }
    );
}

#[test]
fn the_growth_of_narrow_integers_counts_only_in_graphs_with_a_cast() {
    let tensor = |data_type, data: Vec<u8>| field(5, &[varint(2 << 3), varint(data_type), data].concat());
    let half = tensor(10, field(9, &[0; 100]));
    let bytes = tensor(3, field(9, &[0; 100]));
    let listed = tensor(16, field(5, &[1; 100]));
    let single = tensor(1, field(9, &[0; 100]));
    let length = [field(1, b"length"), field(2, b"1000")].concat();
    let place = [field(1, b"location"), field(2, b"w.bin")].concat();
    let elsewhere = tensor(10, [field(13, &place), field(13, &length)].concat());
    let tensors = [half, bytes, listed, single, elsewhere].concat();
    let model = |operator: &[u8]| field(7, &[field(1, &field(4, operator)), tensors.clone()].concat());
    assert_eq!(scan_bytes(&model(b"DequantizeLinear")).unwrap().widened, 1_200);
    assert_eq!(scan_bytes(&model(b"Cast")).unwrap().widened, 1_500);
}

#[test]
fn the_scan_enters_functions_and_the_defaults_of_their_attributes() {
    let default = field(11, &field(5, &external_tensor("../secret.bin")));
    let function = field(25, &[default, field(7, &field(4, b"Loop"))].concat());
    let facts = scan_bytes(&function).unwrap();
    assert_eq!(facts.external, BTreeMap::from([("../secret.bin".to_owned(), 0)]));
    assert!(facts.has_unbounded_work && facts.has_data_sizes);
}

#[test]
fn the_header_has_the_producer_the_operator_sets_and_the_operators() {
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
        header(&File::open(file.path()).unwrap()).unwrap(),
        OnnxHeader {
            ir_version: 8,
            opsets: BTreeMap::from([("ai.onnx".to_owned(), 17), ("ai.onnx.ml".to_owned(), 3)]),
            producer: "skl2onnx".to_owned(),
            producer_version: "1.16".repeat(50),
            operators: BTreeMap::from([("If".to_owned(), 1), ("TreeEnsembleRegressor".to_owned(), 1)]),
        }
    );
}

#[test]
fn a_weight_file_must_reach_the_end_of_its_furthest_tensor() {
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
            matches!(error, ScanError::InvalidNumber { key: "offset", .. }),
            "{value}: {error}"
        );
    }
    // Without a location, the other entries are ignored.
    assert_eq!(
        scan_bytes(&tensor(&[("offset", "many")])).unwrap(),
        OnnxFacts::default()
    );
}

#[test]
fn a_field_number_that_other_parsers_would_truncate_is_rejected() {
    // 2^29 + 7 is 7, the graph, in the lower 32 bits of the tag.
    let error = scan_bytes(&field(1 << 29 | 7, &external_tensor("../secret.bin"))).unwrap_err();
    assert!(error.to_string().contains("number is too large"), "{error}");
}

#[test]
fn too_many_external_files_and_too_long_names_are_rejected() {
    let long = "w".repeat(4096);
    let named = |count: usize| -> Vec<u8> {
        let tensors = (0..count).flat_map(|number| field(5, &external_tensor(&format!("{number:04}{}", &long[4..]))));
        field(7, &tensors.collect::<Vec<u8>>())
    };
    assert_eq!(scan_bytes(&named(4000)).unwrap().external.len(), 4000);
    assert!(matches!(scan_bytes(&named(4097)), Err(ScanError::TooManyFiles)));
    let longer = field(7, &field(5, &external_tensor(&format!("{long}w"))));
    assert!(matches!(scan_bytes(&longer), Err(ScanError::LongName)));
}

#[test]
fn too_many_inputs_are_rejected() {
    let inputs = |count: usize| field(7, &field(11, &field(1, b"x")).repeat(count));
    assert!(scan_bytes(&inputs(MAX_VALUES)).is_ok());
    assert!(matches!(
        scan_bytes(&inputs(MAX_VALUES + 1)),
        Err(ScanError::TooManyValues)
    ));
}

#[test]
fn a_file_truncated_anywhere_inside_the_graph_is_rejected() {
    let model = nested();
    for length in 1..model.len() {
        assert!(scan_bytes(&model[..length]).is_err(), "{length}");
    }
    assert!(matches!(scan_bytes(&[]), Err(ScanError::Empty)));
}

#[test]
fn a_graph_nested_too_deeply_is_rejected() {
    let mut graph = Vec::new();
    for _ in 0..40 {
        graph = field(1, &field(5, &field(6, &graph)));
    }
    assert!(matches!(scan_bytes(&field(7, &graph)), Err(ScanError::TooDeep)));
}

proptest! {
    #[test]
    fn scanning_any_bytes_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = scan_bytes(&bytes);
    }

    #[test]
    fn scanning_a_model_with_a_changed_byte_does_not_panic(at in any::<proptest::sample::Index>(), byte: u8) {
        let mut model = nested();
        let at = at.index(model.len());
        model[at] = byte;
        let _ = scan_bytes(&model);
    }

    #[test]
    fn an_external_file_is_found_between_unknown_fields_of_any_kind(
        before in proptest::collection::vec(unknown_field(), 0..8),
        after in proptest::collection::vec(unknown_field(), 0..8),
    ) {
        let around = |inner: Vec<u8>| [before.concat(), inner, after.concat()].concat();
        let model = around(field(7, &around(field(5, &around(external_tensor("weights.bin"))))));
        let facts = scan_bytes(&model).unwrap();
        prop_assert_eq!(facts.external, BTreeMap::from([("weights.bin".to_owned(), 0)]));
    }
}
