//! Memory estimates are upper bounds, and close ones.

use std::fmt::Write;

use serde_json::json;
use tikv_jemalloc_ctl::thread::{allocatedp, deallocatedp};

use super::*;

/// Bytes that this thread has allocated and not freed.
fn live() -> u64 {
    let (allocated, deallocated) = (allocatedp::read().unwrap(), deallocatedp::read().unwrap());
    allocated.get().wrapping_sub(deallocated.get())
}

/// Words that are similar to those of a real vocabulary.
fn words(count: usize) -> Vec<String> {
    let mut words = Vec::new();
    for number in 0..count {
        let mut word = String::new();
        let mut rest = number * 7919 + 1;
        while rest > 0 {
            write!(word, "{}", char::from(b'a' + u8::try_from(rest % 23).unwrap())).unwrap();
            rest /= 23;
        }
        words.push(word);
    }
    words.sort_unstable();
    words.dedup();
    words
}

/// Files with `count` tokens for each model type.
fn files(count: usize) -> Vec<(&'static str, Vec<u8>)> {
    let words = words(count);
    let vocabulary: serde_json::Map<String, serde_json::Value> = words
        .iter()
        .enumerate()
        .map(|(id, word)| (word.clone(), id.into()))
        .collect();
    let merges: Vec<_> = words
        .iter()
        .filter(|word| word.len() > 1)
        .map(|word| word.split_at(word.len() - 1))
        .filter(|(left, right)| vocabulary.contains_key(*left) && vocabulary.contains_key(*right))
        .collect();
    let scores: Vec<_> = words.iter().map(|word| (word, -1.0)).collect();
    let added: Vec<_> = words
        .iter()
        .map(|word| {
            json!({"id": 0, "content": format!("<{word}>"), "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": false})
        })
        .collect();
    let models = [
        ("BPE", json!({"type": "BPE", "vocab": vocabulary, "merges": merges})),
        (
            "WordLevel",
            json!({"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"}),
        ),
        ("Unigram", json!({"type": "Unigram", "vocab": scores, "unk_id": 0})),
        (
            "added",
            json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}),
        ),
    ];
    let file = |(name, model)| {
        let added = if name == "added" { json!(added) } else { json!([]) };
        (
            name,
            json!({"model": model, "added_tokens": added}).to_string().into_bytes(),
        )
    };
    models.into_iter().map(file).collect()
}

#[test]
fn the_estimate_for_a_tokenizer_is_a_close_upper_bound() {
    let own = NAMES.into_iter().map(|name| (name, file(name)));
    // Hash tables grow by doubling: with 20,000 entries they are 6/10 full, with 29,000 they have
    // just doubled.
    for (name, json) in own.chain(files(20_000)).chain(files(29_000)) {
        // The first tokenizer creates shared patterns and tables.
        drop(parse(&json).unwrap());
        let before = live();
        let tokenizer = parse(&json).unwrap();
        let kept = live() - before;
        let estimate = tokenizer.memory();
        assert!(kept <= estimate, "{name}: {kept} bytes, estimated {estimate}");
        // Added tokens with common prefixes, such as these, share parts of their automaton.
        assert!(
            estimate <= 3 * kept + (1 << 20),
            "{name}: {kept} bytes, estimated {estimate}"
        );
    }
}
