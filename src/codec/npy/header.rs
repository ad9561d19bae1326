//! The header of an NPY file: a Python dictionary with the keys `descr`, `fortran_order` and
//! `shape`.
//!
//! The parser reads only the syntax that NumPy and similar programs write: strings in either kind
//! of quotes without escapes, `True`, `False`, and a tuple of numbers. Keys may have any order, and
//! white space is free. All other Python syntax is an error.

use crate::codec::column::MAX_DEPTH;
use crate::codec::error::excerpt_bytes;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NpyHeader {
    /// The type string. For a structured type, only its start, which is enough for the error.
    pub descr: String,
    pub fortran_order: bool,
    pub shape: Vec<usize>,
}

impl NpyHeader {
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut cursor = Cursor { rest: text };
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        cursor.expect(b'{')?;
        while !cursor.take(b'}') {
            let key = cursor.string()?;
            cursor.expect(b':')?;
            let repeated = match key.as_str() {
                "descr" if matches!(cursor.peek(), Some(b'[' | b'(')) => {
                    // A structured type is refused, so the rest does not matter.
                    return Ok(Self {
                        descr: String::from_utf8_lossy(&cursor.rest[..cursor.rest.len().min(80)]).into_owned(),
                        fortran_order: false,
                        shape: Vec::new(),
                    });
                }
                "descr" => descr.replace(cursor.string()?).is_some(),
                "fortran_order" => fortran_order.replace(cursor.boolean()?).is_some(),
                "shape" => shape.replace(cursor.tuple()?).is_some(),
                _ => {
                    return Err(format!(
                        "its header has the unknown key {}",
                        excerpt_bytes(key.as_bytes())
                    ));
                }
            };
            if repeated {
                return Err(format!("its header has {key} twice"));
            }
            if !cursor.take(b',') {
                cursor.expect(b'}')?;
                break;
            }
        }
        if cursor.peek().is_some() {
            return Err(cursor.unexpected());
        }
        match (descr, fortran_order, shape) {
            (Some(descr), Some(fortran_order), Some(shape)) => Ok(Self {
                descr,
                fortran_order,
                shape,
            }),
            _ => Err("its header needs descr, fortran_order and shape".to_owned()),
        }
    }
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    /// Skips white space and returns the next byte.
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        if self.take(byte) {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    fn unexpected(&self) -> String {
        match self.rest {
            [] => "its header ends too early".to_owned(),
            rest => format!(
                "its header is not understood at {}",
                excerpt_bytes(&rest[..rest.len().min(20)])
            ),
        }
    }

    fn string(&mut self) -> Result<String, String> {
        let quote = self
            .peek()
            .filter(|b| matches!(b, b'\'' | b'"'))
            .ok_or_else(|| self.unexpected())?;
        let inner = &self.rest[1..];
        let end = inner
            .iter()
            .position(|&b| b == quote)
            .ok_or_else(|| self.unexpected())?;
        let text = &inner[..end];
        if !text.iter().all(|b| (b' '..=b'~').contains(b) && *b != b'\\') {
            return Err(self.unexpected());
        }
        self.rest = &inner[end + 1..];
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    fn boolean(&mut self) -> Result<bool, String> {
        self.peek();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word.as_bytes()) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(self.unexpected())
    }

    fn tuple(&mut self) -> Result<Vec<usize>, String> {
        let mut sizes = Vec::new();
        self.expect(b'(')?;
        while !self.take(b')') {
            if sizes.len() == MAX_DEPTH {
                return Err(format!("its shape has more than {MAX_DEPTH} axes"));
            }
            sizes.push(self.size()?);
            if !self.take(b',') {
                // In Python, parentheses around one number without a comma are not a tuple.
                if sizes.len() == 1 {
                    return Err(self.unexpected());
                }
                self.expect(b')')?;
                break;
            }
        }
        Ok(sizes)
    }

    fn size(&mut self) -> Result<usize, String> {
        self.peek();
        let digits = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let (number, rest) = self.rest.split_at(digits);
        let size = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
        let size = size.ok_or_else(|| self.unexpected())?;
        // Python 2 marked long integers.
        self.rest = rest.strip_prefix(b"L").unwrap_or(rest);
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape_of(text: &str) -> Result<Vec<usize>, String> {
        NpyHeader::parse(text.as_bytes()).map(|header| header.shape)
    }

    #[test]
    fn reads_a_header_in_any_order_and_spacing() {
        let expected = NpyHeader {
            descr: "<f8".into(),
            fortran_order: true,
            shape: vec![2, 3],
        };
        for text in [
            "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 3), }          \n",
            "{\"shape\":(2,3),'fortran_order':True,\"descr\":\"<f8\"}",
            " { 'fortran_order' : True , 'shape' : ( 2L , 3L , ) , 'descr' : '<f8' , } ",
        ] {
            assert_eq!(NpyHeader::parse(text.as_bytes()).as_ref(), Ok(&expected), "{text}");
        }
    }

    #[test]
    fn parses_tuples_as_python_does() {
        let with = |shape: &str| shape_of(&format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}"));
        assert_eq!(with("()"), Ok(vec![]));
        assert_eq!(with("(7,)"), Ok(vec![7]));
        assert_eq!(with("(1, 0, 3)"), Ok(vec![1, 0, 3]));
        for bad in [
            "(7)",
            "(,)",
            "(-1,)",
            "(1 2)",
            "[1]",
            "(1,",
            "(99999999999999999999,)",
            "1",
            "(1.0,)",
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
        assert!(with(&format!("({})", "1, ".repeat(32))).is_ok());
        assert!(
            with(&format!("({})", "1, ".repeat(33)))
                .unwrap_err()
                .contains("32 axes")
        );
    }

    #[test]
    fn refuses_headers_without_exactly_the_three_keys() {
        let table = [
            (
                "{'descr': '<f8', 'shape': (1,)}",
                "needs descr, fortran_order and shape",
            ),
            ("{'descr': '<f8', 'descr': '<f8'}", "has descr twice"),
            ("{'kind': 1}", "unknown key \"kind\""),
            ("{'descr': __import__('os')}", "not understood at \"__import__('os')}\""),
            ("{'descr': '<f8\\n'}", "not understood"),
            ("{'descr", "not understood at \"'descr\""),
            (
                "{'descr': '<f8', 'fortran_order': False, 'shape': (1,)} x",
                "not understood at \"x\"",
            ),
            ("", "ends too early"),
        ];
        for (text, problem) in table {
            let error = NpyHeader::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
        let structured = NpyHeader::parse(b"{'descr': [('a', '<f4'), ('b', '<i8')], 'fortran_order': False}").unwrap();
        assert!(structured.descr.starts_with("[('a'"));
    }
}
