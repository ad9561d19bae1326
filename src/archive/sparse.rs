//! Sparse files as GNU tar writes them: a file's data without its holes, and a map of where each
//! piece goes.
//!
//! Four layouts are in use. The old GNU layout has the map in the header and in blocks after it.
//! The three PAX layouts have it in records (0.0: a pair of records for each piece; 0.1: one list)
//! or before the data (1.0).
//! <https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html> documents them.
//!
//! A [`SparseMap`] is checked when it is built: its pieces are in order, do not overlap, lie inside
//! the file, and use exactly the bytes that the archive holds. So every reader produces the same
//! file.

use tar::{GnuExtSparseHeader, GnuHeader, GnuSparseHeader};

use super::header;

/// Most pieces of one file. The map stays in memory while the file is written.
pub(super) const MAX_PIECES: usize = 100_000;

/// A run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparsePiece {
    pub offset: u64,
    pub length: u64,
}

/// The layout of one sparse file.
#[derive(Debug, PartialEq, Eq)]
pub struct SparseMap {
    pub pieces: Vec<SparsePiece>,
    /// Bytes of the file, holes included.
    pub size: u64,
}

impl SparseMap {
    /// Checks the `pieces` of a file of `size` bytes whose data take `stored` bytes in the archive.
    pub fn new(pieces: Vec<SparsePiece>, size: u64, stored: u64) -> Result<Self, &'static str> {
        let mut end = 0;
        let mut held = 0u64;
        for piece in &pieces {
            if piece.offset < end {
                return Err("has pieces that overlap");
            }
            end = piece
                .offset
                .checked_add(piece.length)
                .ok_or("has a piece without end")?;
            held += piece.length;
        }
        if end > size {
            Err("has a piece past the end of the file")
        } else if held != stored {
            Err("does not fit the data that follow")
        } else {
            Ok(Self { pieces, size })
        }
    }

    /// Bytes that the archive does not hold.
    pub fn holes(&self) -> u64 {
        self.size - self.pieces.iter().map(|piece| piece.length).sum::<u64>()
    }
}

/// Reads the old GNU layout: the beginning of the map, the file's size, and whether another block
/// of the map follows.
pub fn in_header(header: &GnuHeader) -> Option<(Vec<SparsePiece>, u64, bool)> {
    let size = header::number(&header.realsize)?;
    Some((pieces(&header.sparse)?, size, header.isextended[0] != 0))
}

/// Reads a block of the old GNU layout's map, and whether another one follows.
pub fn in_block(block: &GnuExtSparseHeader) -> Option<(Vec<SparsePiece>, bool)> {
    Some((pieces(&block.sparse)?, block.isextended[0] != 0))
}

/// The pieces up to the first unused field.
fn pieces(fields: &[GnuSparseHeader]) -> Option<Vec<SparsePiece>> {
    let used = fields.iter().take_while(|field| !field.is_empty());
    used.map(|field| {
        Some(SparsePiece {
            offset: header::number(&field.offset)?,
            length: header::number(&field.numbytes)?,
        })
    })
    .collect()
}

/// The PAX records of a sparse file.
#[derive(Debug, Default)]
pub struct SparseRecords {
    /// The file's name. The entry's own name is a substitute for readers that do not know the
    /// layout.
    pub name: Option<Vec<u8>>,
    size: Option<u64>,
    major: Option<u64>,
    minor: Option<u64>,
    /// Offsets and lengths in turn, as layouts 0.0 and 0.1 have them.
    numbers: Vec<u64>,
}

/// The location of the map of a file with PAX records.
#[derive(Debug, PartialEq, Eq)]
pub enum MapLocation {
    Records(Vec<SparsePiece>, u64),
    /// Before the data. Holds the file's size.
    Data(u64),
}

impl SparseRecords {
    /// Reads the record `GNU.sparse.{key}`.
    pub fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        const WRONG: &str = "has a sparse file's map that cannot be understood";
        let number = || decimal(value).ok_or(WRONG);
        match key {
            b"name" => self.name = Some(value.to_owned()),
            b"size" | b"realsize" => self.size = Some(number()?),
            b"major" => self.major = Some(number()?),
            b"minor" => self.minor = Some(number()?),
            // Redundant: the pieces are counted as they come.
            b"numblocks" => {}
            b"offset" if self.numbers.len().is_multiple_of(2) => self.numbers.push(number()?),
            b"numbytes" if !self.numbers.len().is_multiple_of(2) => self.numbers.push(number()?),
            b"map" if self.numbers.is_empty() => {
                let numbers = value.split(|byte| *byte == b',').map(decimal);
                self.numbers = numbers.collect::<Option<_>>().ok_or(WRONG)?;
            }
            _ => return Err(WRONG),
        }
        Ok(())
    }

    /// Finds the map. `Err` describes what is wrong with the records.
    pub fn location(self) -> Result<MapLocation, &'static str> {
        let size = self.size.ok_or("does not give the file's size")?;
        match (self.major, self.minor) {
            (Some(1), Some(0)) if self.numbers.is_empty() => Ok(MapLocation::Data(size)),
            (None | Some(0), _) if self.numbers.len().is_multiple_of(2) => {
                let pieces = self.numbers.chunks_exact(2).map(|pair| SparsePiece {
                    offset: pair[0],
                    length: pair[1],
                });
                Ok(MapLocation::Records(pieces.collect(), size))
            }
            _ => Err("is in a layout that is not known"),
        }
    }
}

