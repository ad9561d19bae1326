//! Equal files are one tokenizer in memory.

use std::sync::Barrier;
use std::thread;

use super::*;

fn get(pool: &Pool, name: &str) -> Tokenizer {
    pool.get(&file(name), &TokenizerConfig::default(), &FileLimits::default())
        .unwrap()
}

#[test]
fn equal_files_are_one_tokenizer_until_the_last_one_goes() {
    let pool = Pool::default();
    let first = get(&pool, "bert_cased");
    let second = get(&pool, "bert_cased");
    let other = get(&pool, "gpt2");
    assert!(first.is_shared_with(&second) && !first.is_shared_with(&other));
    assert_eq!(pool.len(), 2);
    drop(first);
    assert_eq!(pool.len(), 2);
    drop((second, other));
    assert!(pool.is_empty());
    assert!(!get(&pool, "gpt2").is_shared_with(&get(&pool, "bert_cased")));
}

#[test]
fn what_a_configuration_changes_in_the_file_makes_another_tokenizer() {
    let pool = Pool::default();
    let with = |text: &str| {
        let mut config = TokenizerConfig::default();
        config.read("tokenizer_config.json", text).unwrap();
        pool.get(&file("bert_uncased"), &config, &FileLimits::default())
            .unwrap()
    };
    let plain = get(&pool, "bert_uncased");
    assert!(plain.is_shared_with(&with(r#"{"model_max_length": 128}"#)));
    assert_eq!(
        with(r#"{"model_max_length": 128}"#).config().model_max_length,
        Some(128)
    );
    assert!(!plain.is_shared_with(&with(
        r#"{"tokenizer_class": "BertTokenizerFast", "do_lower_case": false}"#
    )));
}

#[test]
fn threads_that_ask_at_once_share_one() {
    let pool = Pool::default();
    let barrier = Barrier::new(4);
    let tokenizers: Vec<Tokenizer> = thread::scope(|scope| {
        let ask = || {
            barrier.wait();
            get(&pool, "xlm_roberta")
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(
        tokenizers
            .iter()
            .all(|tokenizer| tokenizer.is_shared_with(&tokenizers[0]))
    );
}

#[test]
fn a_file_that_is_refused_leaves_nothing_behind() {
    let pool = Pool::default();
    assert!(
        pool.get(b"{}", &TokenizerConfig::default(), &FileLimits::default())
            .is_err()
    );
    assert!(pool.is_empty());
}
