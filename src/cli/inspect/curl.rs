//! Curl commands to paste into a shell.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::telemetry::escape::is_unsafe;

/// Longest body in a command line, in bytes. A longer one is not readable, and shells limit the
/// length of a command.
const MAX_BODY: usize = 4 << 10;

/// Returns a command that sends `body` to `url`. A long body is read from `file`, which contains
/// it; without a file the result is `None`.
pub fn command(url: &str, content_type: &str, body: &[u8], file: Option<&Path>) -> Option<String> {
    let head = format!(
        "curl {} -H {}",
        quoted(url),
        quoted(&format!("Content-Type: {content_type}"))
    );
    if body.len() > MAX_BODY {
        let file = file?.display();
        return Some(format!("{head} --data-binary {}", quoted(&format!("@{file}"))));
    }
    Some(match std::str::from_utf8(body) {
        // Curl would read a leading @ as a file name.
        Ok(text) if !text.starts_with('@') && text.chars().all(|c| c == '\n' || !is_unsafe(c)) => {
            format!("{head} --data-binary {}", quoted(text))
        }
        _ => format!("echo {} | base64 -d | {head} --data-binary @-", STANDARD.encode(body)),
    })
}

/// Returns a command for a model that accepts pictures, texts or sound; `body` is the argument of
/// `--data-binary`.
pub fn example(url: &str, content_type: &str, body: &str) -> String {
    let header = format!("Content-Type: {content_type}");
    format!(
        "curl {} -H {} --data-binary {}",
        quoted(url),
        quoted(&header),
        quoted(body)
    )
}

/// Quotes `text` as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_quote_bodies_and_encode_unsafe_ones() {
        let (url, kind) = ("http://h/i", "text/csv");
        let head = "curl 'http://h/i' -H 'Content-Type: text/csv' --data-binary";
        let table: [(&[u8], Option<&str>, Option<String>); 6] = [
            (
                "\u{202e}".as_bytes(),
                None,
                Some(format!("echo 4oCu | base64 -d | {} @-", head)),
            ),
            (b"1,2\n", None, Some(format!("{head} '1,2\n'"))),
            (b"it's", None, Some(format!(r"{head} 'it'\''s'"))),
            (b"\x93N", None, Some(format!("echo k04= | base64 -d | {head} @-"))),
            (&[b'1'; 5000], Some("a b"), Some(format!("{head} '@a b'"))),
            (&[b'1'; 5000], None, None),
        ];
        for (body, file, expected) in table {
            assert_eq!(command(url, kind, body, file.map(Path::new)), expected);
        }
    }
}