/// Parses the map that precedes the data: the number of pieces, then their numbers, one per line.
#[derive(Debug, Default)]
pub struct MapReader {
    line: Vec<u8>,
    pieces: Option<usize>,
    numbers: Vec<u64>,
}

impl MapReader {
    /// Parses the next block. Returns the pieces when the map ends in it.
    pub fn block(&mut self, block: &[u8]) -> Result<Option<Vec<SparsePiece>>, &'static str> {
        /// Digits of the largest number.
        const MAX_DIGITS: usize = 20;
        for byte in block {
            if *byte != b'\n' {
                if self.line.len() == MAX_DIGITS {
                    return Err("cannot be understood");
                }
                self.line.push(*byte);
                continue;
            }
            let number = decimal(&self.line).ok_or("cannot be understood")?;
            self.line.clear();
            match self.pieces {
                None => {
                    let pieces = usize::try_from(number).ok().filter(|pieces| *pieces <= MAX_PIECES);
                    self.pieces = Some(pieces.ok_or("has too many pieces")?);
                }
                Some(_) => self.numbers.push(number),
            }
            if self.pieces.is_some_and(|pieces| self.numbers.len() == 2 * pieces) {
                let pairs = self.numbers.chunks_exact(2);
                let pieces = pairs.map(|pair| SparsePiece {
                    offset: pair[0],
                    length: pair[1],
                });
                return Ok(Some(pieces.collect()));
            }
        }
        Ok(None)
    }
}

/// Parses a number that consists of digits only.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(pairs: &[(u64, u64)]) -> Vec<SparsePiece> {
        pairs
            .iter()
            .map(|&(offset, length)| SparsePiece { offset, length })
            .collect()
    }

    #[test]
    fn a_map_must_cover_the_stored_data_in_order_and_inside_the_file() {
        type Case<'a> = (&'a [(u64, u64)], u64, u64, Result<u64, &'a str>);
        let table: [Case<'_>; 9] = [
            (&[], 0, 0, Ok(0)),
            (&[], 100, 0, Ok(100)),
            (&[(0, 10), (20, 5), (100, 0)], 100, 15, Ok(85)),
            (&[(0, 10), (10, 5)], 15, 15, Ok(0)),
            (&[(0, 10), (9, 5)], 100, 15, Err("overlap")),
            (&[(20, 5), (0, 10)], 100, 15, Err("overlap")),
            (&[(90, 20)], 100, 20, Err("past the end")),
            (&[(u64::MAX, 2)], u64::MAX, 2, Err("without end")),
            (&[(0, 10)], 100, 11, Err("does not fit")),
        ];
        for (map, size, stored, expected) in table {
            match (SparseMap::new(pieces(map), size, stored), expected) {
                (Ok(map), Ok(holes)) => assert_eq!(map.holes(), holes, "{map:?}"),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{map:?}: {error}"),
                (found, expected) => panic!("{map:?}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_map_before_the_data_may_span_several_blocks() {
        let text = b"2\n0\n10\n20\n5\n\0\0\0\0";
        for split in 0..text.len() {
            let mut reader = MapReader::default();
            let (first, second) = text.split_at(split);
            let found = reader.block(first).unwrap().or_else(|| reader.block(second).unwrap());
            assert_eq!(found, Some(pieces(&[(0, 10), (20, 5)])), "{split}");
        }
        for wrong in [&b"x\n"[..], b"\n", b"-1\n", b"100001\n", b"123456789012345678901\n"] {
            assert!(MapReader::default().block(wrong).is_err(), "{}", wrong.escape_ascii());
        }
        assert_eq!(MapReader::default().block(b"0\n").unwrap(), Some(Vec::new()));
    }

    #[test]
    fn records_hold_the_map_or_locate_it_before_the_data() {
        type Case<'a> = (&'a [(&'a str, &'a str)], Option<MapLocation>);
        let table: [Case<'_>; 8] = [
            (
                &[
                    ("size", "30"),
                    ("numblocks", "2"),
                    ("offset", "0"),
                    ("numbytes", "10"),
                    ("offset", "20"),
                    ("numbytes", "5"),
                ],
                Some(MapLocation::Records(pieces(&[(0, 10), (20, 5)]), 30)),
            ),
            (
                &[("size", "30"), ("map", "0,10,20,5"), ("name", "x")],
                Some(MapLocation::Records(pieces(&[(0, 10), (20, 5)]), 30)),
            ),
            (
                &[("major", "1"), ("minor", "0"), ("realsize", "30")],
                Some(MapLocation::Data(30)),
            ),
            (&[("major", "2"), ("minor", "0"), ("realsize", "30")], None),
            (&[("map", "0,10")], None),
            (&[("size", "30"), ("map", "0,10,20")], None),
            (&[("size", "30"), ("numbytes", "10")], None),
            (&[("size", "30"), ("unknown", "1")], None),
        ];
        for (given, expected) in table {
            let mut records = SparseRecords::default();
            let taken = given
                .iter()
                .try_for_each(|(key, value)| records.record(key.as_bytes(), value.as_bytes()));
            let found = taken.and_then(|()| records.location()).ok();
            assert_eq!(found, expected, "{given:?}");
        }
    }
}
