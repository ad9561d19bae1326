use super::{LIMITS, bytes_of, fixture, json, number};
use crate::vision::{ImageLimits, PictureFormat, VisionError, is_picture, probe, read};

/// The tolerated difference from Pillow's decoder: the maximum and the mean, in levels.
fn tolerance(name: &str) -> (u8, f64) {
    match name.rsplit_once('.') {
        // The decoder of `image` rounds differently, and upsamples chroma with different filters.
        Some((stem, "jpg")) if stem.contains("cmyk") || stem.contains("ycck") => (8, 1.5),
        Some((stem, "jpg")) if stem.contains("rgb") => (4, 0.7),
        Some(("progressive-444" | "grey-progressive", "jpg") | ("jpeg", "tiff")) => (4, 0.7),
        Some((stem, "jpg")) if stem.contains("progressive") => (24, 2.0),
        Some((stem, "webp")) if stem.starts_with("lossy") => (4, 0.7),
        _ => (0, 0.0),
    }
}

#[test]
fn pixels_of_every_fixture_match_pillow() {
    let expected = json("reading.json");
    let mut wrong = Vec::new();
    for (name, picture) in expected.as_object().unwrap() {
        let bytes = std::fs::read(fixture("pictures").join(name)).unwrap();
        assert!(is_picture(&bytes[..bytes.len().min(32)]), "{name}");
        let probe = match probe(&bytes, &LIMITS) {
            Ok(probe) => probe,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let size = (number(&picture["width"]), number(&picture["height"]));
        if (probe.width, probe.height) != size {
            wrong.push(format!(
                "{name}: probed {} x {}, not {size:?}",
                probe.width, probe.height
            ));
        }
        let read = match read(&bytes, &LIMITS) {
            Ok(read) => read,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let rgb = bytes_of(&picture["rgb"]);
        if (read.width(), read.height()) != size || read.rgb().len() != rgb.len() {
            wrong.push(format!("{name}: {} x {}, not {size:?}", read.width(), read.height()));
            continue;
        }
        let differences = read.rgb().iter().zip(&rgb).map(|(one, other)| one.abs_diff(*other));
        let largest = differences.clone().max().unwrap();
        let mean = differences.map(f64::from).sum::<f64>() / rgb.len() as f64;
        let (most, most_mean) = tolerance(name);
        if largest > most || mean > most_mean {
            wrong.push(format!("{name}: differs by up to {largest}, {mean:.2} in the mean"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn detects_formats_by_their_first_bytes() {
    let table: [(&[u8], Option<PictureFormat>); 9] = [
        (b"\xff\xd8\xff\xe0\0\x10JFIF", Some(PictureFormat::Jpeg)),
        (b"\x89PNG\r\n\x1a\n", Some(PictureFormat::Png)),
        (b"RIFF\0\0\0\0WEBPVP8 ", Some(PictureFormat::WebP)),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"GIF89a", Some(PictureFormat::Gif)),
        (b"BM\0\0\0\0\0\0\0\0\0\0\0\0\x28\0\0\0", Some(PictureFormat::Bmp)),
        (b"BMI is the body mass index", None),
        (b"II*\0", Some(PictureFormat::Tiff)),
        (b"", None),
    ];
    for (head, expected) in table {
        assert_eq!(PictureFormat::from_magic(head), expected, "{head:?}");
    }
}

#[test]
fn the_error_for_other_bytes_quotes_their_beginning() {
    let refusal = |bytes: &[u8]| read(bytes, &LIMITS).unwrap_err().to_string();
    assert!(refusal(b"{\"instances\": [1]}").contains("the bytes begin \"{\\\"instances\\\"\""));
    assert!(refusal(b"\x93NUMPY\x01\0").contains("the bytes begin 93 4e 55"));
    assert!(refusal(b"").contains("the body is empty"));
}

#[test]
fn refuses_jpeg_files_whose_chroma_is_finer_than_luma() {
    const FRAME: [u8; 2] = [0xff, 0xc0];
    let mut bytes = std::fs::read(fixture("pictures/444.jpg")).unwrap();
    let frame = bytes.windows(2).position(|marker| marker == FRAME).unwrap();
    // Each component has an identifier, its sampling factors and the number of a table.
    let factors = |component: usize| frame + 10 + 3 * component + 1;
    for (component, finer) in [(1, 0x21), (2, 0x12), (2, 0x22)] {
        let usual = std::mem::replace(&mut bytes[factors(component)], finer);
        assert_eq!(usual, 0x11);
        let error = read(&bytes, &LIMITS).unwrap_err().to_string();
        assert!(error.contains("chroma that is finer than luma"), "{error}");
        bytes[factors(component)] = usual;
    }
    read(&bytes, &LIMITS).unwrap();
}

#[test]
fn both_limits_are_checked_before_decoding() {
    let bytes = std::fs::read(fixture("pictures/rgb.png")).unwrap();
    let limits = ImageLimits { pixels: 390, ..LIMITS };
    let refusal = read(&bytes, &limits).unwrap_err();
    assert_eq!(
        refusal,
        VisionError::TooManyPixels {
            width: 23,
            height: 17,
            limit: 390
        }
    );
    assert_eq!(
        refusal.to_string(),
        "the image has 23 x 17 = 391 pixels, at most 390 allowed"
    );
    let limits = ImageLimits { bytes: 100, ..LIMITS };
    let refusal = probe(&bytes, &limits).unwrap_err().to_string();
    assert!(refusal.ends_with("at most 100 allowed"), "{refusal}");
}
