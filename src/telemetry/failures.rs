//! The last refusals and failures of the server, for the person who asks why.
//!
//! The list is bounded, and so is each entry. An entry never has a body or a header's value other
//! than the names of models: `text` is the message that the client got, without what it quotes
//! from the client's data.
//!
//! Equal failures that follow each other are one entry with a count, so that a client that retries
//! all day does not push the others out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::cause::Cause;

/// Number of entries that are kept.
pub const FAILURES: usize = 100;

/// Longest text of an entry, in bytes.
pub const TEXT_BYTES: usize = 300;

/// Longest name of a model in an entry, in bytes.
pub const NAME_BYTES: usize = 128;

/// A refused or failed request, or several equal ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Time of the last one.
    pub at: SystemTime,
    /// The model's name in the path or in the body; `None` where no model was chosen.
    pub model: Option<String>,
    /// The client's name for the model.
    pub target_model: Option<String>,
    /// The operation, for example `invoke` or `load`.
    pub operation: &'static str,
    /// The status of the response; `None` for work without a request, such as a restore.
    pub status: Option<u16>,
    pub cause: Cause,
    pub text: String,
    /// Number of equal failures in a row.
    pub count: u64,
}

impl Failure {
    /// Creates an entry of one failure now. Shortens the texts.
    pub fn now(operation: &'static str, status: Option<u16>, cause: Cause, text: &str) -> Self {
        Self {
            at: SystemTime::now(),
            model: None,
            target_model: None,
            operation,
            status,
            cause,
            text: shortened(text, TEXT_BYTES),
            count: 1,
        }
    }

    /// Sets the names of the model.
    pub fn of(mut self, model: Option<&str>, target_model: Option<&str>) -> Self {
        let name = |name: &str| shortened(name, NAME_BYTES);
        (self.model, self.target_model) = (model.map(name), target_model.map(name));
        self
    }

    fn equals(&self, other: &Self) -> bool {
        (self.operation, self.status, self.cause) == (other.operation, other.status, other.cause)
            && self.model == other.model
            && self.target_model == other.target_model
            && self.text == other.text
    }
}

/// The last failures, the newest last.
#[derive(Debug, Default)]
pub struct Failures {
    /// Locked for a comparison and a move.
    last: Mutex<VecDeque<Failure>>,
    /// Number of all failures.
    total: AtomicU64,
}

impl Failures {
    pub fn add(&self, failure: Failure) {
        self.total.fetch_add(failure.count, Ordering::Relaxed);
        let mut failures = self.failures();
        match failures.back_mut() {
            Some(last) if last.equals(&failure) => {
                last.count += failure.count;
                last.at = failure.at;
            }
            _ => {
                if failures.len() == FAILURES {
                    failures.pop_front();
                }
                failures.push_back(failure);
            }
        }
    }

    /// Number of failures since the start.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Returns all entries, the newest first.
    pub fn newest_first(&self) -> Vec<Failure> {
        self.failures().iter().rev().cloned().collect()
    }

    fn failures(&self) -> MutexGuard<'_, VecDeque<Failure>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns at most `bytes` bytes of `text`, with an ellipsis in place of the rest.
pub fn shortened(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    const ELLIPSIS: &str = "…";
    let end = text.floor_char_boundary(bytes.saturating_sub(ELLIPSIS.len()));
    format!("{}{ELLIPSIS}", &text[..end])
}

/// Replaces the quoted parts of a message, which may come from the client's data.
pub fn without_quotes(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut characters = text.chars();
    let mut before = ' ';
    while let Some(c) = characters.next() {
        kept.push(c);
        // An apostrophe within a word is not a quotation mark.
        let opens = matches!(c, '"' | '`') || c == '\'' && !before.is_alphanumeric();
        before = c;
        if !opens {
            continue;
        }
        kept.push('…');
        let mut is_escaped = false;
        for quoted in characters.by_ref() {
            if quoted == c && !is_escaped {
                kept.push(c);
                break;
            }
            is_escaped = quoted == '\\' && !is_escaped;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> Failure {
        Failure::now("invoke", Some(400), Cause::BadRequest, text).of(Some("a"), None)
    }

    #[test]
    fn the_list_keeps_the_newest_failures() {
        let failures = Failures::default();
        for number in 0..FAILURES + 7 {
            failures.add(failure(&number.to_string()));
        }
        let newest = failures.newest_first();
        assert_eq!((newest.len(), failures.total()), (FAILURES, FAILURES as u64 + 7));
        assert_eq!(newest[0].text, (FAILURES + 6).to_string());
        assert_eq!(newest[FAILURES - 1].text, "7");
    }

    #[test]
    fn equal_failures_in_a_row_are_one_entry() {
        let failures = Failures::default();
        for text in ["a", "a", "a", "b", "a"] {
            failures.add(failure(text));
        }
        let counts: Vec<_> = failures
            .newest_first()
            .into_iter()
            .map(|failure| (failure.text, failure.count))
            .collect();
        assert_eq!(counts, [("a".to_owned(), 1), ("b".to_owned(), 1), ("a".to_owned(), 3)]);
    }

    #[test]
    fn an_entry_is_bounded() {
        let long = "é".repeat(10_000);
        let entry = Failure::now("load", None, Cause::Internal, &long).of(Some(&long), Some(&long));
        assert!(entry.text.len() <= TEXT_BYTES && entry.text.ends_with('…'));
        assert!(entry.model.unwrap().len() <= NAME_BYTES);
        assert!(entry.target_model.unwrap().len() <= NAME_BYTES);
    }

    #[test]
    fn quoted_parts_of_a_message_are_left_out() {
        let table = [
            ("no quotes", "no quotes"),
            (r#"given "secret" at 3, or "other""#, r#"given "…" at 3, or "…""#),
            ("`x` is not 'y'", "`…` is not '…'"),
            ("the model's input \"a\"", "the model's input \"…\""),
            ("unknown \"secret without end", "unknown \"…"),
            ("ends with \"", "ends with \"…"),
            (r#"given "a\"secret", "#, r#"given "…", "#),
        ];
        for (message, expected) in table {
            assert_eq!(without_quotes(message), expected);
        }
    }
}
