//! Hostile archives, each with the expected error message.
//!
//! This module writes tar headers byte by byte, because libraries refuse to write invalid ones.
//! The unit tests unpack the archives, and the contract tests serve them from a store.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

/// The limits that the archives of [`hostile`] exceed.
pub const MAX_ENTRIES: u64 = 100;
pub const MAX_UNPACKED: u64 = 32 << 20;
pub const MAX_RATIO: u64 = 100;

const BLOCK: usize = 512;

pub struct Hostile {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// A part of the expected error message.
    pub says: &'static str,
}

/// Writes a header without any checks. `size` is the content of its field.
pub fn header(name: &[u8], kind: u8, size: &[u8]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..124 + size.len()].copy_from_slice(size);
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    block
}

/// Writes the checksum into a header.
pub fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Writes an entry: header, content, padding.
pub fn entry(name: &[u8], kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, kind, format!("{:011o}\0", content.len()).as_bytes());
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

pub fn file(name: &str, content: &[u8]) -> Vec<u8> {
    entry(name.as_bytes(), b'0', content)
}

pub fn folder(name: &str) -> Vec<u8> {
    entry(name.as_bytes(), b'5', b"")
}

/// Writes GNU's extension for the long name of the next entry.
pub fn long_name(name: &[u8]) -> Vec<u8> {
    entry(b"././@LongLink", b'L', &[name, b"\0"].concat())
}

/// Writes a PAX extension of kind `x` or `g`, with `records` of key and value.
pub fn pax(kind: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let mut text = String::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length != rest.len() + length.to_string().len() {
            length += 1;
        }
        text.push_str(&format!("{length}{rest}"));
    }
    entry(b"PaxHeaders/entry", kind, text.as_bytes())
}

/// Writes an archive of `parts` with the end marker.
pub fn tar(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = parts.concat();
    bytes.extend([0; 2 * BLOCK]);
    bytes
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::new(6));
    out.write_all(bytes).expect("writing to memory does not fail");
    out.finish().expect("writing to memory does not fail")
}

/// Compresses with zstd, including a checksum.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut out = zstd::stream::Encoder::new(Vec::new(), 1).expect("level 1 is valid");
    out.include_checksum(true).expect("zstd supports checksums");
    out.write_all(bytes).expect("writing to memory does not fail");
    out.finish().expect("writing to memory does not fail")
}

/// Writes content that does not compress.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn cut(mut bytes: Vec<u8>, missing: usize) -> Vec<u8> {
    bytes.truncate(bytes.len() - missing);
    bytes
}

/// Changes the byte at `from_end`.
fn flipped(mut bytes: Vec<u8>, from_end: usize) -> Vec<u8> {
    let at = bytes.len() - from_end;
    bytes[at] ^= 0x55;
    bytes
}

pub fn hostile() -> Vec<Hostile> {
    let mut all = names();
    all.extend(kinds());
    all.extend(twice());
    all.extend(too_much());
    all.extend(extensions());
    all.extend(damaged());
    all.extend(strangers());
    all
}

fn one(name: &'static str, parts: &[Vec<u8>], says: &'static str) -> Hostile {
    Hostile {
        name,
        bytes: gzip(&tar(parts)),
        says,
    }
}

fn names() -> Vec<Hostile> {
    let deep = "d/".repeat(70) + "model.onnx";
    let long = ("n".repeat(250) + "/").repeat(9) + "model.onnx";
    let escaping = "x/".repeat(60) + &"../".repeat(61) + "escaped";
    vec![
        one(
            "absolute path",
            &[file("/tmp/escaped", b"x")],
            "\"/tmp/escaped\" in it leads out",
        ),
        one(
            "path upwards",
            &[file("../escaped", b"x")],
            "\"../escaped\" in it leads out",
        ),
        one(
            "path upwards in the middle",
            &[file("a/../../escaped", b"x")],
            "leads out of the archive",
        ),
        one(
            "path that only seems to go up",
            &[file("a/../b", b"x")],
            "without \"..\"",
        ),
        one("folder upwards", &[folder("../escaped/")], "leads out of the archive"),
        one("the folder above", &[folder("..")], "leads out of the archive"),
        one(
            "long path upwards",
            &[long_name(escaping.as_bytes()), file("a", b"x")],
            "leads out",
        ),
        one("file without a name", &[file("", b"x")], "is not a file name"),
        one(
            "file named as the folder itself",
            &[file(".", b"x")],
            "is not a file name",
        ),
        one(
            "name that is not UTF-8",
            &[entry(b"n\xff", b'0', b"x")],
            "a name that is not UTF-8",
        ),
        one(
            "name with NUL",
            &[long_name(b"model.onnx\0.txt"), file("a", b"x")],
            "with a NUL character",
        ),
        one(
            "part of a name that is too long",
            &[long_name(&[b'n'; 256]), file("a", b"x")],
            "too long a name",
        ),
        one(
            "name that is too long",
            &[long_name(long.as_bytes()), file("a", b"x")],
            "too long a name",
        ),
        one(
            "path that is too deep",
            &[long_name(deep.as_bytes()), file("a", b"x")],
            "more than 64 folders deep",
        ),
    ]
}

