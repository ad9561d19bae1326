//! The limits on entries, bytes and the ratio of compression.

use super::*;

#[test]
fn an_archive_exactly_at_the_limits_is_unpacked() {
    let archive = tar(&[folder("a/"), file("b/c", b"12345"), file("d", b"678")]);
    let table = [
        (
            UnpackLimits {
                entries: 4,
                bytes: 8,
                ratio: 1,
            },
            None,
        ),
        (
            UnpackLimits {
                entries: 3,
                bytes: 8,
                ratio: 1,
            },
            Some("more than 3 entries"),
        ),
        (
            UnpackLimits {
                entries: 4,
                bytes: 7,
                ratio: 1,
            },
            Some("more than 7 bytes"),
        ),
    ];
    for (bounds, expected) in table {
        let error = unpacked_within(&archive[..], &bounds)
            .err()
            .map(|error| error.to_string());
        match (error, expected) {
            (None, None) => {}
            (Some(error), Some(expected)) if error.contains(expected) => {}
            (error, expected) => panic!("{expected:?}: {error:?}"),
        }
    }
}

#[test]
fn the_ratio_applies_neither_to_small_archives_nor_to_uncompressed_ones() {
    let bounds = UnpackLimits { ratio: 1, ..BOUNDS };
    let zeros = vec![0; 15 << 20];
    let archive = tar(&[file("zeros", &zeros)]);
    let expected = files(&[("zeros", &zeros)]);
    assert_eq!(unpacked_within(&gzip(&archive)[..], &bounds).unwrap(), expected);
    let zeros = vec![0; 17 << 20];
    let archive = tar(&[file("zeros", &zeros)]);
    assert_eq!(
        unpacked_within(&archive[..], &bounds).unwrap(),
        files(&[("zeros", &zeros)])
    );
    assert!(matches!(
        unpacked_within(&gzip(&archive)[..], &bounds),
        Err(UnpackError::Ratio(1))
    ));
}

#[test]
fn an_endless_source_is_cut_off_at_the_limit() {
    let bounds = UnpackLimits {
        bytes: 1 << 20,
        ..BOUNDS
    };
    let archive = two().0;
    let skippable: Vec<u8> = [b"\x50\x2a\x4d\x18\xf8\xff\0\0", &[1; 0xfff8][..]].concat();
    // A gzip header, and then empty deflate blocks.
    let gzip_header = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    let table: [(&str, Vec<u8>, Vec<u8>); 6] = [
        ("skippable frames", zstd(&archive), skippable),
        ("empty blocks", gzip_header, b"\0\0\0\xff\xff".repeat(1000)),
        ("zeros after the archive", archive.clone(), vec![0; 4096]),
        ("zeros after gzip", gzip(&archive), vec![0; 4096]),
        ("files", Vec::new(), file("a", &[1; 4000])),
        ("a model", vec![8], vec![1; 4096]),
    ];
    for (name, first, again) in table {
        let endless = Cursor::new(first).chain(Endless { again, at: 0 });
        let error = unpacked_within(endless, &bounds).map(drop).unwrap_err();
        let is_bounded = match name {
            "files" => matches!(error, UnpackError::Duplicate { .. }),
            _ => matches!(error, UnpackError::TooLarge(_)),
        };
        assert!(is_bounded, "{name}: {error}");
    }
}

struct Endless {
    again: Vec<u8>,
    at: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = (&self.again[self.at..]).read(buffer)?;
        self.at = (self.at + read) % self.again.len();
        Ok(read)
    }
}
