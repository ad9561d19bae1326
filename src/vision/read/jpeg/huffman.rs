//! Decodes the coefficients of blocks from Huffman codes.
//!
//! This takes nearly half of the time of a picture. So a lookup of the next bits finds up to two
//! coefficients at once, with their values, where both fit into these bits. In the picture of a
//! camera, nearly all coefficients do. The others take one lookup for the code, and their value
//! comes from the bits after it.

use super::bits::{BitReader, LONGEST};
use super::tables::Codes;
use super::zigzag::NATURAL_ORDER;

/// The bits of a lookup. With one more, the tables of two components would fill a core's first
/// cache.
const LOOKAHEAD: u32 = 10;
const LOOKUPS: usize = 1 << LOOKAHEAD;

/// Refills of the buffer are rare, as one lasts for three lookups.
const _: () = assert!(2 * LOOKAHEAD + LONGEST <= 56);

/// The coefficients of a block, row by row, and space for stores that have no place in the block.
pub(super) type Block = [i16; 128];

/// The place for stores without a place in the block.
const NOWHERE: u8 = 64;

/// The place in a [`Block`] for each position in a file.
static PLACES: [u8; 128] = {
    let mut places = [NOWHERE; 128];
    let mut position = 0;
    while position < 64 {
        places[position] = NATURAL_ORDER[position];
        position += 1;
    }
    places
};

/// The last position of a block.
const LAST: u32 = 63;

/// Added to a position where a block ends.
const END: u8 = 128;

/// Added to a position where a block ends without a coefficient. The low bits lead to
/// [`NOWHERE`].
const EMPTY_END: u8 = 128 + 64;

/// One or two coefficients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Step {
    /// All bits; 0 if not even the first coefficient fits into the lookup.
    bits: u8,
    /// The bits of the first coefficient.
    first_bits: u8,
    /// The positions from the last coefficient to the first one of this step, and from there to
    /// the second.
    first_advance: u8,
    second_advance: u8,
    first: i16,
    /// A copy of `first` in a step of one coefficient.
    second: i16,
}

/// A coefficient or the end of the block.
#[derive(Clone, Copy)]
struct Coefficient {
    bits: u32,
    /// [`END`] at the end of the block.
    advance: u8,
    value: i16,
}

/// The codes of a table.
pub(super) struct HuffmanTable {
    /// The length and the symbol of the code that the bits begin with; 0 if it is longer.
    codes: Box<[u16; LOOKUPS]>,
    /// Empty in tables for the first coefficients of blocks.
    steps: Box<[Step]>,
    /// For each length of a code: the end of its codes, as the highest of 16 bits, and the
    /// difference from a code to the index of its symbol.
    ends: [u32; 17],
    indices: [i32; 17],
    symbols: Box<[u8]>,
}

impl HuffmanTable {
    /// Makes the table for the first coefficients of blocks; `None` if there cannot be such codes.
    pub(super) fn of_dc(codes: Codes<'_>) -> Option<Self> {
        // Samples of 8 bits need values of 11 bits.
        if codes.symbols.iter().any(|symbol| *symbol > 11) {
            return None;
        }
        Self::new(codes)
    }

    /// Makes the table for the other coefficients.
    pub(super) fn of_ac(codes: Codes<'_>) -> Option<Self> {
        let mut table = Self::new(codes)?;
        table.steps = (0..LOOKUPS).map(|bits| table.step(bits)).collect();
        Some(table)
    }

