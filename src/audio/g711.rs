//! Decodes telephone codecs: one byte per sample, on a roughly logarithmic scale (ITU-T G.711).

/// Converts a µ-law sample to 16-bit PCM.
pub(super) fn mu_law(byte: u8) -> i16 {
    let byte = !byte;
    let exponent = (byte >> 4) & 7;
    let magnitude = (((i16::from(byte & 15) << 3) + 132) << exponent) - 132;
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Converts an A-law sample to 16-bit PCM.
pub(super) fn a_law(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let mantissa = (i16::from(byte & 15) << 4) + 8;
    let magnitude = match (byte >> 4) & 7 {
        0 => mantissa,
        exponent => (mantissa + 256) << (exponent - 1),
    };
    if byte & 0x80 == 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_the_ends_and_the_middle_of_both_scales_as_in_the_standard() {
        for (byte, sample) in [(0x00, -32124), (0x7f, 0), (0x80, 32124), (0xff, 0), (0x0f, -16764)] {
            assert_eq!(mu_law(byte), sample, "{byte:#x}");
        }
        for (byte, sample) in [(0x55, -8), (0xd5, 8), (0x2a, -32256), (0xaa, 32256), (0x00, -5504)] {
            assert_eq!(a_law(byte), sample, "{byte:#x}");
        }
    }
}
