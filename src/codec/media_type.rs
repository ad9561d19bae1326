//! `Content-Type` and `Accept` (CT-1, CT-2, MC-6).
//!
//! Media types match by type and subtype alone, in any case: a pipeline passes on the content type
//! of the previous container, including its parameters (MC-6). Each format reads only the
//! parameters that change the meaning of the body, such as `charset`, or `json-header-size` of the
//! Triton type.
//!
//! Invariants: any header value is either parsed or refused. An invalid parameter or `Accept`
//! element does not affect the others. The crates `mime` and `mediatype` refuse a whole value for
//! one invalid parameter, such as `shape=[2,3]`, which clients of other servers send.

use std::borrow::Cow;

/// A media type with its parameters, as `Content-Type` carries it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MediaType<'a> {
    /// `type/subtype` in lower case.
    pub essence: String,
    /// Names in lower case, values unquoted.
    parameters: Vec<(String, Cow<'a, str>)>,
}

impl<'a> MediaType<'a> {
    /// `None` when `text` is not `type/subtype` with optional parameters.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = split_unquoted(text, b';');
        let (main, sub) = parts.next()?.trim().split_once('/')?;
        if !is_token(main) || !is_token(sub) {
            return None;
        }
        let mut parameters = Vec::new();
        for part in parts.map(str::trim).filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                continue;
            };
            let value = value.trim_start();
            // A value that is neither a token nor a quoted string, such as `shape=[2,3]`, is kept
            // as written. The reader of the parameter decides.
            let value = unquote(value).unwrap_or(Cow::Borrowed(value));
            parameters.push((name.trim_end().to_ascii_lowercase(), value));
        }
        Some(Self {
            essence: format!("{main}/{sub}").to_ascii_lowercase(),
            parameters,
        })
    }

    /// The value of a parameter; the first one if it is repeated.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_ref())
    }
}

/// One element of `Accept`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// In lower case; `*` for any.
    pub main: String,
    pub sub: String,
    /// The `q` value in thousandths; 0 means "not this".
    pub quality: u16,
    /// The parameter that names the output to return.
    pub output: Option<String>,
    /// The parameter that selects the form of the response.
    pub form: Option<String>,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = split_unquoted(text, b';');
        let range = parts.next()?.trim();
        // Java's own client sends a bare `*`.
        let (main, sub) = if range == "*" {
            ("*", "*")
        } else {
            range.split_once('/')?
        };
        if !is_token(main) || !is_token(sub) || (main == "*" && sub != "*") {
            return None;
        }
        let mut range = Self {
            main: main.to_ascii_lowercase(),
            sub: sub.to_ascii_lowercase(),
            quality: 1000,
            output: None,
            form: None,
        };
        let mut has_quality = false;
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let (name, value) = (name.trim(), value.trim());
            let text = || unquote(value).map_or_else(|| value.to_owned(), Cow::into_owned);
            if name.eq_ignore_ascii_case("q") && !has_quality {
                range.quality = thousandths(value);
                has_quality = true;
            } else if name.eq_ignore_ascii_case("output") {
                range.output.get_or_insert_with(text);
            } else if name.eq_ignore_ascii_case("form") {
                range.form.get_or_insert_with(text);
            }
        }
        Some(range)
    }

    /// `type/subtype`.
    pub fn essence(&self) -> String {
        format!("{}/{}", self.main, self.sub)
    }

    pub fn matches(&self, essence: &str) -> bool {
        essence
            .split_once('/')
            .is_some_and(|(main, sub)| (self.main == "*" || self.main == main) && (self.sub == "*" || self.sub == sub))
    }

    /// 0 for `*/*`, 1 for `type/*`, 2 for `type/subtype`.
    pub fn specificity(&self) -> u8 {
        u8::from(self.main != "*") + u8::from(self.sub != "*")
    }
}

/// Parses the elements of `Accept`, sorted by descending quality. Elements of equal quality keep
/// their order.
pub(super) fn accept_ranges(accept: &str) -> Vec<Range> {
    let mut ranges: Vec<Range> = split_unquoted(accept, b',').filter_map(Range::parse).collect();
    ranges.sort_by_key(|range| std::cmp::Reverse(range.quality));
    ranges
}

