//! Checks the table of replacements that SentencePiece models bring.
//!
//! The library walks the table without bounds of its own and panics where an index leaves it. Here
//! every place that a walk can reach is visited once, at the load.

use std::collections::VecDeque;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::text::error::TextError;

/// Checks the `precompiled_charsmap` of a normalizer. No replacement may be longer than `growth`
/// times what it replaces.
pub(super) fn check(value: &Value, growth: usize) -> Result<(), TextError> {
    let text = value.get("precompiled_charsmap").and_then(Value::as_str);
    let text =
        text.ok_or_else(|| TextError::file("a normalizer of the type Precompiled has no \"precompiled_charsmap\""))?;
    let bytes = STANDARD.decode(text).map_err(|_| refuse("it is not base64"))?;
    let (trie, replacements) = split(&bytes).ok_or_else(|| refuse("it is shorter than it says"))?;
    let replacements = std::str::from_utf8(replacements).map_err(|_| refuse("its texts are not UTF-8"))?;
    walk(&trie, replacements, growth)
}

fn refuse(problem: &str) -> TextError {
    TextError::file(format!("precompiled_charsmap: {problem}"))
}

/// The units of the trie, and the texts behind it.
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

/// Visits every state of the trie, the nearest to its root first.
fn walk(trie: &[u32], replacements: &str, growth: usize) -> Result<(), TextError> {
    let outside = || refuse("its trie leads out of itself");
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
                    .ok_or_else(|| refuse("a replacement lies outside its texts"))?;
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
    // The bit says that the offset counts blocks of 256.
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
        // The unit of "a": a leaf whose state lies 1 further.
        trie[256 ^ 0x61] = 1 << 10 | 1 << 8 | 0x61;
        trie[256 ^ 0x61 ^ 1] = value;
        trie
    }

    #[test]
    fn a_table_whose_walks_stay_inside_is_accepted() {
        check(&charsmap(&one_key(0), "b\0"), 16).unwrap();
        let normalizer: tokenizers::normalizers::Precompiled = serde_json::from_value(charsmap(&one_key(0), "b\0"))
            .unwrap_or_else(|_| serde_json::from_str(&charsmap(&one_key(0), "b\0").to_string()).unwrap());
        assert_eq!(normalizer.transform("a"), Some("b"));
    }

    #[test]
    fn tables_on_which_the_library_would_panic_are_refused() {
        let table = [
            (charsmap(&one_key(3), "b\0"), "lies outside"),
            (charsmap(&one_key(1), "é\0"), "lies outside"),
            (charsmap(&one_key(0), &"b".repeat(17)), "too long"),
            (charsmap(&[], "b\0"), "leads out"),
            (charsmap(&[256 << 10], "b\0"), "leads out"),
            (charsmap(&[u32::MAX], "b\0"), "leads out"),
            (
                json!({"type": "Precompiled", "precompiled_charsmap": "!"}),
                "not base64",
            ),
            (
                json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
                "shorter than it says",
            ),
            (
                json!({"type": "Precompiled", "precompiled_charsmap": "AAAAAP8="}),
                "not UTF-8",
            ),
            (json!({"type": "Precompiled"}), "has no"),
        ];
        for (value, problem) in table {
            let error = check(&value, 16).unwrap_err().to_string();
            assert!(error.contains(problem), "{value}: {error}");
        }
    }
}