/// Writes a sparse file in GNU tar's old layout. Its header has no map.
fn old_sparse(content: &[u8]) -> Vec<u8> {
    let mut bytes = entry(b"holes", b'S', content);
    bytes[257..265].copy_from_slice(b"ustar  \0");
    seal(&mut bytes[..BLOCK]);
    bytes
}

fn kinds() -> Vec<Hostile> {
    let link = |kind, target: &[u8]| {
        let mut bytes = header(b"weights", kind, b"00000000000\0");
        bytes[157..157 + target.len()].copy_from_slice(target);
        seal(&mut bytes);
        bytes
    };
    vec![
        one(
            "symbolic link",
            &[link(b'2', b"/etc/passwd")],
            "\"weights\" in it is a symbolic link",
        ),
        one(
            "file behind a symbolic link",
            &[link(b'2', b"/tmp"), file("weights/escaped", b"x")],
            "\"weights\" in it is a symbolic link",
        ),
        one(
            "hard link",
            &[link(b'1', b"/etc/passwd")],
            "\"weights\" in it is a hard link",
        ),
        one(
            "link with a long target",
            &[entry(b"././@LongLink", b'K', &[b't'; 300]), link(b'2', b"t")],
            "\"weights\" in it is a symbolic link",
        ),
        one(
            "character device",
            &[entry(b"null", b'3', b"")],
            "\"null\" in it is a device",
        ),
        one(
            "block device",
            &[entry(b"disk", b'4', b"")],
            "\"disk\" in it is a device",
        ),
        one("pipe", &[entry(b"fifo", b'6', b"")], "\"fifo\" in it is a pipe"),
        one(
            "part of several volumes",
            &[entry(b"rest", b'M', b"x")],
            "of an unknown type",
        ),
        one("unknown kind", &[entry(b"socket", b's', b"")], "of an unknown type"),
        one(
            "GNU sparse file with data outside its pieces",
            &[old_sparse(b"x")],
            "\"holes\" in it is a sparse file whose map does not fit the data",
        ),
        one(
            "GNU sparse file without a GNU header",
            &[entry(b"holes", b'S', b"x")],
            "\"holes\" in it is a sparse file whose map cannot be understood",
        ),
        one(
            "PAX sparse file without a map",
            &[
                pax(
                    b'x',
                    &[
                        ("GNU.sparse.major", "1"),
                        ("GNU.sparse.minor", "0"),
                        ("GNU.sparse.realsize", "9"),
                    ],
                ),
                file("holes", b"x"),
            ],
            "\"holes\" in it is a sparse file whose map does not fit the data",
        ),
        one(
            "sparse file with a piece outside its size",
            &[
                pax(b'x', &[("GNU.sparse.size", "9"), ("GNU.sparse.map", "9,1")]),
                file("holes", b"x"),
            ],
            "\"holes\" in it is a sparse file whose map has a piece past the end",
        ),
        one(
            "sparse file larger than the limit for archives",
            &[
                pax(b'x', &[("GNU.sparse.size", "99999999999"), ("GNU.sparse.map", "0,1")]),
                file("holes", b"x"),
            ],
            "it unpacks to more than",
        ),
        one(
            "sparse file of almost only holes",
            &[
                pax(b'x', &[("GNU.sparse.size", "30000000"), ("GNU.sparse.map", "0,1")]),
                file("holes", b"x"),
            ],
            "times its size",
        ),
        one(
            "star sparse file",
            &[pax(b'x', &[("SCHILY.realsize", "99999999999")]), file("holes", b"x")],
            "\"holes\" in it is a sparse file in star's format",
        ),
        one(
            "folder with content",
            &[entry(b"folder/", b'5', b"x")],
            "a folder with content of its own",
        ),
    ]
}

