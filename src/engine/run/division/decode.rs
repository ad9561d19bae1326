//! Decodes the instructions that the trap handler steps over: `div` and `idiv`.
//!
//! The handler only needs the length and the width. For any other instruction the result is
//! `None`, and the process ends as it would without the handler.

/// A division instruction of x86-64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Division {
    /// Bytes of the instruction.
    pub length: u8,
    pub width: Width,
}

/// The registers of the quotient and the remainder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// AL and AH.
    Bits8,
    /// AX and DX.
    Bits16,
    /// EAX and EDX, which clears the upper halves of RAX and RDX.
    Bits32,
    /// RAX and RDX.
    Bits64,
}

/// The longest instruction of the processor, in bytes.
const LONGEST: u8 = 15;

/// Decodes the instruction at the start of `bytes`. Takes no byte beyond the end of a division,
/// and stops at the first byte that shows that the instruction is another one.
pub fn decode(bytes: impl IntoIterator<Item = u8>) -> Option<Division> {
    let mut bytes = bytes.into_iter();
    let (mut length, mut is_narrow) = (1, false);
    let mut byte = bytes.next()?;
    // Prefixes: operand size, address size (which does not change the length here), repeats,
    // segments.
    while let 0x66 | 0x67 | 0xf2 | 0xf3 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 = byte {
        is_narrow |= byte == 0x66;
        byte = bytes.next()?;
        length += 1;
        if length > LONGEST {
            return None;
        }
    }
    let mut is_wide = false;
    // REX comes directly before the opcode.
    if byte & 0xf0 == 0x40 {
        is_wide = byte & 0x08 != 0;
        byte = bytes.next()?;
        length += 1;
    }
    let width = match byte {
        0xf6 => Width::Bits8,
        0xf7 if is_wide => Width::Bits64,
        0xf7 if is_narrow => Width::Bits16,
        0xf7 => Width::Bits32,
        _ => return None,
    };
    let modrm = bytes.next()?;
    length += 1;
    let (mode, operation, operand) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    // /6 is `div`, /7 is `idiv`.
    if operation < 6 {
        return None;
    }
    // Operand 4: a byte for base and index follows. Base 5 in mode 0: a displacement instead of a
    // base.
    let mut has_base = operand != 5;
    if mode != 3 && operand == 4 {
        let sib = bytes.next()?;
        length += 1;
        has_base = sib & 7 != 5;
    }
    length += match mode {
        0 if !has_base => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    (length <= LONGEST).then_some(Division { length, width })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisions_have_the_length_that_the_assembler_emits() {
        use Width::{Bits8, Bits16, Bits32, Bits64};
        let table: [(&[u8], Width); 25] = [
            // idiv bl; div cl; idiv sil
            (&[0xf6, 0xfb], Bits8),
            (&[0xf6, 0xf1], Bits8),
            (&[0x40, 0xf6, 0xfe], Bits8),
            // idiv byte [rdi]; idiv byte [rip+4]
            (&[0xf6, 0x3f], Bits8),
            (&[0xf6, 0x3d, 4, 0, 0, 0], Bits8),
            // idiv bx; div word [rsi]; idiv r9w
            (&[0x66, 0xf7, 0xfb], Bits16),
            (&[0x66, 0xf7, 0x36], Bits16),
            (&[0x66, 0x41, 0xf7, 0xf9], Bits16),
            // idiv ecx; div r8d; idiv dword [rbx+8]; idiv dword [rbx+0x100]
            (&[0xf7, 0xf9], Bits32),
            (&[0x41, 0xf7, 0xf0], Bits32),
            (&[0xf7, 0x7b, 8], Bits32),
            (&[0xf7, 0xbb, 0, 1, 0, 0], Bits32),
            // idiv rcx; idiv r15; div rsi
            (&[0x48, 0xf7, 0xf9], Bits64),
            (&[0x49, 0xf7, 0xff], Bits64),
            (&[0x48, 0xf7, 0xf6], Bits64),
            // idiv qword [rcx]; [rbp]; [rsp]; [r12]; [r13]; [r12+8]
            (&[0x48, 0xf7, 0x39], Bits64),
            (&[0x48, 0xf7, 0x7d, 0], Bits64),
            (&[0x48, 0xf7, 0x3c, 0x24], Bits64),
            (&[0x49, 0xf7, 0x3c, 0x24], Bits64),
            (&[0x49, 0xf7, 0x7d, 0], Bits64),
            (&[0x49, 0xf7, 0x7c, 0x24, 8], Bits64),
            // idiv qword [rcx+rax*8]; [rcx+rax*8+0x400]; [rax*8+0x400]; fs:[0x28]
            (&[0x48, 0xf7, 0x3c, 0xc1], Bits64),
            (&[0x48, 0xf7, 0xbc, 0xc1, 0, 4, 0, 0], Bits64),
            (&[0x48, 0xf7, 0x3c, 0xc5, 0, 4, 0, 0], Bits64),
            (&[0x64, 0x48, 0xf7, 0x3c, 0x25, 0x28, 0, 0, 0], Bits64),
        ];
        for (bytes, width) in table {
            let length = u8::try_from(bytes.len()).unwrap();
            let expected = Some(Division { length, width });
            // The bytes that follow are ignored.
            for rest in [&[][..], &[0xf7, 0xf9, 0x90, 0, 0, 0, 0, 0]] {
                let all = bytes.iter().chain(rest).copied();
                assert_eq!(decode(all), expected, "{bytes:02x?}");
            }
        }
    }

    #[test]
    fn other_instructions_are_not_decoded_as_divisions() {
        let table: [&[u8]; 16] = [
            &[],
            &[0x48],
            &[0xf7],
            &[0x66; 20],
            // test, not, neg, mul, imul: the other operations of the same opcode
            &[0xf7, 0xc1, 1, 0, 0, 0],
            &[0xf7, 0xd1],
            &[0xf7, 0xd9],
            &[0xf7, 0xe1],
            &[0xf7, 0xe9],
            // ud2; nop; divss; vdivps; call
            &[0x0f, 0x0b],
            &[0x90],
            &[0xf3, 0x0f, 0x5e, 0xc1],
            &[0xc5, 0xf8, 0x5e, 0xc1],
            &[0xe8, 0, 0, 0, 0],
            // A prefix between REX and the opcode; REX2.
            &[0x48, 0x66, 0xf7, 0xf9],
            &[0xd5, 0x08, 0xf7, 0xf9],
        ];
        for bytes in table {
            assert_eq!(decode(bytes.iter().copied()), None, "{bytes:02x?}");
        }
    }

    #[test]
    fn bytes_beyond_a_division_are_not_read() {
        // The iterator fails the test if it is asked for the displacement, which is only counted.
        let mut given = [0x48u8, 0xf7, 0xbc, 0xc1].into_iter();
        let bytes = std::iter::from_fn(|| Some(given.next().expect("read beyond the addressing bytes")));
        let expected = Division {
            length: 8,
            width: Width::Bits64,
        };
        assert_eq!(decode(bytes), Some(expected));
    }
}
