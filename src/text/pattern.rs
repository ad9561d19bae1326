//! Runs the regular expressions of a tokenizer file, and reports the errors that the library hides.
//!
//! The library's `SysRegex` stops at the first error of its engine, for example after a million
//! backtracking steps, and treats the rest of the text as one piece. Here such an error fails the
//! text. Time is bounded too: a clock is checked between attempts, and the backtracking limit
//! bounds each attempt. Patterns without backtracking run on an engine whose time is linear in the
//! text.

mod vet;

use std::cell::Cell;
use std::time::Instant;

use fancy_regex::{Regex, RegexBuilder};
use tokenizers::Offsets;

use self::vet::vet;
use super::error::{TextError, excerpt};
use super::limits::TextLimits;

/// Maximum backtracking steps in one attempt, for a pattern whose steps are short.
const STEPS: usize = 1_000_000;
/// Maximum backtracking steps if one step may read the rest of the text.
const LONG_STEPS: usize = 1_000;
/// Maximum bytes of a compiled part of a pattern.
const COMPILED_BYTES: usize = 4 << 20;
/// Attempts between two checks of the clock.
const ATTEMPTS: usize = 64;

/// The pieces of a text and whether each is a match; they cover the text.
pub(super) type Pieces = Vec<(Offsets, bool)>;

/// A regular expression, or a literal text.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    regex: Regex,
    /// The pattern as in the file, for messages.
    source: String,
    /// Whether `regex` matches only at the start of a search, so that each position is an attempt.
    is_anchored: bool,
}

impl Pattern {
    pub fn literal(text: &str) -> Result<Self, TextError> {
        Self::compile(text, &fancy_regex::escape(text), STEPS, false)
    }

    pub fn regex(pattern: &str) -> Result<Self, TextError> {
        let vetted = vet(pattern).map_err(|problem| TextError::Pattern {
            pattern: excerpt(pattern),
            problem,
        })?;
        if !vetted.is_backtracking {
            return Self::compile(pattern, &vetted.pattern, STEPS, false);
        }
        let steps = if vetted.is_simple { STEPS } else { LONG_STEPS };
        Self::compile(pattern, &format!(r"\G(?:{})", vetted.pattern), steps, true)
    }

    fn compile(source: &str, pattern: &str, steps: usize, is_anchored: bool) -> Result<Self, TextError> {
        let regex = RegexBuilder::new(pattern)
            .backtrack_limit(steps)
            .delegate_size_limit(COMPILED_BYTES)
            .build()
            .map_err(|error| TextError::Pattern {
                pattern: excerpt(source),
                problem: error.to_string(),
            })?;
        Ok(Self {
            regex,
            source: source.to_owned(),
            is_anchored,
        })
    }

    /// Splits `text` at the matches.
    pub fn pieces(&self, text: &str, clock: &Clock) -> Result<Pieces, TextError> {
        if text.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut pieces = Pieces::new();
        let mut end = 0;
        let mut search = Search::default();
        while let Some((from, to)) = self.next(text, &mut search, clock)? {
            if end != from {
                pieces.push(((end, from), false));
            }
            pieces.push(((from, to), true));
            end = to;
        }
        if end != text.len() {
            pieces.push(((end, text.len()), false));
        }
        Ok(pieces)
    }

    /// Finds the next match. Empty matches follow the rules of `fancy_regex::Matches`.
    fn next(&self, text: &str, search: &mut Search, clock: &Clock) -> Result<Option<Offsets>, TextError> {
        while search.from <= text.len() {
            search.attempts += 1;
            // The linear engine may read the whole rest of the text in one attempt.
            if search.attempts.is_multiple_of(ATTEMPTS) || !self.is_anchored && text.len() > ATTEMPTS * 1024 {
                clock.check(&self.source)?;
            }
            let found = self.regex.find_from_pos(text, search.from);
            let found = found.map_err(|error| TextError::PatternBound {
                pattern: excerpt(&self.source),
                problem: error.to_string(),
            })?;
            let Some(found) = found else {
                if self.is_anchored {
                    search.from = after(text, search.from);
                    continue;
                }
                return Ok(None);
            };
            let (start, end) = (found.start(), found.end());
            if start == end {
                search.from = after(text, end);
                if search.last == Some(end) {
                    continue;
                }
            } else {
                search.from = end;
            }
            search.last = Some(end);
            return Ok(Some((start, end)));
        }
        Ok(None)
    }
}

/// The state of a search for matches.
#[derive(Default)]
struct Search {
    from: usize,
    /// The end of the last match.
    last: Option<usize>,
    attempts: usize,
}

/// The position after the character at `at`.
fn after(text: &str, at: usize) -> usize {
    at + text[at..].chars().next().map_or(1, char::len_utf8)
}

