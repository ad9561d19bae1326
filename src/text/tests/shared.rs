//! Equal files share one tokenizer in memory.

use std::sync::Barrier;
use std::thread;

use super::*;

fn get(pool: &Pool, name: &str) -> Tokenizer {
    pool.get(&file(name), &TokenizerConfig::default(), &FileLimits::default())
        .unwrap()
}

#[test]
fn equal_files_share_one_tokenizer_until_the_last_use_ends() {
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
fn a_configuration_that_overrides_the_file_gets_a_separate_tokenizer() {
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
fn concurrent_threads_share_one_tokenizer() {
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
fn a_refused_file_leaves_no_entry_in_the_pool() {
    let pool = Pool::default();
    assert!(
        pool.get(b"{}", &TokenizerConfig::default(), &FileLimits::default())
            .is_err()
    );
    assert!(pool.is_empty());
}