    fn new(Codes { counts, symbols }: Codes<'_>) -> Option<Self> {
        let mut table = Self {
            codes: Box::new([0; LOOKUPS]),
            steps: Box::default(),
            ends: [0; 17],
            indices: [0; 17],
            symbols: symbols.into(),
        };
        let (mut code, mut index) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(counts) {
            table.indices[length as usize] = index as i32 - code as i32;
            for _ in 0..count {
                let symbol = *symbols.get(index)?;
                if length <= LOOKAHEAD {
                    let first = (code as usize) << (LOOKAHEAD - length);
                    let with_these_bits = table.codes.get_mut(first..first + (1 << (LOOKAHEAD - length)))?;
                    with_these_bits.fill((length as u16) << 8 | u16::from(symbol));
                }
                code += 1;
                index += 1;
            }
            // No code consists of ones only.
            if count > 0 && code >= 1 << length {
                return None;
            }
            table.ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }

    /// The coefficient whose code and value the first `count` of these bits have.
    fn whole(&self, bits: usize, count: u32) -> Option<Coefficient> {
        let code = self.codes[bits];
        let (length, run, size) = (u32::from(code >> 8), ((code >> 4) & 15) as u8, u32::from(code & 15));
        if length == 0 || length + size > count {
            return None;
        }
        let value = match size {
            0 => 0,
            _ => {
                let value = (bits >> (LOOKAHEAD - length - size)) as i32 & ((1 << size) - 1);
                let is_negative = value < 1 << (size - 1);
                if is_negative { value + 1 - (1 << size) } else { value }
            }
        };
        let is_end = size == 0 && run != 15;
        Some(Coefficient {
            bits: length + size,
            advance: if is_end { END } else { run + 1 },
            value: value as i16,
        })
    }

    fn step(&self, bits: usize) -> Step {
        let Some(first) = self.whole(bits, LOOKAHEAD) else {
            return Step::default();
        };
        let mut step = Step {
            bits: first.bits as u8,
            first_bits: first.bits as u8,
            first_advance: first.advance,
            second_advance: 0,
            first: first.value,
            second: first.value,
        };
        if first.advance == END {
            (step.first_advance, step.second_advance) = (EMPTY_END, END);
            return step;
        }
        if let Some(second) = self.whole((bits << first.bits) & (LOOKUPS - 1), LOOKAHEAD - first.bits) {
            step.bits += second.bits as u8;
            step.second_advance = second.advance;
            if second.advance != END {
                step.second = second.value;
            }
        }
        step
    }

    /// The length and the symbol of the next code.
    #[inline(always)]
    fn code(&self, bits: &BitReader<'_>) -> Option<(u32, u32)> {
        match u32::from(self.codes[bits.peek::<LOOKAHEAD>()]) {
            0 => self.long_code(bits),
            code => Some((code >> 8, code & 255)),
        }
    }

    #[cold]
    #[inline(never)]
    fn long_code(&self, bits: &BitReader<'_>) -> Option<(u32, u32)> {
        let next = bits.peek::<16>() as u32;
        let length = (LOOKAHEAD + 1..=16).find(|&length| next < self.ends[length as usize])?;
        let code = (next >> (16 - length)) as i32;
        let index = usize::try_from(code + self.indices[length as usize]).ok()?;
        Some((length, (*self.symbols.get(index)?).into()))
    }
}

impl BitReader<'_> {
    /// Decodes a block, and returns the position of its last coefficient; `None` for an invalid
    /// code. The block has to be zero.
    pub(super) fn read_block(
        &mut self,
        dc: &HuffmanTable,
        ac: &HuffmanTable,
        prediction: &mut i32,
        block: &mut Block,
    ) -> Option<u32> {
        let steps: &[Step; LOOKUPS] = ac.steps.as_ref().try_into().ok()?;
        // A copy, which can stay in registers.
        let mut bits = *self;
        bits.refill();
        let (length, size) = dc.code(&bits)?;
        if size == 0 {
            bits.skip(length);
        } else {
            *prediction = prediction.wrapping_add(bits.value(length, size));
        }
        block[0] = *prediction as i16;
        let mut position = 0;
        'block: loop {
            bits.refill();
            for _ in 0..3 {
                let step = &steps[bits.peek::<LOOKAHEAD>()];
                if step.bits == 0 {
                    position = bits.read_coefficient(ac, position, block)?;
                    if position >= LAST {
                        break 'block;
                    }
                    continue 'block;
                }
                let first = position + u32::from(step.first_advance);
                *place(block, first) = step.first;
                position = first + u32::from(step.second_advance);
                *place(block, position) = step.second;
                if position >= LAST {
                    if first == LAST {
                        // A full block has no end. The other bits belong to the next block.
                        position = LAST;
                        bits.skip(step.first_bits.into());
                    } else {
                        bits.skip(step.bits.into());
                    }
                    break 'block;
                }
                bits.skip(step.bits.into());
            }
        }
        *self = bits;
        last_of(position)
    }

    /// Reads one coefficient or the end of the block, and returns the new position.
    #[inline(always)]
    fn read_coefficient(&mut self, ac: &HuffmanTable, position: u32, block: &mut Block) -> Option<u32> {
        let (length, symbol) = ac.code(self)?;
        let (run, size) = (symbol >> 4, symbol & 15);
        if size > 0 {
            let position = position + run + 1;
            *place(block, position) = self.value(length, size) as i16;
            return Some(position);
        }
        self.skip(length);
        let is_end = run != 15;
        Some(
            position
                + if is_end {
                    u32::from(EMPTY_END) + u32::from(END)
                } else {
                    16
                },
        )
    }
}

#[inline(always)]
fn place(block: &mut Block, position: u32) -> &mut i16 {
    let place = PLACES[position as usize % PLACES.len()];
    &mut block[usize::from(place) % block.len()]
}

/// The position of a block's last coefficient, from the position after its end.
fn last_of(position: u32) -> Option<u32> {
    const END: u32 = self::END as u32;
    const EMPTY_END: u32 = self::EMPTY_END as u32 + END;
    let last = match position {
        LAST => LAST,
        EMPTY_END.. => position - EMPTY_END,
        END.. => position - END,
        // Past the end of the block.
        _ => return None,
    };
    (last <= LAST).then_some(last)
}
