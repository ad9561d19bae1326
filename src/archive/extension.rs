//! PAX and GNU extended headers, which precede an entry: long names and large sizes.
//!
//! GNU tar writes long names this way. PAX writes names, sizes and much that does not matter here.
//! A record that changes what an entry is has to be understood or refused; the rest is skipped.

use super::error::{UnpackError, brief};
use super::sparse;

/// Longest extension.
pub(super) const MAX_EXTENSION_BYTES: u64 = 64 << 10;

/// The size from which a header may be too small to hold it.
const LARGE: u64 = 8 << 30;

/// The contents of the extended headers before an entry.
#[derive(Debug, Default)]
pub struct Extension {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    /// GNU's records of a sparse file.
    sparse: Option<sparse::SparseRecords>,
    /// Whether star marked a sparse file, whose map is not read.
    is_star_sparse: bool,
    has_pax: bool,
}

/// The entries that an extended header applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtensionScope {
    Next,
    /// All entries that follow.
    All,
}

impl Extension {
    /// Whether there was no extended header.
    pub fn is_empty(&self) -> bool {
        self.name.is_none() && !self.has_pax
    }

    pub fn is_star_sparse(&self) -> bool {
        self.is_star_sparse
    }

    /// Takes the records of a sparse file.
    pub fn sparse(&mut self) -> Option<sparse::SparseRecords> {
        self.sparse.take()
    }

    /// The entry's name; `name` is the one in its header.
    pub fn name(&mut self, name: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        let of_sparse = self.sparse.as_mut().and_then(|records| records.name.take());
        of_sparse.or_else(|| self.name.take()).unwrap_or_else(name)
    }

    /// The entry's size; `size` is the one in its header. `Err` holds the extended size where the
    /// two contradict each other.
    pub fn size(&self, size: u64) -> Result<u64, u64> {
        match self.size {
            Some(extended) if extended != size && extended < LARGE => Err(extended),
            extended => Ok(extended.unwrap_or(size)),
        }
    }

    /// Reads GNU's long name.
    pub fn long_name(&mut self, text: &[u8], after: &str) -> Result<(), UnpackError> {
        let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        self.rename(&text[..end], after)
    }

    /// Reads PAX records.
    pub fn records(&mut self, text: &[u8], scope: ExtensionScope, after: &str) -> Result<(), UnpackError> {
        let wrong = |what| UnpackError::Extension {
            after: after.to_owned(),
            what,
        };
        if scope == ExtensionScope::Next && std::mem::replace(&mut self.has_pax, true) {
            return Err(wrong("is there twice"));
        }
        let mut rest = text;
        while !rest.is_empty() {
            let (key, value, next) = record(rest).ok_or_else(|| wrong("cannot be understood"))?;
            rest = next;
            match key {
                b"hdrcharset" => charset(value, after)?,
                b"path" | b"size" | b"linkpath" if scope == ExtensionScope::All => {
                    return Err(wrong("gives all entries one name or size"));
                }
                b"path" => self.rename(value, after)?,
                b"size" => {
                    let size = str::from_utf8(value).ok().filter(|size| !size.starts_with('+'));
                    let size = size.and_then(|size| size.parse().ok());
                    self.size = Some(size.ok_or_else(|| wrong("has a size that is not a number"))?);
                }
                b"SCHILY.realsize" => self.is_star_sparse = true,
                key => {
                    if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        let records = self.sparse.get_or_insert_default();
                        records.record(key, value).map_err(wrong)?;
                    }
                }
            }
        }
        if scope == ExtensionScope::All && (self.is_star_sparse || self.sparse.is_some()) {
            return Err(wrong("makes all entries sparse files"));
        }
        Ok(())
    }

    fn rename(&mut self, name: &[u8], after: &str) -> Result<(), UnpackError> {
        match self.name.replace(name.to_owned()) {
            None => Ok(()),
            Some(_) => Err(UnpackError::Extension {
                after: after.to_owned(),
                what: "names it twice",
            }),
        }
    }
}

/// Key, value, and what follows the record.
type PaxRecord<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Splits off the first PAX record, such as "8 key=x\n", which begins with its own length.
fn record(text: &[u8]) -> Option<PaxRecord<'_>> {
    let digits = text.iter().position(|byte| *byte == b' ')?;
    let length = text
        .get(..digits)
        .filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let length: usize = str::from_utf8(length).ok()?.parse().ok()?;
    let (record, rest) = text.split_at_checked(length)?;
    let record = record.get(digits + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

/// Accepts UTF-8 names, and raw bytes, whose encoding is checked later.
fn charset(charset: &[u8], after: &str) -> Result<(), UnpackError> {
    match charset {
        b"ISO-IR 10646 2000 UTF-8" | b"BINARY" => Ok(()),
        other => Err(UnpackError::Charset {
            after: after.to_owned(),
            charset: brief(&String::from_utf8_lossy(other)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_must_have_the_length_that_it_states() {
        let table: [(&[u8], Option<PaxRecord<'_>>); 12] = [
            (b"8 key=x\n", Some((b"key", b"x", b""))),
            (b"8 key=x\n8 key=y\n", Some((b"key", b"x", b"8 key=y\n"))),
            (b"12 key=a\nb=\n", Some((b"key", b"a\nb=", b""))),
            (b"7 key=\n9 ", Some((b"key", b"", b"9 "))),
            (b"9 key=x\n", None),
            (b"7 key=x\n", None),
            (b"8 keyxx\n", None),
            (b"8key=xx\n", None),
            (b"1 key=x\n", None),
            (b"-8 key=x\n", None),
            (b"99999999999999999999999 key=x\n", None),
            (b"", None),
        ];
        for (text, expected) in table {
            assert_eq!(record(text), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn an_extended_size_may_differ_only_where_the_header_is_too_small_for_it() {
        let table = [
            (None, 5, Ok(5)),
            (Some("5"), 5, Ok(5)),
            (Some("6"), 5, Err(6)),
            (Some("0"), 5, Err(0)),
            (Some("8589934592"), 0, Ok(LARGE)),
            (Some("8589934591"), 0, Err(LARGE - 1)),
        ];
        for (extended, header, expected) in table {
            let mut extension = Extension::default();
            if let Some(size) = extended {
                let length = size.len() + if size.len() == 1 { 8 } else { 9 };
                let text = format!("{length} size={size}\n");
                extension.records(text.as_bytes(), ExtensionScope::Next, "").unwrap();
            }
            assert_eq!(extension.size(header), expected, "{extended:?} {header}");
        }
    }
}
