//! What goes before an entry and says of it what its header has no room for.
//!
//! GNU's tar writes long names so, PAX writes names, sizes and much that is nobody's business here. Whatever changes
//! what an entry is has to be understood or refused; the rest is passed over.

use super::error::{UnpackError, brief};
use super::sparse;

/// Longest extension.
pub(super) const MAX_EXTENSION_BYTES: u64 = 64 << 10;

/// From which size on a header may have no room for it.
const LARGE: u64 = 8 << 30;

/// What the extensions before an entry say of it.
#[derive(Debug, Default)]
pub struct Extension {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    /// GNU's records of a sparse file.
    sparse: Option<sparse::Records>,
    /// star's mark of a sparse file, whose map is not read.
    is_star_sparse: bool,
    has_pax: bool,
}

/// Whose extension it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Next,
    /// Of all entries that follow.
    All,
}

impl Extension {
    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        self.name.is_none() && !self.has_pax
    }

    pub fn is_star_sparse(&self) -> bool {
        self.is_star_sparse
    }

    /// Takes the records of a sparse file out.
    pub fn sparse(&mut self) -> Option<sparse::Records> {
        self.sparse.take()
    }

    /// The entry's name, which in its header is `name`.
    pub fn name(&mut self, name: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        let of_sparse = self.sparse.as_mut().and_then(|records| records.name.take());
        of_sparse.or_else(|| self.name.take()).unwrap_or_else(name)
    }

    /// The entry's size, which in its header is `size`: `Err` holds the other when there are two of them.
    pub fn size(&self, size: u64) -> Result<u64, u64> {
        match self.size {
            Some(extended) if extended != size && extended < LARGE => Err(extended),
            extended => Ok(extended.unwrap_or(size)),
        }
    }

    /// Takes in GNU's long name.
    pub fn long_name(&mut self, text: &[u8], after: &str) -> Result<(), UnpackError> {
        let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        self.rename(&text[..end], after)
    }

    /// Takes in PAX's records.
    pub fn records(&mut self, text: &[u8], scope: Scope, after: &str) -> Result<(), UnpackError> {
        let wrong = |what| UnpackError::Extension {
            after: after.to_owned(),
            what,
        };
        if scope == Scope::Next && std::mem::replace(&mut self.has_pax, true) {
            return Err(wrong("is there twice"));
        }
        let mut rest = text;
        while !rest.is_empty() {
            let (key, value, next) = record(rest).ok_or_else(|| wrong("cannot be understood"))?;
            rest = next;
            match key {
                b"hdrcharset" => charset(value, after)?,
                b"path" | b"size" | b"linkpath" if scope == Scope::All => {
                    return Err(wrong("gives all entries one name or size"));
                }
                b"path" => self.rename(value, after)?,
                b"size" => {
                    let size = str::from_utf8(value).ok().filter(|size| !size.starts_with('+'));
                    let size = size.and_then(|size| size.parse().ok());
                    self.size = Some(size.ok_or_else(|| wrong("has a size that is no number"))?);
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
        if scope == Scope::All && (self.is_star_sparse || self.sparse.is_some()) {
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
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// The first of PAX's records, "8 key=x\n" with its own length before it.
fn record(text: &[u8]) -> Option<Record<'_>> {
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

/// Names are UTF-8, or bytes that will be seen to be UTF-8 or not.
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
    fn records_are_as_long_as_they_say() {
        let table: [(&[u8], Option<Record<'_>>); 12] = [
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
    fn a_size_of_its_own_is_for_what_a_header_has_no_room_for() {
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
                extension.records(text.as_bytes(), Scope::Next, "").unwrap();
            }
            assert_eq!(extension.size(header), expected, "{extended:?} {header}");
        }
    }
}
