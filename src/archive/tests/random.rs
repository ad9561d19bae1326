//! Archives of arbitrary parts and bytes, and random artifacts packed and unpacked again.

use super::*;

/// A sparse file with a map that may be wrong, in the layout that has the map before the data.
fn sparse(map: &[(u64, u64)], size: u64) -> Vec<u8> {
    let mut content = format!("{}\n", map.len());
    for (offset, length) in map {
        content.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut content = content.into_bytes();
    content.resize(content.len().next_multiple_of(512), 0);
    content.extend(noise(map.iter().map(|(_, length)| *length as usize).sum()));
    let records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "holes"),
        ("GNU.sparse.realsize", &size.to_string()),
    ];
    [pax(b'x', &records), file("holes", &content)].concat()
}

/// A part of an archive, as an attacker might write it.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let name = || "(\\.\\./|/|\\./|a|b|a/|é|\\x00){0,4}";
    let kind = prop_oneof![4 => Just(b'0'), 2 => Just(b'5'), 1 => any::<u8>()];
    let key = prop_oneof!["path", "size", "linkpath", "hdrcharset", "comment"];
    let map = prop::collection::vec((0u64..700, 0u64..700), 0..4);
    prop_oneof![
        6 => (name(), kind, prop::collection::vec(any::<u8>(), 0..600))
            .prop_map(|(name, kind, content)| entry(name.as_bytes(), kind, &content)),
        1 => name().prop_map(|name| long_name(name.as_bytes())),
        1 => (key, name()).prop_map(|(key, value)| pax(b'x', &[(&key, &value)])),
        2 => (map, 0u64..5000).prop_map(|(map, size)| sparse(&map, size)),
        1 => prop::collection::vec(any::<u8>(), 512).prop_map(|mut bytes| {
            bytes.truncate(512);
            bytes
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn an_archive_of_arbitrary_parts_stays_within_its_folder_and_limits(
        parts in prop::collection::vec(part(), 0..12),
        entries in 0u64..12,
        bytes in 0u64..3000,
        kind in 0..3,
    ) {
        let archive = tar(&parts);
        let archive = match kind { 0 => archive, 1 => gzip(&archive), _ => zstd(&archive) };
        let _ = unpacked_within(&archive[..], &UnpackLimits { entries, bytes, ratio: 1 });
    }

    #[test]
    fn arbitrary_bytes_write_nothing_outside_the_folder(bytes: Vec<u8>, beginning in 0..5) {
        let beginning: &[u8] = match beginning {
            0 => b"",
            1 => b"\x1f\x8b\x08\0\0\0\0\0\0\xff",
            2 => b"\x28\xb5\x2f\xfd",
            3 => b"\x28\xb5\x2f\xfd\x24\x10",
            _ => b"\x50\x2a\x4d\x18\x03\0\0\0",
        };
        let _ = unpacked(&[beginning, &bytes].concat());
    }

    #[test]
    fn a_packed_artifact_unpacks_to_the_same_files(
        contents in prop::collection::btree_map(
            "[a-zé]{1,8}(/[f-k ]{1,120}){0,3}\\.x",
            prop::collection::vec(any::<u8>(), 0..2000),
            1..8,
        ),
    ) {
        let sources = contents.iter().map(|(name, bytes)| (name.clone(), PackSource::Bytes(bytes.clone()))).collect();
        let mut archive = Vec::new();
        write(&sources, &mut archive).unwrap();
        prop_assert_eq!(unpacked(&archive).unwrap(), contents);
    }
}
