//! Checks the table of replacements in SentencePiece models.
//!
//! The library walks the table without bounds checks and panics where an index is out of range.
//! This check visits every state that a walk can reach, once, when the model is loaded.

use std::collections::VecDeque;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::text::error::TextError;

/// Checks the `precompiled_charsmap` of a normalizer. No replacement may be longer than `growth`
/// times the text that it replaces.
pub(super) fn check(value: &Value, growth: usize) -> Result<(), TextError> {
    let text = value.get("precompiled_charsmap").and_then(Value::as_str);
    let text =
        text.ok_or_else(|| TextError::file("a normalizer of the type Precompiled has no \"precompiled_charsmap\""))?;
    let bytes = STANDARD.decode(text).map_err(|_| refuse("invalid base64"))?;
    let (trie, replacements) = split(&bytes).ok_or_else(|| refuse("shorter than the length in its header"))?;
    let replacements = std::str::from_utf8(replacements).map_err(|_| refuse("its texts are not valid UTF-8"))?;
    walk(&trie, replacements, growth)
}

fn refuse(problem: &str) -> TextError {
    TextError::file(format!("precompiled_charsmap: {problem}"))
}

/// Splits the table into the units of the trie and the texts after it.
fn split(bytes: &[u8]) -> Option<(Vec<u32>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let units = usize::try_from(u32::from_le_bytes(*length)).ok()? / 4;
    let trie = rest.get(..units.checked_mul(4)?)?;
    let trie = trie
        .chunks_exact(4)
        .map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]))
        .collect();
    Some((trie, &rest[units * 4..]))
}

/// Visits every state of the trie, breadth first.
fn walk(trie: &[u32], replacements: &str, growth: usize) -> Result<(), TextError> {
    let outside = || refuse("its trie has an index out of range");
    let at = |index: usize| trie.get(index).copied().ok_or_else(outside);
    let mut seen = vec![false; trie.len()];
    let mut states = VecDeque::from([(offset(at(0)?), 0usize)]);
    while let Some((state, depth)) = states.pop_front() {
        for byte in 1..=255u8 {
            let unit = at(state ^ usize::from(byte))?;
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                continue;
            }
            let next = state ^ usize::from(byte) ^ offset(unit);
            if std::mem::replace(seen.get_mut(next).ok_or_else(outside)?, true) {
                continue;
            }
            if unit >> 8 & 1 == 1 {
                let start = usize::try_from(at(next)? & (u32::MAX >> 1)).map_err(|_| outside())?;
                let text = replacements
                    .get(start..)
                    .ok_or_else(|| refuse("a replacement is outside its texts"))?;
                let length = text.find('\0').unwrap_or(text.len());
                if length > growth * (depth + 1) {
                    return Err(refuse("a replacement is too long for what it replaces"));
                }
            }
            states.push_back((next, depth + 1));
        }
    }
    Ok(())
}

fn offset(unit: u32) -> usize {
    // The bit means that the offset counts blocks of 256.
    let shift = (unit & 1 << 9) >> 6;
    (unit as usize >> 10) << shift
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn charsmap(trie: &[u32], texts: &str) -> Value {
        let mut bytes = u32::try_from(trie.len() * 4).unwrap().to_le_bytes().to_vec();
        bytes.extend(trie.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(texts.as_bytes());
        json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(bytes)})
    }

    /// A trie with the one key "a", whose value is `value`.
    fn one_key(value: u32) -> Vec<u32> {
        let mut trie = vec![0u32; 512];
        trie[0] = 256 << 10;
        // The unit of "a": a leaf whose state is 1 further.
        trie[256 ^ 0x61] = 1 << 10 | 1 << 8 | 0x61;
        trie[256 ^ 0x61 ^ 1] = value;
        trie
    }

    #[test]
    fn accepts_a_table_whose_indices_are_in_range() {
        check(&charsmap(&one_key(0), "b\0"), 16).unwrap();
        let normalizer: tokenizers::normalizers::Precompiled = serde_json::from_value(charsmap(&one_key(0), "b\0"))
            .unwrap_or_else(|_| serde_json::from_str(&charsmap(&one_key(0), "b\0").to_string()).unwrap());
        assert_eq!(normalizer.transform("a"), Some("b"));
    }

    #[test]
    fn rejects_tables_that_would_make_the_library_panic() {
        let table = [
            (charsmap(&one_key(3), "b\0"), "is outside"),
            (charsmap(&one_key(1), "é\0"), "is outside"),
            (charsmap(&one_key(0), &"b".repeat(17)), "too long"),
            (charsmap(&[], "b\0"), "out of range"),
            (charsmap(&[256 << 10], "b\0"), "out of range"),
            (charsmap(&[u32::MAX], "b\0"), "out of range"),
            (
                json!({"type": "Precompiled", "precompiled_charsmap": "!"}),
                "invalid base64",
            ),
            (
                json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
                "shorter than the length",
            ),
            (
                json!({"type": "Precompiled", "precompiled_charsmap": "AAAAAP8="}),
                "not valid UTF-8",
            ),
            (json!({"type": "Precompiled"}), "has no"),
        ];
        for (value, problem) in table {
            let error = check(&value, 16).unwrap_err().to_string();
            assert!(error.contains(problem), "{value}: {error}");
        }
    }
}
