//! The bits of a scan: the bytes between two markers, without the zero that follows each byte of
//! ones.

use crate::vision::VisionError;
use crate::vision::allocation::reserved;

/// Zeros after the bits, so that the reader can take eight bytes at once.
const PADDING: usize = 16;

/// The bits that any read needs at most: a code and the bits of its value. A refill supplies more.
pub(super) const LONGEST: u32 = 16 + 15;

/// The scan's data, one restart interval at a time.
pub(super) struct ScanData<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The bits of the current interval, and zeros.
    interval: Vec<u8>,
}

impl<'a> ScanData<'a> {
    /// `at` is the position of the first data.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Result<Self, VisionError> {
        let interval = reserved(bytes.len().saturating_sub(at) + PADDING)?;
        Ok(Self { bytes, at, interval })
    }

    /// Reads on to the next marker and returns it.
    pub(super) fn read_interval(&mut self) -> Option<u8> {
        self.interval.clear();
        loop {
            let rest = self.bytes.get(self.at..)?;
            let count = memchr::memchr(0xff, rest)?;
            self.interval.extend_from_slice(&rest[..count]);
            let after = *rest.get(count + 1)?;
            self.at += count + 2;
            match after {
                0 => self.interval.push(0xff),
                // More than one byte of ones may come before a marker.
                0xff => {
                    let ones = self.bytes[self.at..].iter().take_while(|byte| **byte == 0xff).count();
                    self.at += ones + 1;
                    let marker = *self.bytes.get(self.at - 1)?;
                    return self.ended(marker).filter(|marker| *marker != 0);
                }
                marker => return self.ended(marker),
            }
        }
    }

    fn ended(&mut self, marker: u8) -> Option<u8> {
        self.interval.extend_from_slice(&[0; PADDING]);
        Some(marker)
    }

    pub(super) fn bits(&self) -> BitReader<'_> {
        BitReader {
            all: &self.interval,
            rest: &self.interval,
            buffer: 0,
            count: 0,
        }
    }
}

/// Reads bits from the highest to the lowest of each byte. After the end it reads zeros.
#[derive(Clone, Copy)]
pub(super) struct BitReader<'a> {
    all: &'a [u8],
    /// The bytes of which no bit is counted yet.
    rest: &'a [u8],
    /// The next bits, from the highest on. There may be more than are counted.
    buffer: u64,
    count: u32,
}

impl BitReader<'_> {
    /// Loads at least 56 bits into the buffer.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        if let Some(next) = self.rest.first_chunk::<8>() {
            self.buffer |= u64::from_be_bytes(*next) >> self.count;
            // The whole bytes that fit.
            self.rest = &self.rest[(((63 - self.count) >> 3) & 7) as usize..];
        } else {
            self.rest = &[];
        }
        self.count |= 56;
    }

    /// The next `COUNT` bits.
    #[inline(always)]
    pub(super) fn peek<const COUNT: u32>(&self) -> usize {
        (self.buffer >> (64 - COUNT)) as usize
    }

    #[inline(always)]
    pub(super) fn skip(&mut self, count: u32) {
        self.buffer <<= count & 63;
        self.count = self.count.wrapping_sub(count) & 63;
    }

    /// Reads a value of `size` bits (1 to 15) after skipping `code` bits. A value whose first bit
    /// is 0 is negative: the bits of its absolute value are inverted.
    #[inline(always)]
    pub(super) fn value(&mut self, code: u32, size: u32) -> i32 {
        let bits = self.buffer << (code & 63);
        let value = ((bits >> 1) >> (63 - size)) as i32;
        let is_negative = !((bits as i64) >> 63) as i32;
        self.skip(code + size);
        value + (is_negative & (1 - (1 << size)))
    }

    /// Whether more bits were read than there are.
    pub(super) fn is_overrun(&self) -> bool {
        let taken = 8 * (self.all.len() - self.rest.len()) - self.count as usize;
        taken > 8 * (self.all.len() - PADDING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intervals(bytes: &[u8]) -> Vec<(Vec<u8>, Option<u8>)> {
        let mut data = ScanData::new(bytes, 0).unwrap();
        let mut all = Vec::new();
        loop {
            let marker = data.read_interval();
            let length = data.interval.len().saturating_sub(PADDING);
            all.push((data.interval[..length].to_vec(), marker));
            if marker.is_none_or(|marker| !(0xd0..=0xd7).contains(&marker)) {
                return all;
            }
        }
    }

    #[test]
    fn intervals_end_at_markers_and_lose_the_stuffed_zeros() {
        let bytes = b"\x12\xff\x00\x34\xff\xd0\xff\x00\xff\xff\xff\xd1\x56\xff\xd9";
        let expected = [
            (b"\x12\xff\x34".to_vec(), Some(0xd0)),
            (b"\xff".to_vec(), Some(0xd1)),
            (b"\x56".to_vec(), Some(0xd9)),
        ];
        assert_eq!(intervals(bytes), expected);
        for end in 0..bytes.len() {
            assert_eq!(intervals(&bytes[..end]).last().unwrap().1, None, "{end}");
        }
    }

    #[test]
    fn reads_all_bits_and_then_zeros() {
        let bytes: Vec<u8> = (0..=254).chain([0xff, 0, 0x5a, 0xff, 0xd9]).collect();
        let mut data = ScanData::new(&bytes, 0).unwrap();
        assert_eq!(data.read_interval(), Some(0xd9));
        let mut bits = data.bits();
        let expected: Vec<u8> = (0..=255).chain([0x5a]).collect();
        for byte in &expected {
            bits.refill();
            assert_eq!(bits.peek::<8>(), usize::from(*byte));
            bits.skip(3);
            assert_eq!(bits.peek::<5>(), usize::from(*byte & 31));
            bits.skip(5);
        }
        assert!(!bits.is_overrun());
        for _ in 0..1000 {
            bits.refill();
            assert_eq!(bits.peek::<31>(), 0);
            bits.skip(31);
            assert!(bits.is_overrun());
        }
    }

    #[test]
    fn values_with_a_first_bit_of_zero_are_negative() {
        // A code of 2 bits, then 3 bits: the values -7 to -4, then 4 to 7.
        for (bits, expected) in [0u8, 1, 2, 3, 4, 5, 6, 7].into_iter().zip([-7, -6, -5, -4, 4, 5, 6, 7]) {
            let bytes = [0b0100_0000 | bits << 3, 0xff, 0xd9];
            let mut data = ScanData::new(&bytes, 0).unwrap();
            data.read_interval().unwrap();
            let mut reader = data.bits();
            reader.refill();
            assert_eq!(reader.value(2, 3), expected);
        }
    }
}