/// The time limit of a tokenizer's patterns for one text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    end: Instant,
    seconds: f64,
    deadline: Option<Instant>,
}

impl Clock {
    pub fn start(limits: &TextLimits) -> Self {
        Self {
            end: Instant::now() + limits.pattern_time,
            seconds: limits.pattern_time.as_secs_f64(),
            deadline: limits.deadline,
        }
    }

    fn check(&self, pattern: &str) -> Result<(), TextError> {
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(TextError::Deadline);
        }
        if now >= self.end {
            return Err(TextError::PatternBound {
                pattern: excerpt(pattern),
                problem: format!("more than {} s", self.seconds),
            });
        }
        Ok(())
    }
}

/// Precomputed pieces, for a single call of a library function that takes a pattern.
pub(super) struct Found(Cell<Pieces>);

impl Found {
    pub fn new(pieces: Pieces) -> Self {
        Self(Cell::new(pieces))
    }
}

impl tokenizers::pattern::Pattern for Found {
    fn find_matches(&self, _: &str) -> tokenizers::Result<Pieces> {
        Ok(self.0.take())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn clock(time: Duration) -> Clock {
        Clock::start(&TextLimits {
            pattern_time: time,
            ..TextLimits::default()
        })
    }

    fn matches(pattern: &str, text: &str) -> Vec<String> {
        let pieces = Pattern::regex(pattern)
            .unwrap()
            .pieces(text, &clock(Duration::from_secs(60)))
            .unwrap();
        let mut end = 0;
        for ((from, to), _) in &pieces {
            assert_eq!(*from, end, "the pieces of {text:?} by {pattern} cover it");
            end = *to;
        }
        assert_eq!(end, text.len());
        let matches = pieces.iter().filter(|(_, is_match)| *is_match);
        matches.map(|((from, to), _)| text[*from..*to].to_owned()).collect()
    }

    const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    #[test]
    fn a_backtracking_pattern_finds_the_same_matches_as_the_plain_engine() {
        let texts = [
            "Hello, it's 42   degrees\n\n  today  ",
            "a",
            "   ",
            "été \u{200d}👩\u{200d}👩 12½",
            "\u{a0}\u{3000} x",
        ];
        let patterns = [
            GPT_2,
            r"\s*[\r\n]+|\s+(?!\S)|\s+",
            r"\d{1,3}(?=(?:\d{3})*\b)",
            r"(?<=a)b|x*(?!y)",
            r"l++o|(?<!t)\b",
        ];
        for pattern in patterns {
            let plain = Regex::new(&vet(pattern).unwrap().pattern).unwrap();
            for text in texts.iter().copied().chain(["1234567 abab yx xxy xx hello ttt"]) {
                let expected: Vec<_> = plain.find_iter(text).map(|m| m.unwrap().as_str()).collect();
                assert_eq!(matches(pattern, text), expected, "{pattern} on {text:?}");
            }
        }
    }

    #[test]
    fn an_engine_that_gives_up_causes_an_error() {
        let pattern = Pattern::regex(r"(?:(?:a|b|ab)*)(?=c)").unwrap();
        let error = pattern
            .pieces(&"ab".repeat(200), &clock(Duration::from_secs(60)))
            .unwrap_err();
        assert!(matches!(error, TextError::PatternBound { .. }), "{error}");
        assert!(error.to_string().contains("(?:a|b|ab)*"), "{error}");
    }

    #[test]
    fn the_clock_stops_a_pattern_that_takes_quadratic_time() {
        // Each position reads the rest of the text without a match.
        for pattern in ["[^z]*z|a", "(?:[^z]*z|a)(?!b)"] {
            let pattern = Pattern::regex(pattern).unwrap();
            let error = pattern.pieces(&"a".repeat(1 << 20), &clock(Duration::from_millis(50)));
            assert!(matches!(error, Err(TextError::PatternBound { .. })));
        }
        let past = Clock::start(&TextLimits {
            deadline: Some(Instant::now()),
            ..TextLimits::default()
        });
        let pattern = Pattern::regex(GPT_2).unwrap();
        assert_eq!(pattern.pieces(&"a b ".repeat(1000), &past), Err(TextError::Deadline));
    }

    #[test]
    fn matches_long_runs_of_spaces_like_short_ones() {
        let text = format!("a{}b", " ".repeat(300_000));
        let found = matches(GPT_2, &text);
        assert_eq!(found.iter().map(String::len).collect::<Vec<_>>(), [1, 299_999, 2]);
    }

    #[test]
    fn a_literal_matches_only_itself() {
        let pattern = Pattern::literal(".*").unwrap();
        let pieces = pattern.pieces("a.*b.*", &clock(Duration::from_secs(60))).unwrap();
        assert_eq!(
            pieces,
            [((0, 1), false), ((1, 3), true), ((3, 4), false), ((4, 6), true)]
        );
    }
}
