//! The readers of bytes from outside, each as a function that takes any bytes.
//!
//! A target panics where a promise is broken: a reader that accepts bytes keeps its word about
//! sizes and limits, and no reader panics. `scripts/fuzz` runs a target under a coverage-guided
//! fuzzer; `tests/it/fuzz.rs` runs each of them over the fixtures and damaged copies of them.

use bytes::Bytes;
use longshore::archive;
use longshore::audio::{self, AudioLimits};
use longshore::codec::Documents;
use longshore::engine::{NoRoom, RequestBudget, RequestMemory};
use longshore::handler::{Handler, SharedTokenizer, Tools};
use longshore::manifest::Manifest;
use longshore::tensor::{DataType, Dim, InputSpec, OutputRows, OutputSpec, Signature, ValueType};
use longshore::text::{FileLimits, TextInput, TextLimits, TokenizeOptions, Tokenizer, TokenizerConfig};
use longshore::vision;

/// Runs a target by its name.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS
        .iter()
        .find(|(known, _)| *known == name)
        .unwrap_or_else(|| panic!("{name} is not a target"));
    target(bytes);
}

/// A target: any bytes, and a panic where a promise is broken.
pub type Target = fn(&[u8]);

pub const TARGETS: [(&str, Target); 7] = [
    ("archive", archive),
    ("body", body),
    ("picture", picture),
    ("picture_body", picture_body),
    ("text_body", text_body),
    ("tokenizer", tokenizer),
    ("wav", wav),
];

const PIXELS: u64 = 1 << 20;

/// A picture file of any format.
fn picture(bytes: &[u8]) {
    let limits = vision::ImageLimits {
        pixels: PIXELS,
        bytes: 1 << 20,
    };
    let probe = vision::probe(bytes, &limits);
    let Ok(picture) = vision::read(bytes, &limits) else {
        return;
    };
    let probe = probe.expect("a picture that is read has a header that is read");
    assert_eq!((probe.width, probe.height), (picture.width(), picture.height()));
    assert!(u64::from(probe.width) * u64::from(probe.height) <= PIXELS);
    assert_eq!(picture.rgb().len() as u64, probe.picture_bytes());
    assert!(probe.memory() >= probe.picture_bytes());
}

/// A WAV file.
fn wav(bytes: &[u8]) {
    let limits = AudioLimits::default();
    if audio::read(bytes, &limits).is_ok() {
        audio::probe(bytes, &limits).expect("sound that is read has a header that is read");
    }
}

/// A `tokenizer.json`, and a text that is tokenized with it.
fn tokenizer(bytes: &[u8]) {
    let limits = FileLimits {
        bytes: 1 << 20,
        tokens: 10_000,
        merges: 10_000,
        added_tokens: 1000,
    };
    let Ok(tokenizer) = Tokenizer::parse(bytes, &TokenizerConfig::default(), &limits) else {
        return;
    };
    let options = TokenizeOptions {
        max_length: Some(64),
        offsets: true,
        ..TokenizeOptions::default()
    };
    let text = "A ferry, na\u{ef}ve \u{1f6a2}\u{200d} \u{5d0}\u{5d1} 12 !";
    if let Ok(encoded) = tokenizer.encode(&[TextInput::One(text.to_owned())], &options) {
        let row = &encoded.rows[0];
        assert!(row.len() <= 64);
        assert!(
            row.offsets
                .iter()
                .all(|range| range.start <= range.end && range.end <= text.len())
        );
        tokenizer.decode(&row.ids, true);
    }
}

/// An archive of a model.
fn archive(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder for the archive");
    let bounds = archive::UnpackLimits {
        entries: 50,
        bytes: 1 << 20,
        ratio: 200,
    };
    let into = folder.path().join("model");
    std::fs::create_dir(&into).expect("a folder for the model");
    let unpacked = archive::unpack(bytes, archive::ExpectedFormat::Anything("model.onnx"), &into, &bounds);
    drop(unpacked);
    let others = std::fs::read_dir(folder.path()).expect("the folder is there").count();
    assert_eq!(others, 1, "nothing is written outside of the folder");
}

