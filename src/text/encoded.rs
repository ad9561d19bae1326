//! The tokens of a request's texts.

use std::ops::Range;

use super::options::Side;

/// The tokens of one text or pair, without padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenRow {
    pub ids: Vec<u32>,
    /// 1 for the tokens of the second text where the tokenizer tells the two apart.
    pub type_ids: Vec<u32>,
    /// Whether each token is one that the tokenizer added around the text.
    pub special: Vec<bool>,
    /// Bytes of the text that each token stands for; empty for special tokens. The list is empty
    /// where the options did not ask for offsets.
    pub offsets: Vec<Range<usize>>,
    /// The word of each token, as the pre-tokenizer counts them in its text. Empty as `offsets` is.
    pub words: Vec<Option<u32>>,
    /// Which text of a pair each token is of: 0 or 1. Empty as `offsets` is.
    pub sequences: Vec<Option<u8>>,
    /// Whether a part of the text is cut off.
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

/// The tokens of a request. The rows keep their own lengths; [`Encoded::length`] is that of the
/// tensors, and [`Encoded::columns`] says where a row stands in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    pub rows: Vec<TokenRow>,
    /// The id of the token that rows are filled up with.
    pub pad_id: u32,
    pub pad_type_id: u32,
    pub pad_side: Side,
    /// The length that rows are filled up to at least.
    pub least_length: usize,
    /// The length is a multiple of this; at least 1.
    pub multiple_of: usize,
}

impl Encoded {
    /// Tokens of each row with its padding.
    pub fn length(&self) -> usize {
        let longest = self.rows.iter().map(TokenRow::len).max().unwrap_or(0);
        let length = longest.max(self.least_length);
        length
            .checked_next_multiple_of(self.multiple_of.max(1))
            .unwrap_or(length)
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

    /// Takes some of the rows, in the order of `rows`. They are padded among themselves.
    pub fn select(&self, rows: &[usize]) -> Self {
        Self {
            rows: rows.iter().filter_map(|&row| self.rows.get(row).cloned()).collect(),
            ..*self
        }
    }

    /// Deals the rows to groups of like lengths, the longest first, so that little of a group is
    /// padding. A group has at most `most_rows` rows and, where it has more than one, at most
    /// `most_tokens` tokens.
    pub fn groups(&self, most_rows: usize, most_tokens: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by_key(|&row| std::cmp::Reverse(self.rows[row].len()));
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for row in order {
            let fits = |group: &Vec<usize>| {
                // Its first row is its longest.
                let length = self.rows[group[0]].len().max(self.least_length);
                group.len() < most_rows && length.saturating_mul(group.len() + 1) <= most_tokens
            };
            match groups.last_mut() {
                Some(group) if fits(group) => group.push(row),
                Some(_) | None => groups.push(vec![row]),
            }
        }
        groups
    }
}

/// Turns ranges of bytes into ranges of characters, as Python counts them.
pub fn characters(text: &str, ranges: &[Range<usize>]) -> Vec<Range<usize>> {
    if text.is_ascii() {
        return ranges.to_vec();
    }
    // The character of each byte, and of the end.
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
    fn the_length_is_that_of_the_longest_row_or_what_the_model_wants() {
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
    fn rows_of_like_lengths_go_together() {
        let encoded = encoded(&[2, 90, 3, 100, 1]);
        assert_eq!(encoded.groups(8, 200), [vec![3, 1], vec![2, 0, 4]]);
        assert_eq!(encoded.groups(2, 1000), [vec![3, 1], vec![2, 0], vec![4]]);
        assert_eq!(encoded.groups(8, 10), [vec![3], vec![1], vec![2, 0, 4]]);
        assert_eq!(self::encoded(&[]).groups(8, 10), Vec::<Vec<usize>>::new());
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "a list of one range")]
    fn bytes_are_counted_as_characters() {
        let text = "né👩x";
        assert_eq!(
            characters(text, &[0..1, 1..3, 3..7, 7..8, 0..0]),
            [0..1, 1..2, 2..3, 3..4, 0..0]
        );
        assert_eq!(characters("abc", &[1..2]), [1..2]);
    }
}
