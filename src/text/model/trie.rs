//! A trie of the tokens of a vocabulary, in three arrays.
//!
//! The nodes are numbered level by level. The children of a node are adjacent, in the order of
//! their bytes, and the children of the next node follow them.

/// Marks a node where no token ends.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Trie {
    /// The byte that leads to each node; unused for the root.
    bytes: Vec<u8>,
    /// The first child of each node; its children end where those of the next node begin.
    children: Vec<u32>,
    /// The id of the token that ends at each node.
    ids: Vec<u32>,
}

impl Trie {
    /// Builds a trie of `count` tokens. The last of equal tokens wins.
    pub fn new<'a>(count: usize, token: impl Fn(usize) -> &'a [u8]) -> Self {
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&id| token(id));
        let mut trie = Self {
            bytes: vec![0],
            children: Vec::new(),
            ids: Vec::new(),
        };
        // The tokens below each node of a level, as a range of `order`.
        let mut level = vec![(0, count)];
        let mut depth = 0;
        while !level.is_empty() {
            let mut below = Vec::new();
            for &(start, end) in &level {
                let ended = order[start..end].iter().take_while(|&&id| token(id).len() == depth);
                let (mut at, mut last) = (start, NONE);
                for &id in ended {
                    at += 1;
                    last = u32::try_from(id).unwrap_or(NONE);
                }
                trie.ids.push(last);
                trie.children.push(u32::try_from(trie.bytes.len()).unwrap_or(NONE));
                while at < end {
                    let byte = token(order[at])[depth];
                    let same = order[at..end].partition_point(|&id| token(id)[depth] == byte);
                    trie.bytes.push(byte);
                    below.push((at, at + same));
                    at += same;
                }
            }
            level = below;
            depth += 1;
        }
        trie.children.push(u32::try_from(trie.bytes.len()).unwrap_or(NONE));
        trie.bytes.shrink_to_fit();
        trie.children.shrink_to_fit();
        trie.ids.shrink_to_fit();
        trie
    }

    /// The tokens that are prefixes of `text`, each with its length, shortest first.
    pub fn prefixes(&self, text: &[u8]) -> impl Iterator<Item = (usize, u32)> {
        let mut node = 0;
        let nodes = text.iter().map_while(move |&byte| {
            node = self.child(node, byte)?;
            Some(self.ids[node])
        });
        nodes
            .enumerate()
            .filter(|&(_, id)| id != NONE)
            .map(|(at, id)| (at + 1, id))
    }

    /// The id of a token.
    pub fn get(&self, token: &[u8]) -> Option<u32> {
        let node = token.iter().try_fold(0, |node, &byte| self.child(node, byte))?;
        Some(self.ids[node]).filter(|&id| id != NONE)
    }

    /// Size in memory, in bytes.
    pub fn memory(&self) -> usize {
        self.bytes.len() * 9
    }

    fn child(&self, node: usize, byte: u8) -> Option<usize> {
        let (start, end) = (self.children[node] as usize, self.children[node + 1] as usize);
        let bytes = &self.bytes[start..end];
        // Most nodes have few children.
        let at = if bytes.len() <= 8 {
            bytes.iter().position(|&other| other == byte)?
        } else {
            bytes.binary_search(&byte).ok()?
        };
        Some(start + at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_the_tokens_that_are_prefixes_of_a_text(
            tokens in prop::collection::vec("[abc]{0,5}", 0..30), text in "[abcd]{0,8}"
        ) {
            let trie = Trie::new(tokens.len(), |id| tokens[id].as_bytes());
            let ids: HashMap<&str, u32> = (0..).zip(&tokens).map(|(id, token)| (token.as_str(), id)).collect();
            for token in &tokens {
                prop_assert_eq!(trie.get(token.as_bytes()), ids.get(token.as_str()).copied());
            }
            prop_assert_eq!(trie.get(text.as_bytes()), ids.get(text.as_str()).copied());
            let expected: Vec<_> = (1..=text.len())
                .filter_map(|length| Some((length, *ids.get(&text[..length])?)))
                .collect();
            prop_assert_eq!(trie.prefixes(text.as_bytes()).collect::<Vec<_>>(), expected);
        }
    }
}