fn twice() -> Vec<Hostile> {
    vec![
        one(
            "file twice",
            &[file("a", b"1"), file("a", b"2")],
            "\"a\" in it is there twice",
        ),
        one(
            "file twice by another name",
            &[file("a", b"1"), file("./a", b"2")],
            "\"./a\" in it is there twice",
        ),
        one(
            "file twice by an extension",
            &[file("a/b", b"1"), pax(b'x', &[("path", "a//b")]), file("c", b"2")],
            "\"a//b\" in it is there twice",
        ),
        one(
            "folder in place of a file",
            &[file("a", b"1"), folder("a/")],
            "a file and a folder at once",
        ),
        one(
            "file in place of a folder",
            &[folder("a/"), file("a", b"1")],
            "a file and a folder at once",
        ),
        one(
            "file below a file",
            &[file("a", b"1"), file("a/b", b"2")],
            "a file and a folder at once",
        ),
    ]
}

fn too_much() -> Vec<Hostile> {
    let many: Vec<Vec<u8>> = (0..=MAX_ENTRIES).map(|at| file(&at.to_string(), b"")).collect();
    let implied: Vec<Vec<u8>> = (0..3)
        .flat_map(|at| {
            [
                long_name(format!("{at}/{}f", "d/".repeat(50)).as_bytes()),
                file("f", b""),
            ]
        })
        .collect();
    let zeros = tar(&[file("zeros", &vec![0; 24 << 20])]);
    vec![
        one(
            "too many entries",
            &many,
            "more than 100 entries; pack fewer, or raise --max-entries",
        ),
        one("too many folders on the way", &implied, "more than 100 entries"),
        Hostile {
            name: "too many bytes",
            bytes: gzip(&header(b"huge", b'0', b"77777777777\0")),
            says: "more than 33554432 bytes; pack less, or raise --max-unpacked",
        },
        Hostile {
            name: "size larger than 64 bits",
            bytes: gzip(&header(b"huge", b'0', b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff")),
            says: "more than 33554432 bytes",
        },
        Hostile {
            name: "negative size",
            bytes: gzip(&header(b"less", b'0', &[0xff; 12])),
            says: "after its beginning there is no valid tar header",
        },
        Hostile {
            name: "bomb in gzip",
            bytes: gzip(&zeros),
            says: "more than 100 times its size; pack it uncompressed (tar), or raise --max-ratio",
        },
        Hostile {
            name: "bomb in zstd",
            bytes: zstd(&zeros),
            says: "more than 100 times its size",
        },
        Hostile {
            name: "zstd that needs memory",
            bytes: b"\x28\xb5\x2f\xfd\x00\xa0\x01\0\0".to_vec(),
            says: "takes more than 8 MiB of memory to decompress",
        },
    ]
}

fn extensions() -> Vec<Hostile> {
    let named = |records: &[(&str, &str)]| [pax(b'x', records), file("a", b"12345")];
    vec![
        one(
            "extension with a path upwards",
            &named(&[("path", "../escaped")]),
            "leads out of the archive",
        ),
        one(
            "extension with an absolute path",
            &named(&[("path", "/tmp/escaped")]),
            "leads out of the archive",
        ),
        one(
            "extension with NUL in the path",
            &named(&[("path", "a\0b")]),
            "with a NUL character",
        ),
        one("extension with no path", &named(&[("path", "")]), "is not a file name"),
        one(
            "extension with another size",
            &named(&[("size", "512")]),
            "\"a\" in it has two sizes, 5 and 512 bytes",
        ),
        one(
            "extension with a huge size",
            &named(&[("size", "99999999999")]),
            "more than 33554432 bytes",
        ),
        one(
            "extension with a size that is not a number",
            &named(&[("size", "-1")]),
            "a size that is not a number",
        ),
        one(
            "extension with another charset",
            &named(&[("hdrcharset", "KOI8-R")]),
            "is in \"KOI8-R\"",
        ),
        one(
            "extension with two names",
            &named(&[("path", "b"), ("path", "c")]),
            "names it twice",
        ),
        one(
            "extensions of two kinds",
            &[long_name(b"b"), pax(b'x', &[("path", "c")]), file("a", b"x")],
            "names it twice",
        ),
        one(
            "extension twice",
            &[
                pax(b'x', &[("comment", "1")]),
                pax(b'x', &[("comment", "2")]),
                file("a", b"x"),
            ],
            "is there twice",
        ),
        one(
            "extension of all entries with a name",
            &[pax(b'g', &[("path", "b")]), file("a", b"x")],
            "gives all entries one name or size",
        ),
        one(
            "extension of all entries as sparse files",
            &[pax(b'g', &[("GNU.sparse.major", "1")]), file("a", b"x")],
            "makes all entries sparse files",
        ),
        one(
            "malformed extension",
            &[entry(b"pax", b'x', b"99 path=b\n"), file("a", b"x")],
            "cannot be understood",
        ),
        one(
            "extension that is too long",
            &[long_name(&[b'n'; 70_000]), file("a", b"x")],
            "more than 65536 bytes",
        ),
        one(
            "extension without an entry",
            &[file("a", b"x"), long_name(b"b")],
            "after \"a\" has no entry that it describes",
        ),
    ]
}

fn damaged() -> Vec<Hostile> {
    let whole = tar(&[file("a", &noise(2000)), file("b", &noise(2000))]);
    let raw = |name, bytes, says| Hostile { name, bytes, says };
    let mut after_end = tar(&[file("a", b"1")]);
    after_end.extend(tar(&[file("b", b"2")]));
    let mut behind_zeros = tar(&[file("a", b"1")]);
    behind_zeros.extend([0; 9000]);
    behind_zeros.push(1);
    vec![
        raw(
            "gzip cut short",
            cut(gzip(&whole), 1000),
            "its compressed data are cut short",
        ),
        raw(
            "gzip without its checksum",
            cut(gzip(&whole), 8),
            "its compressed data are cut short",
        ),
        raw(
            "zstd cut short",
            cut(zstd(&whole), 1000),
            "its compressed data are cut short",
        ),
        raw(
            "zstd without its checksum",
            cut(zstd(&whole), 4),
            "its compressed data are cut short",
        ),
        raw("tar cut short", cut(whole.clone(), 2000), "it is cut short in \"b\""),
        raw(
            "tar without an end",
            cut(whole.clone(), 2 * BLOCK),
            "its end-of-archive marker is missing",
        ),
        raw(
            "wrong checksum in gzip",
            flipped(gzip(&whole), 6),
            "does not have a matching checksum",
        ),
        raw(
            "wrong length in gzip",
            flipped(gzip(&whole), 1),
            "does not have a matching checksum",
        ),
        raw("wrong checksum in zstd", flipped(zstd(&whole), 1), "checksum"),
        raw(
            "wrong byte in gzip",
            b"\x1f\x8bnothing of the kind".to_vec(),
            "it is damaged (invalid gzip header)",
        ),
        raw(
            "wrong checksum of a header",
            flipped(whole.clone(), whole.len() - 3),
            "there is no valid tar header",
        ),
        raw("entries after the end", after_end, "something follows its end"),
        raw(
            "something far behind the end",
            gzip(&behind_zeros),
            "something follows its end",
        ),
        raw(
            "something behind gzip",
            [gzip(&whole), b"more".to_vec()].concat(),
            "something follows its end",
        ),
        raw(
            "something behind gzip and zeros",
            [gzip(&whole), b"\0\0more".to_vec()].concat(),
            "something follows its end",
        ),
        raw(
            "something behind zstd",
            [zstd(&whole), b"more".to_vec()].concat(),
            "it is damaged",
        ),
        raw(
            "zstd behind gzip",
            [gzip(&whole), zstd(&whole)].concat(),
            "something follows its end",
        ),
    ]
}

fn strangers() -> Vec<Hostile> {
    let raw = |name, bytes: &[u8], says| Hostile {
        name,
        bytes: bytes.to_vec(),
        says,
    };
    let page = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code></Error>";
    vec![
        raw("empty file", b"", "it is empty"),
        raw("empty gzip", &gzip(b""), "it is empty"),
        raw("empty archive", &tar(&[]), "has no file in it"),
        raw(
            "archive of folders",
            &gzip(&tar(&[folder("a/"), folder("a/b/")])),
            "has no file in it",
        ),
        raw(
            "zip archive",
            b"PK\x03\x04\x14\0\0\0",
            "it is a zip archive; pack it as .tar.gz",
        ),
        raw("xz", b"\xfd7zXZ\0\0\x04", "it is compressed with xz"),
        raw("error page", page, "it is an HTML or XML document"),
        raw(
            "response of a service",
            b"{\"message\": \"Forbidden\"}",
            "it is a JSON document",
        ),
        raw(
            "Git LFS pointer",
            b"version https://git-lfs.github.com/spec/v1\n",
            "it is a pointer of Git LFS",
        ),
        raw(
            "compressed model",
            &gzip(b"\x08\x08\x12\x07pytorch"),
            "compressed content is not a tar archive",
        ),
        raw(
            "gzip in gzip",
            &gzip(&gzip(&tar(&[file("a", &noise(1000))]))),
            "compressed content is not a tar archive",
        ),
    ]
}
