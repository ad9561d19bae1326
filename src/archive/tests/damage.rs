//! Damaged archives, and sources and folders that fail.

use super::*;

#[test]
fn an_archive_cut_at_any_point_is_refused() {
    let (archive, _) = two();
    let kinds = [
        ("tar", archive[..archive.len() - 512].to_vec()),
        ("gzip", gzip(&archive)),
        ("zstd", zstd(&archive)),
    ];
    for (kind, bytes) in kinds {
        for length in (0..bytes.len()).step_by(37).chain(bytes.len() - 9..bytes.len()) {
            match unpacked(&bytes[..length]) {
                // So few bytes do not tell the format yet.
                Ok(found) if length < 4 => assert_eq!(found, files(&[("model.onnx", &bytes[..length])])),
                Ok(found) if kind == "tar" && length < 512 => assert_eq!(found.len(), 1),
                Ok(_) => panic!("{kind} of {length} bytes"),
                Err(UnpackError::Source(_) | UnpackError::Write { .. } | UnpackError::NoRoom { .. }) => {
                    panic!("{kind} of {length} bytes: the error does not blame the archive")
                }
                Err(_) => {}
            }
        }
    }
}

#[test]
fn a_failing_source_is_not_reported_as_a_damaged_archive() {
    let (archive, _) = two();
    let zeros = [gzip(&archive), vec![0; 300]].concat();
    for bytes in [archive.clone(), gzip(&archive), zstd(&archive), zeros, noise(3000)] {
        for length in (0..=bytes.len()).step_by(131).chain([bytes.len()]) {
            for kind in [
                io::ErrorKind::UnexpectedEof,
                io::ErrorKind::InvalidData,
                io::ErrorKind::WouldBlock,
            ] {
                let source = Cursor::new(&bytes[..length]).chain(Failing(kind));
                let error = unpacked_within(source, &BOUNDS).map(drop).unwrap_err();
                let is_source = matches!(&error, UnpackError::Source(error) if error.kind() == kind);
                assert!(is_source, "after {length} of {}: {error}", bytes.len());
            }
        }
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_not_reported_as_a_damaged_archive() {
    let gone = tempfile::tempdir().unwrap().path().join("gone");
    for bytes in [tar(&[file("a/b", b"x")]), tar(&[folder("a/")]), noise(100)] {
        let error = unpack(&bytes[..], ExpectedFormat::Anything("model.onnx"), &gone, &BOUNDS).unwrap_err();
        assert!(matches!(error, UnpackError::Write { .. }), "{error}");
    }
}

struct Failing(io::ErrorKind);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(self.0.into())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn checksums_detect_a_changed_byte(at: prop::sample::Index, byte in 1u8.., is_gzip: bool) {
        let (archive, expected) = two();
        let mut bytes = if is_gzip { gzip(&archive) } else { zstd(&archive) };
        let at = at.index(bytes.len());
        bytes[at] ^= byte;
        match unpacked(&bytes) {
            Ok(found) => prop_assert!(found == expected || found.contains_key("model.onnx"), "at {at}"),
            Err(error) => prop_assert!(!matches!(error, UnpackError::Source(_)), "{error}"),
        }
    }
}
