//! Reads the tables and the parameters of the scan, which come before the scan's data.

use super::huffman::HuffmanTable;
use super::zigzag::NATURAL_ORDER;
use crate::vision::header::jpeg::{DHT, DQT, DRI, Jpeg, segment};

/// The factors of the 64 coefficients of a block, row by row.
pub(super) type Quantization = [i16; 64];

/// The tables of a scan. A file numbers the tables of each kind from 0 to 3.
pub(super) struct Tables {
    dc: [Option<HuffmanTable>; 4],
    ac: [Option<HuffmanTable>; 4],
    /// MCUs between restart markers; 0 in a file without them.
    pub restart_interval: usize,
}

/// The tables of one component.
pub(super) struct ComponentTables {
    pub quantization: Quantization,
    pub dc: usize,
    pub ac: usize,
}

impl Tables {
    /// Reads the tables of a scan that has all components and all coefficients. `None` for another
    /// scan, and if a table is damaged or unusual.
    pub(super) fn read(bytes: &[u8], jpeg: &Jpeg) -> Option<(Self, Vec<ComponentTables>)> {
        let defined = Definitions::read(bytes, jpeg)?;
        let mut tables = Self {
            dc: [const { None }; 4],
            ac: [const { None }; 4],
            restart_interval: defined.restart_interval.into(),
        };
        let header = bytes.get(jpeg.first_scan..jpeg.first_data)?;
        let (&count, header) = header.split_first()?;
        let (selectors, range) = header.split_at_checked(2 * usize::from(count))?;
        // All coefficients (0 to 63), with all their bits.
        if usize::from(count) != jpeg.components.len() || range != [0, 63, 0] {
            return None;
        }
        let mut components = Vec::with_capacity(jpeg.components.len());
        for (component, &[id, numbers]) in jpeg.components.iter().zip(selectors.as_chunks::<2>().0) {
            if id != component.id {
                return None;
            }
            let (dc, ac) = (usize::from(numbers >> 4), usize::from(numbers & 15));
            let (dc_table, ac_table) = (tables.dc.get_mut(dc)?, tables.ac.get_mut(ac)?);
            if dc_table.is_none() {
                *dc_table = Some(HuffmanTable::of_dc(defined.dc[dc]?)?);
            }
            if ac_table.is_none() {
                *ac_table = Some(HuffmanTable::of_ac(defined.ac[ac]?)?);
            }
            let factors = defined.quantization.get(usize::from(component.quantization))?;
            components.push(ComponentTables {
                quantization: in_rows((*factors)?),
                dc,
                ac,
            });
        }
        Some((tables, components))
    }

    pub(super) fn dc(&self, number: usize) -> Option<&HuffmanTable> {
        self.dc.get(number)?.as_ref()
    }

    pub(super) fn ac(&self, number: usize) -> Option<&HuffmanTable> {
        self.ac.get(number)?.as_ref()
    }
}

fn in_rows(factors: &[u8; 64]) -> Quantization {
    let mut rows = [0; 64];
    for (place, factor) in NATURAL_ORDER.into_iter().zip(factors) {
        rows[usize::from(place)] = i16::from(*factor);
    }
    rows
}

/// A definition of Huffman codes.
#[derive(Clone, Copy)]
pub(super) struct Codes<'a> {
    /// The number of codes of each length.
    pub counts: &'a [u8; 16],
    pub symbols: &'a [u8],
}

/// The definitions before the first scan. A file may define a table again and again, so only the
/// tables of the scan are made.
#[derive(Default)]
struct Definitions<'a> {
    quantization: [Option<&'a [u8; 64]>; 4],
    dc: [Option<Codes<'a>>; 4],
    ac: [Option<Codes<'a>>; 4],
    restart_interval: u16,
}

impl<'a> Definitions<'a> {
    fn read(bytes: &'a [u8], jpeg: &Jpeg) -> Option<Self> {
        let mut defined = Self::default();
        let mut at = 2;
        loop {
            let segment = segment(bytes, at).ok()?;
            if segment.at >= jpeg.first_scan {
                return Some(defined);
            }
            match segment.marker {
                DQT => defined.read_quantization(segment.contents)?,
                DHT => defined.read_codes(segment.contents)?,
                DRI => defined.restart_interval = u16::from_be_bytes(segment.contents.try_into().ok()?),
                _ => {}
            }
            at = segment.at + segment.contents.len();
        }
    }

    fn read_quantization(&mut self, mut contents: &'a [u8]) -> Option<()> {
        while let Some((&number, rest)) = contents.split_first() {
            // A number over 3 stands for factors of 16 bits.
            let table = self.quantization.get_mut(usize::from(number))?;
            let (factors, rest) = rest.split_first_chunk()?;
            *table = Some(factors);
            contents = rest;
        }
        Some(())
    }

    fn read_codes(&mut self, mut contents: &'a [u8]) -> Option<()> {
        while let Some((&kind, rest)) = contents.split_first() {
            let tables = match kind >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return None,
            };
            let table = tables.get_mut(usize::from(kind & 15))?;
            let (counts, rest) = rest.split_first_chunk()?;
            let count = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(count)?;
            *table = Some(Codes { counts, symbols });
            contents = rest;
        }
        Some(())
    }
}
