//! A header of a tar archive.
//!
//! Tools write headers a little differently. Where two readers disagree on one, a file can slip
//! past a scanner of archives. So this reader refuses an ambiguous header instead of guessing.

use tar::Header;

use super::BLOCK;

/// Byte ranges of the numbers in a header.
const SIZE: std::ops::Range<usize> = 124..136;
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Whether a block belongs to the end-of-archive marker.
pub fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// Whether the header's checksum is right.
pub fn is_intact(header: &Header) -> bool {
    let bytes = header.as_bytes();
    // The field itself counts as spaces.
    let sum = |part: &[u8]| part.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let expected = sum(bytes) - sum(&bytes[CHECKSUM]) + CHECKSUM.len() as u64 * u64::from(b' ');
    number(&bytes[CHECKSUM]) == Some(expected)
}

/// Size of the entry's content in bytes.
pub fn size(header: &Header) -> Option<u64> {
    number(&header.as_bytes()[SIZE])
}

/// Bytes of padding between a content of `size` bytes and the next header.
pub fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

/// Parses a number in octal digits, or in binary where the first bit is set.
pub fn number(field: &[u8]) -> Option<u64> {
    match field {
        [0x80, rest @ ..] => {
            let (high, low) = rest.split_at_checked(rest.len().checked_sub(size_of::<u64>())?)?;
            let low: [u8; size_of::<u64>()] = low.try_into().ok()?;
            is_zero(high).then(|| u64::from_be_bytes(low))
        }
        // Negative, or more bytes than a disk can have.
        [0x81..=0xff, ..] => None,
        digits => {
            let end = digits.iter().position(|byte| *byte == 0).unwrap_or(digits.len());
            let digits = digits[..end].trim_ascii();
            if digits.is_empty() {
                return Some(0);
            }
            digits.iter().try_fold(0u64, |number, digit| match digit {
                b'0'..=b'7' => number.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
                _ => None,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        let table: [(&[u8], Option<u64>); 12] = [
            (b"00000000017\0", Some(15)),
            (b"00000000017 ", Some(15)),
            (b"       17 \0\0", Some(15)),
            (b"77777777777\0", Some((8 << 30) - 1)),
            (b"777777777777", Some((64 << 30) - 1)),
            (&[0; 12], Some(0)),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", Some(8 << 30)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"0000000008\0\0", None),
            (b"-0000000001\0", None),
            (b"0x00000001\0\0", None),
        ];
        for (field, expected) in table {
            assert_eq!(number(field), expected, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn contents_are_padded_to_whole_blocks() {
        let table = [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511), (u64::MAX, 1)];
        for (size, expected) in table {
            assert_eq!(padding(size), expected, "{size}");
        }
    }
}