/// Parses a quality in thousandths. Anything but a number from 0 to 1 counts as 1.
fn thousandths(text: &str) -> u16 {
    match text.parse::<f32>() {
        Ok(q) if (0.0..=1.0).contains(&q) => (q * 1000.0).round() as u16,
        Ok(_) | Err(_) => 1000,
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Splits at `separator` outside quoted strings.
fn split_unquoted(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = text.bytes().position(|b| {
            match b {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if b == separator && !quoted => return true,
                _ => {}
            }
            false
        });
        let (part, tail) = match end {
            Some(end) => (&text[..end], Some(&text[end + 1..])),
            None => (text, None),
        };
        rest = tail;
        Some(part)
    })
}

/// The value of a token or a quoted string. `None` if `value` is neither.
fn unquote(value: &str) -> Option<Cow<'_, str>> {
    let Some(inner) = value.strip_prefix('"') else {
        return is_token(value).then_some(Cow::Borrowed(value));
    };
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    loop {
        match chars.next()? {
            '\\' => text.push(chars.next()?),
            '"' => return chars.next().is_none().then_some(Cow::Owned(text)),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_read_case_insensitively_and_with_quoted_parameters() {
        let table: [(&str, Option<&str>, Option<&str>); 14] = [
            ("application/json", Some("application/json"), None),
            ("Application/JSON", Some("application/json"), None),
            (" text/csv ; Charset=UTF-8 ", Some("text/csv"), Some("UTF-8")),
            ("text/csv;charset=\"utf-8\"", Some("text/csv"), Some("utf-8")),
            ("text/csv; x=\"a;b\\\"c\"; charset=x", Some("text/csv"), Some("x")),
            ("text/csv;;charset=a;charset=b;", Some("text/csv"), Some("a")),
            ("a/b; c; =; charset=x", Some("a/b"), Some("x")),
            ("json", None, None),
            ("", None, None),
            ("/json", None, None),
            ("application/", None, None),
            ("a/b/c", None, None),
            ("text/csv; charset=\"utf-8", Some("text/csv"), Some("\"utf-8")),
            ("text/csv, application/json", None, None),
        ];
        for (text, essence, charset) in table {
            let parsed = MediaType::parse(text);
            assert_eq!(parsed.as_ref().map(|m| m.essence.as_str()), essence, "{text:?}");
            assert_eq!(
                parsed.as_ref().and_then(|m| m.parameter("charset")),
                charset,
                "{text:?}"
            );
        }
    }

    #[test]
    fn accept_is_ordered_by_quality_then_by_position() {
        let table: [(&str, &[(&str, u16)]); 9] = [
            ("a/b, c/d", &[("a/b", 1000), ("c/d", 1000)]),
            ("a/b;q=0.5, c/d", &[("c/d", 1000), ("a/b", 500)]),
            (
                "a/b;q=0.1,c/d;q=.25 , E/*;Q=1",
                &[("e/*", 1000), ("c/d", 250), ("a/b", 100)],
            ),
            ("*; q=.2, */*; q=.2", &[("*/*", 200), ("*/*", 200)]),
            ("a/b;q=0", &[("a/b", 0)]),
            ("a/b;verbose=true;q=0.3", &[("a/b", 300)]),
            ("a/b;x=\"1,2\", c/d", &[("a/b", 1000), ("c/d", 1000)]),
            ("rubbish, */json, , a/b;q=high", &[("a/b", 1000)]),
            ("", &[]),
        ];
        for (accept, expected) in table {
            let ranges = accept_ranges(accept);
            let given: Vec<(String, u16)> = ranges
                .iter()
                .map(|r| (format!("{}/{}", r.main, r.sub), r.quality))
                .collect();
            let expected: Vec<(String, u16)> = expected.iter().map(|&(r, q)| (r.to_owned(), q)).collect();
            assert_eq!(given, expected, "{accept:?}");
        }
    }

    #[test]
    fn a_range_matches_its_type_only() {
        let range = |text| accept_ranges(text).remove(0);
        assert!(range("*/*").matches("text/csv") && range("text/*").matches("text/csv"));
        assert!(!range("text/*").matches("application/json") && !range("text/html").matches("text/csv"));
        assert_eq!(["*/*", "text/*", "text/csv"].map(|r| range(r).specificity()), [0, 1, 2]);
    }
}
