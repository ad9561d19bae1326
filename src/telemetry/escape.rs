//! Escapes characters that change how a line is displayed.
//!
//! Names, paths and messages from untrusted sources get into the log and onto terminals. A line
//! separator could end a record early and forge the next one. A bidirectional control could
//! display text in another order. An escape sequence could control a terminal. All of them are
//! written as escapes, so that a reader sees them.

use std::borrow::Cow;

/// Form of the escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `\n`, `\u{2028}`. With `has_colours`, escape characters stay, because the log's own colours
    /// begin with them.
    Text { has_colours: bool },
    /// `\u2028`, for a line of JSON, which has such characters only in its strings.
    Json,
}

/// Whether `c` controls a terminal, ends a line, or changes the direction of text.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{2028}' | '\u{2029}' | '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Returns `text` on one line, with escapes in place of all unsafe characters.
pub fn plain(text: &str) -> Cow<'_, str> {
    escaped(text, Style::Text { has_colours: false })
}

/// Returns a log record with escapes in place of unsafe characters. Keeps tabs, and a newline at
/// the end.
pub fn record(line: &[u8], style: Style) -> Cow<'_, [u8]> {
    // The first UTF-8 bytes of all unsafe characters, and of some safe ones.
    let is_suspect = |byte: u8| matches!(byte, 0..=0x1F | 0x7F | 0xC2 | 0xD8 | 0xE2);
    let (text, end) = match line.split_last() {
        Some((b'\n', text)) => (text, "\n"),
        _ => (line, ""),
    };
    if !text.iter().any(|&byte| is_suspect(byte)) {
        return Cow::Borrowed(line);
    }
    let text = String::from_utf8_lossy(text);
    match escaped(&text, style) {
        Cow::Borrowed(unchanged) if unchanged.len() + end.len() == line.len() => Cow::Borrowed(line),
        escaped => Cow::Owned((escaped.into_owned() + end).into_bytes()),
    }
}

fn escaped(text: &str, style: Style) -> Cow<'_, str> {
    let stays = |c: char| {
        !is_unsafe(c)
            || c == '\t' && style != Style::Json
            || c == '\u{1b}' && style == Style::Text { has_colours: true }
    };
    if text.chars().all(stays) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match style {
            _ if stays(c) => escaped.push(c),
            Style::Text { .. } => escaped.extend(c.escape_default()),
            Style::Json => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: Style = Style::Text { has_colours: false };
    const COLOURED: Style = Style::Text { has_colours: true };

    fn written(line: &str, style: Style) -> String {
        String::from_utf8(record(line.as_bytes(), style).into_owned()).unwrap()
    }

    #[test]
    fn every_unsafe_character_is_escaped() {
        let table = [
            ('\u{2028}', r"\u{2028}", r"\u2028"),
            ('\u{2029}', r"\u{2029}", r"\u2029"),
            ('\u{202A}', r"\u{202a}", r"\u202a"),
            ('\u{202B}', r"\u{202b}", r"\u202b"),
            ('\u{202C}', r"\u{202c}", r"\u202c"),
            ('\u{202D}', r"\u{202d}", r"\u202d"),
            ('\u{202E}', r"\u{202e}", r"\u202e"),
            ('\u{2066}', r"\u{2066}", r"\u2066"),
            ('\u{2067}', r"\u{2067}", r"\u2067"),
            ('\u{2068}', r"\u{2068}", r"\u2068"),
            ('\u{2069}', r"\u{2069}", r"\u2069"),
            ('\u{200E}', r"\u{200e}", r"\u200e"),
            ('\u{200F}', r"\u{200f}", r"\u200f"),
            ('\u{61C}', r"\u{61c}", r"\u061c"),
            ('\u{85}', r"\u{85}", r"\u0085"),
            ('\u{9B}', r"\u{9b}", r"\u009b"),
            ('\u{7F}', r"\u{7f}", r"\u007f"),
            ('\n', r"\n", r"\u000a"),
            ('\r', r"\r", r"\u000d"),
            ('\u{1B}', r"\u{1b}", r"\u001b"),
            ('\0', r"\u{0}", r"\u0000"),
        ];
        for (c, text, json) in table {
            let line = format!("a{c}b\n");
            assert_eq!(written(&line, TEXT), format!("a{text}b\n"));
            assert_eq!(written(&line, Style::Json), format!("a{json}b\n"));
            assert_eq!(plain(&format!("a{c}b")), format!("a{text}b"));
            let quoted: String = serde_json::from_str(&format!("\"{json}\"")).unwrap();
            assert_eq!(quoted, c.to_string(), "the JSON escape must decode to the character");
        }
    }

    #[test]
    fn safe_text_is_not_changed() {
        for line in [
            "",
            "\n",
            "a\tb\n",
            "größer ☃ 日本語 “quoted” … العربية\n",
            "no end",
            "©²\n",
        ] {
            for style in [TEXT, COLOURED] {
                assert!(matches!(record(line.as_bytes(), style), Cow::Borrowed(same) if same == line.as_bytes()));
            }
        }
        let coloured = "\u{1b}[32m INFO\u{1b}[0m x\u{202e}\n";
        assert_eq!(written(coloured, COLOURED), "\u{1b}[32m INFO\u{1b}[0m x\\u{202e}\n");
        assert_eq!(&*record(b"a\xffb\n", TEXT), b"a\xffb\n");
        assert_eq!(&*record(b"a\xff\rb\n", TEXT), "a\u{fffd}\\rb\n".as_bytes());
    }

    proptest! {
        #[test]
        fn a_record_is_one_line_without_unsafe_characters(text in "\\PC{0,20}[\\x00-\\x1f\u{2028}\u{202e}\u{85}]{0,5}\\PC{0,20}") {
            let written = written(&(text + "\n"), TEXT);
            let line = written.strip_suffix('\n').unwrap();
            prop_assert!(!line.chars().any(|c| is_unsafe(c) && c != '\t'));
        }
    }
}
