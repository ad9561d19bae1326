use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::{LIMITS, fixture, json};
use crate::vision::{ImageLimits, VisionError, probe, read};

fn picture(name: &str) -> Vec<u8> {
    std::fs::read(fixture("pictures").join(name)).unwrap()
}

fn names() -> Vec<String> {
    json("reading.json").as_object().unwrap().keys().cloned().collect()
}

fn refusal(bytes: &[u8]) -> VisionError {
    read(bytes, &LIMITS).unwrap_err()
}

/// A PNG of black pixels with this size, compressed as far as possible.
fn black_png(width: u32, height: u32, rows: u32) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |name: &[u8], contents: &[u8]| {
        crc.reset();
        crc.update(name);
        crc.update(contents);
        file.extend_from_slice(&(contents.len() as u32).to_be_bytes());
        file.extend_from_slice(name);
        file.extend_from_slice(contents);
        file.extend_from_slice(&crc.sum().to_be_bytes());
    };
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend_from_slice(&[1, 0, 0, 0, 0]);
    chunk(b"IHDR", &header);
    let mut data = ZlibEncoder::new(Vec::new(), Compression::best());
    let row = vec![0; 1 + width.div_ceil(8) as usize];
    (0..rows).for_each(|_| data.write_all(&row).unwrap());
    chunk(b"IDAT", &data.finish().unwrap());
    chunk(b"IEND", b"");
    file
}

#[test]
fn rejects_a_bomb_of_60000_by_60000_pixels_by_its_header() {
    let bomb = black_png(60_000, 60_000, 150);
    assert!(bomb.len() < 2048, "{}", bomb.len());
    let refused = VisionError::TooManyPixels {
        width: 60_000,
        height: 60_000,
        limit: LIMITS.pixels,
    };
    assert_eq!(refusal(&bomb), refused);
    assert_eq!(probe(&bomb, &LIMITS), Err(refused));
}

#[test]
fn rejects_sizes_at_the_limits_of_their_types() {
    for (name, at, sizes) in [
        ("rgb.png", 16, &[0xff; 8][..]),
        ("rgb.png", 16, &[0; 8]),
        ("rgb.bmp", 18, &[0xff; 8]),
        ("rgb.bmp", 18, &[0, 0, 0, 0x80, 0, 0, 0, 0x80]),
        ("palette.gif", 6, &[0xff; 4]),
        ("lossless.webp", 21, &[0xff; 4]),
    ] {
        let mut bytes = picture(name);
        bytes[at..at + sizes.len()].copy_from_slice(sizes);
        assert!(read(&bytes, &LIMITS).is_err(), "{name} {sizes:?}");
    }
}

#[test]
fn a_truncated_file_is_an_error_or_decodes_completely() {
    for name in names() {
        let bytes = picture(&name);
        let whole = read(&bytes, &LIMITS).unwrap();
        for end in 0..bytes.len() {
            match read(&bytes[..end], &LIMITS) {
                Err(_) => {}
                // Only data after the pixels is missing.
                Ok(picture) => assert!(
                    picture.rgb() == whole.rgb()
                        || (picture.width(), picture.height()) == (whole.height(), whole.width()),
                    "{name} cut after {end} of {} bytes",
                    bytes.len()
                ),
            }
        }
    }
}

#[test]
fn the_error_of_a_truncated_image_says_so() {
    for name in [
        "420.jpg",
        "progressive.jpg",
        "rgb.png",
        "palette.gif",
        "rgb.bmp",
        "lzw.tiff",
        "lossless.webp",
    ] {
        let bytes = picture(name);
        let refused = refusal(&bytes[..bytes.len() * 2 / 3]);
        assert!(matches!(refused, VisionError::Malformed { .. }), "{name}: {refused}");
    }
    let bytes = picture("420.jpg");
    let text = refusal(&bytes[..bytes.len() - 2]).to_string();
    assert_eq!(text, "the JPEG image cannot be read: the file is truncated");
}

#[test]
fn rejects_the_magic_bytes_of_one_format_before_the_data_of_another() {
    let png = picture("rgb.png");
    for head in [
        &b"\xff\xd8\xff\xe0"[..],
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"II*\0",
        b"MM\0*",
    ] {
        let mut polyglot = head.to_vec();
        polyglot.extend_from_slice(&png);
        assert!(read(&polyglot, &LIMITS).is_err(), "{head:?}");
    }
    // The reader ignores an HTML page after an image.
    let mut page = png;
    page.extend_from_slice(b"<script>alert(1)</script>");
    assert!(read(&page, &LIMITS).is_ok());
}

#[test]
fn rejects_endless_segments() {
    let mut fill = b"\xff\xd8\xff".to_vec();
    fill.resize(1 << 20, 0xff);
    assert!(read(&fill, &LIMITS).is_err());
    let mut extensions = b"GIF89a\x01\0\x01\0\0\0\0".to_vec();
    (0..100_000).for_each(|_| extensions.extend_from_slice(b"!\xfe\x01x\0"));
    assert!(read(&extensions, &LIMITS).is_err());
    let mut chunks = picture("rgb.png")[..33].to_vec();
    (0..100_000).for_each(|_| chunks.extend_from_slice(b"\0\0\0\0tEXt\0\0\0\0"));
    assert!(read(&chunks, &LIMITS).is_err());
}

/// A random number generator with the same sequence on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

#[test]
fn mutated_files_do_not_panic_and_have_the_size_in_their_header() {
    // Mutations may change the size; the limits keep decoded images small.
    let limits = ImageLimits {
        pixels: 1 << 16,
        ..LIMITS
    };
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for name in names() {
        let original = picture(&name);
        for _ in 0..60 {
            let mut bytes = original.clone();
            for _ in 0..=random.next(4) {
                let at = random.next(bytes.len());
                match random.next(4) {
                    0 => bytes[at] ^= 1 << random.next(8),
                    1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.next(5)],
                    2 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, random.next(256) as u8),
                }
            }
            let (Ok(probe), Ok(picture)) = (probe(&bytes, &limits), read(&bytes, &limits)) else {
                continue;
            };
            assert_eq!(
                (picture.width(), picture.height()),
                (probe.width, probe.height),
                "{name}"
            );
            assert_eq!(picture.rgb().len() as u64, probe.picture_bytes(), "{name}");
        }
    }
}
