//! Checks that the reservation of a request covers the memory of reading it.

use std::cell::Cell;
use std::io::Cursor;
use std::time::Instant;

use bytes::Bytes;
use image::{DynamicImage, ImageFormat, RgbImage};
use serde_json::json;

use super::manifest;
use crate::codec::Documents;
use crate::codec::testing::{input, output, signature};
use crate::engine::{NoRoom, RequestBudget, RequestMemory, with_peak};
use crate::handler::{Handler, SharedTokenizer, Tools};
use crate::tensor::DataType;
use crate::text::{FileLimits, Tokenizer, TokenizerConfig};

/// A ledger that sums the reservations.
#[derive(Default)]
struct Counted(Cell<u64>);

impl RequestBudget for Counted {
    fn reserve(&self, bytes: u64) -> Result<Option<RequestMemory>, NoRoom> {
        self.0.set(self.0.get() + bytes);
        Ok(None)
    }
}

/// An image that does not compress well.
fn picture(width: u32, height: u32) -> DynamicImage {
    let level = |x: u32, y: u32, step: u32| (x.wrapping_mul(step) ^ y.wrapping_mul(7)) as u8;
    DynamicImage::from(RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([level(x, y, 3), level(x, y, 5), level(x, y, 11)])
    }))
}

fn file(picture: &DynamicImage, format: ImageFormat) -> Bytes {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner().into()
}

/// Large images in each format and colour type of the encoders.
fn pictures() -> Vec<(String, Bytes)> {
    let rgb = picture(640, 480);
    let colours: [(&str, DynamicImage); 8] = [
        ("grey", rgb.to_luma8().into()),
        ("grey and alpha", rgb.to_luma_alpha8().into()),
        ("RGB", rgb.clone()),
        ("RGBA", rgb.to_rgba8().into()),
        ("16-bit grey", rgb.to_luma16().into()),
        ("16-bit grey and alpha", rgb.to_luma_alpha16().into()),
        ("16-bit RGB", rgb.to_rgb16().into()),
        ("16-bit RGBA", rgb.to_rgba16().into()),
    ];
    let mut files = Vec::new();
    for (name, colour) in &colours {
        files.push((format!("png of {name}"), file(colour, ImageFormat::Png)));
    }
    // The colour types of these encoders, as positions in `colours`.
    for (format, known) in [
        (ImageFormat::Jpeg, [0, 2].as_slice()),
        (ImageFormat::WebP, &[2, 3]),
        (ImageFormat::Bmp, &[0, 2, 3]),
        (ImageFormat::Tiff, &[0, 2, 3, 4, 6]),
        (ImageFormat::Gif, &[2]),
    ] {
        for (name, colour) in known.iter().map(|&at| &colours[at]) {
            files.push((format!("{format:?} of {name}"), file(colour, format)));
        }
    }
    files
}

/// The peak memory of reading a body, and its reservation, in bytes.
fn peak_and_reserved(handler: &Handler, content_type: &str, body: &Bytes) -> (u64, u64) {
    let ledger = Counted::default();
    let (read, peak) = with_peak(|| handler.decode(content_type, body.clone(), Documents::One, &ledger));
    read.unwrap();
    (peak, ledger.0.get())
}

#[test]
fn the_reservation_for_a_picture_covers_decoding_and_resizing_it() {
    let model = signature(
        &[input("pixel_values", DataType::F32, &[-1, 3, -1, -1])],
        &[output("logits", DataType::F32, &[-1, 2])],
    );
    let steps = [
        json!({"size": {"height": 224, "width": 224}}),
        json!({"size": {"height": 900, "width": 800}}),
        json!({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": true}),
    ];
    let mut wrong = Vec::new();
    for step in &steps {
        let handler = Handler::new(&manifest(json!({"image": step})), &model, Tools::default()).unwrap();
        for (name, body) in pictures() {
            let (peak, reserved) = peak_and_reserved(&handler, "application/x-image", &body);
            // The server always reserves twice the body.
            if peak > reserved + body.len() as u64 {
                wrong.push(format!("{name}, {step}: {peak} bytes, {reserved} reserved"));
            }
            if reserved > 4 * peak {
                wrong.push(format!("{name}, {step}: only {peak} bytes of {reserved} reserved"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reservation_for_texts_covers_tokenizing_them() {
    let tokens = |name| input(name, DataType::I64, &[-1, -1]);
    let model = signature(
        &[tokens("input_ids"), tokens("attention_mask")],
        &[output("logits", DataType::F32, &[-1, 2])],
    );
    let texts = [
        ("words", "The ferry leaves at seven, the train at nine. ".repeat(2000)),
        ("letters", "a b c d e f g h ".repeat(4000)),
        ("one word", "a".repeat(60_000)),
        ("ligatures", "\u{fdfa} ".repeat(15_000)),
        ("emoji", "\u{1f469}\u{200d}\u{1f680}".repeat(6000)),
        ("accents", "e\u{301}\u{327} ".repeat(12_000)),
    ];
    let tokenizers = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text/tokenizers");
    let mut wrong = Vec::new();
    for name in ["bert_uncased", "gpt2", "llama3", "roberta", "t5", "xlm_roberta"] {
        let json = std::fs::read(tokenizers.join(name).with_extension("json")).unwrap();
        let tokenizer = Tokenizer::parse(&json, &TokenizerConfig::default(), &FileLimits::default()).unwrap();
        let tools = Tools {
            tokenizer: Some(SharedTokenizer::of(tokenizer)),
            ..Tools::default()
        };
        let handler = Handler::new(&manifest(json!({"text": {"truncation": "never"}})), &model, tools).unwrap();
        for (kind, text) in &texts {
            let body = Bytes::from(json!({"inputs": text}).to_string());
            // The first text fills the caches of a tokenizer.
            peak_and_reserved(&handler, "application/json", &body);
            let (peak, reserved) = peak_and_reserved(&handler, "application/json", &body);
            let own = 4 * body.len() as u64;
            if peak > reserved + own {
                wrong.push(format!("{name}, {kind}: {peak} bytes, {reserved} reserved"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tokenizing_ends_at_the_deadline_of_the_request() {
    struct Late;
    impl RequestBudget for Late {
        fn reserve(&self, _: u64) -> Result<Option<RequestMemory>, NoRoom> {
            Ok(None)
        }

        fn deadline(&self) -> Option<Instant> {
            Some(Instant::now())
        }
    }
    let model = signature(
        &[input("input_ids", DataType::I64, &[-1, -1])],
        &[output("logits", DataType::F32, &[-1, 2])],
    );
    let json = json!({"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}});
    let json = json.to_string();
    let tokenizer = Tokenizer::parse(json.as_bytes(), &TokenizerConfig::default(), &FileLimits::default()).unwrap();
    let tools = Tools {
        tokenizer: Some(SharedTokenizer::of(tokenizer)),
        ..Tools::default()
    };
    let handler = Handler::new(&manifest(json!({})), &model, tools).unwrap();
    let body = || Bytes::from_static(br#"{"inputs": "a"}"#);
    let refused = handler.decode("application/json", body(), Documents::One, &Late);
    let refusal = refused.unwrap_err().to_string();
    assert!(refusal.contains("deadline passed"), "{refusal}");
    handler
        .decode("application/json", body(), Documents::One, &Counted::default())
        .unwrap();
}