/// A request of tensors. The first byte chooses its content type.
fn body(bytes: &[u8]) {
    let types = [
        "application/json",
        "application/jsonlines",
        "text/csv",
        "application/x-npy",
        "application/x-npz",
        "application/x-recordio-protobuf",
        "text/libsvm",
        "application/octet-stream",
    ];
    let inputs = [
        ("x", DataType::F32, vec![Dim::Dynamic(None), Dim::Fixed(2)]),
        ("name", DataType::String, vec![Dim::Dynamic(None)]),
    ];
    for count in 1..=inputs.len() {
        read(
            &plain(&inputs[..count], &Manifest::default(), Tools::default()),
            &types,
            bytes,
        );
    }
}

/// A request to a model of pictures. The first byte chooses its content type.
fn picture_body(bytes: &[u8]) {
    let types = [
        "application/json",
        "multipart/form-data; boundary=x",
        "application/x-image",
        "application/octet-stream",
        "application/jsonlines",
    ];
    let open = Dim::Dynamic(None);
    let input = (
        "pixels",
        DataType::F32,
        vec![open.clone(), Dim::Fixed(3), open.clone(), open],
    );
    let json = br#"{"image": {"size": {"height": 8, "width": 8}}}"#;
    let manifest: Manifest = serde_json::from_slice(json).expect("a manifest");
    read(&plain(&[input], &manifest, Tools::default()), &types, bytes);
}

/// A request to a model of texts. The first byte chooses its content type.
fn text_body(bytes: &[u8]) {
    let types = ["application/json", "text/plain", "text/csv", "application/jsonlines"];
    let json =
        br#"{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"}}"#;
    let tokenizer = Tokenizer::parse(json, &TokenizerConfig::default(), &FileLimits::default()).expect("a tokenizer");
    let open = vec![Dim::Dynamic(None), Dim::Dynamic(None)];
    let inputs = [
        ("input_ids", DataType::I64, open.clone()),
        ("attention_mask", DataType::I64, open),
    ];
    let mut tools = Tools {
        tokenizer: Some(SharedTokenizer::of(tokenizer)),
        ..Tools::default()
    };
    tools.limits.text = TextLimits {
        texts: 100,
        text_bytes: 10_000,
        tokens: 10_000,
        ..TextLimits::default()
    };
    read(&plain(&inputs, &Manifest::default(), tools), &types, bytes);
}

/// Counts nothing.
struct Uncounted;

impl RequestBudget for Uncounted {
    fn reserve(&self, _: u64) -> Result<Option<RequestMemory>, NoRoom> {
        Ok(None)
    }
}

type Input<'a> = (&'a str, DataType, Vec<Dim>);

fn plain(inputs: &[Input<'_>], manifest: &Manifest, tools: Tools) -> Handler {
    let inputs = inputs.iter().map(|(name, data_type, dims)| InputSpec {
        name: (*name).to_owned(),
        data_type: *data_type,
        dims: Some(dims.clone()),
    });
    let signature = Signature {
        inputs: inputs.collect(),
        optional: Vec::new(),
        outputs: vec![OutputSpec {
            name: "y".to_owned(),
            value_type: ValueType::Tensor {
                data_type: DataType::F32,
                dims: Some(vec![Dim::Dynamic(None), Dim::Fixed(2)]),
            },
            rows: OutputRows::PerRecord,
        }],
    };
    Handler::new(manifest, &signature, tools).expect("the model is served")
}

fn read(handler: &Handler, types: &[&str], bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else {
        return;
    };
    let content_type = types[usize::from(first) % types.len()];
    let body = Bytes::copy_from_slice(rest);
    handler.weight(content_type, &body);
    if let Ok(asked) = handler.decode(content_type, body, Documents::One, &Uncounted) {
        let signature = handler.schema().signature();
        assert_eq!(asked.request.inputs.len(), signature.inputs.len());
        for (tensor, spec) in asked.request.inputs.iter().zip(&signature.inputs) {
            assert_eq!(tensor.data_type(), spec.data_type, "{content_type}");
        }
    }
}
