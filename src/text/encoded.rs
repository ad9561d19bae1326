//! The tokens of a request's texts, and their division into runs.

use std::cmp::Reverse;
use std::ops::Range;

use super::options::Side;

/// Padding tokens that cost about as much as a separate run.
const RUN_TOKENS: usize = 64;

/// The tokens of one text or pair, without padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenRow {
    pub ids: Vec<u32>,
    /// 1 for the tokens of the second text, if the tokenizer distinguishes the two texts of a pair.
    pub type_ids: Vec<u32>,
    /// Whether the tokenizer added the token around the text.
    pub special: Vec<bool>,
    /// The bytes of the text that each token stands for; an empty range for special tokens. The
    /// list is empty if the options do not request offsets.
    pub offsets: Vec<Range<usize>>,
    /// The word of each token, as the pre-tokenizer numbers them in its text. Empty if `offsets`
    /// is.
    pub words: Vec<Option<u32>>,
    /// The text of a pair that each token belongs to: 0 or 1. Empty if `offsets` is.
    pub sequences: Vec<Option<u8>>,
    /// Whether the text was truncated.
    pub is_cut: bool,
}

impl TokenRow {
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// The tokens of a request. The rows are not padded; [`Encoded::length`] is the length in the
/// tensors, and [`Encoded::columns`] gives the position of a row there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    pub rows: Vec<TokenRow>,
    /// The id of the padding token.
    pub pad_id: u32,
    pub pad_type_id: u32,
    pub pad_side: Side,
    /// The minimum length of padded rows.
    pub least_length: usize,
    /// The length of padded rows is a multiple of this; at least 1.
    pub multiple_of: usize,
}

impl Encoded {
    /// The length of each row with padding.
    pub fn length(&self) -> usize {
        self.padded(self.rows.iter().map(TokenRow::len).max().unwrap_or(0))
    }

    /// The columns of the tensors that hold the tokens of a row.
    pub fn columns(&self, row: usize) -> Range<usize> {
        let tokens = self.rows.get(row).map_or(0, TokenRow::len);
        match self.pad_side {
            Side::Right => 0..tokens,
            Side::Left => {
                let length = self.length();
                length.saturating_sub(tokens)..length
            }
        }
    }

    /// Selects rows, in the order of `rows`. Their padding depends only on each other.
    pub fn select(&self, rows: &[usize]) -> Self {
        Self {
            rows: rows.iter().filter_map(|&row| self.rows.get(row).cloned()).collect(),
            ..*self
        }
    }

    /// Divides the rows into groups of similar lengths, the longest first. A shorter row starts a
    /// new group if the padding of the group would otherwise cost more than a run.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let length = |row: usize| self.padded(self.rows[row].len());
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by_key(|&row| Reverse(length(row)));
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut padding = 0;
        for row in order {
            match groups.last_mut() {
                // The first row of a group is its longest.
                Some(group) if padding + length(group[0]) - length(row) <= RUN_TOKENS => {
                    padding += length(group[0]) - length(row);
                    group.push(row);
                }
                Some(_) | None => {
                    padding = 0;
                    groups.push(vec![row]);
                }
            }
        }
        groups
    }

    /// The padded length of a row of `tokens`, if it is the longest.
    fn padded(&self, tokens: usize) -> usize {
        let length = tokens.max(self.least_length);
        length
            .checked_next_multiple_of(self.multiple_of.max(1))
            .unwrap_or(length)
    }
}

/// Converts byte ranges to character ranges, as Python counts characters.
pub fn characters(text: &str, ranges: &[Range<usize>]) -> Vec<Range<usize>> {
    if text.is_ascii() {
        return ranges.to_vec();
    }
    // The number of the character at each byte, and at the end.
    let mut numbers = Vec::with_capacity(text.len() + 1);
    for (number, (_, c)) in text.char_indices().enumerate() {
        numbers.extend(std::iter::repeat_n(number, c.len_utf8()));
    }
    let count = numbers.last().map_or(0, |last| last + 1);
    let number = |byte: usize| numbers.get(byte).copied().unwrap_or(count);
    let range = |range: &Range<usize>| {
        let start = number(range.start);
        start..number(range.end).max(start)
    };
    ranges.iter().map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(lengths: &[usize]) -> Encoded {
        let row = |&length: &usize| TokenRow {
            ids: vec![7; length],
            ..TokenRow::default()
        };
        Encoded {
            rows: lengths.iter().map(row).collect(),
            multiple_of: 1,
            ..Encoded::default()
        }
    }

    #[test]
    fn the_length_is_that_of_the_longest_row_unless_the_model_needs_more() {
        let mut encoded = encoded(&[3, 5]);
        assert_eq!(encoded.length(), 5);
        encoded.multiple_of = 8;
        assert_eq!(encoded.length(), 8);
        encoded.least_length = 12;
        assert_eq!(encoded.length(), 16);
        assert_eq!(encoded.columns(0), 0..3);
        encoded.pad_side = Side::Left;
        assert_eq!(encoded.columns(0), 13..16);
        assert_eq!(encoded.select(&[1]).rows.len(), 1);
    }

    #[test]
    fn rows_of_similar_lengths_share_a_run() {
        // A separate group saves 88 tokens twice, or 10 once.
        assert_eq!(encoded(&[2, 90, 3, 100, 1]).groups(), [vec![3, 1], vec![2, 0, 4]]);
        assert_eq!(encoded(&[30, 20, 40]).groups(), [vec![2, 0, 1]]);
        // With more rows, a smaller difference in length is worth a group.
        let many: Vec<usize> = (0..200).map(|row| 10 + row % 2).collect();
        assert_eq!(encoded(&many).groups().len(), 2);
        assert_eq!(encoded(&[]).groups(), Vec::<Vec<usize>>::new());
        // With a minimum length, all rows are padded to it.
        let mut fixed = encoded(&[2, 90, 3]);
        fixed.least_length = 128;
        assert_eq!(fixed.groups(), [vec![0, 1, 2]]);
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "a list of one range")]
    fn byte_ranges_become_character_ranges() {
        let text = "né👩x";
        assert_eq!(
            characters(text, &[0..1, 1..3, 3..7, 7..8, 0..0]),
            [0..1, 1..2, 2..3, 3..4, 0..0]
        );
        assert_eq!(characters("abc", &[1..2]), [1..2]);
    }
}
