//! Splits a multipart body (RFC 2046, section 5.1), as forms and `curl -F` send it, into its parts.
//!
//! A part is a slice of the body: nothing is copied, and only the headers of a part are parsed.
//!
//! Invariants: each part ends before the delimiter that follows it, and a body with more than
//! [`MAX_PARTS`] parts is refused.

use bytes::Bytes;
use memchr::memmem;

/// Maximum parts of a form; no real request to a model has as many files.
const MAX_PARTS: usize = 1024;

/// A part of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The name of the field; empty if the part has none.
    pub name: String,
    pub is_file: bool,
    pub body: Bytes,
}

/// Splits `body` at `boundary`.
pub(super) fn parts(body: &Bytes, boundary: &str) -> Result<Vec<Part>, String> {
    if boundary.is_empty() || boundary.len() > 70 {
        return Err("the content type's parameter boundary must have 1 to 70 characters".to_owned());
    }
    let delimiter = format!("--{boundary}");
    let mut places = memmem::find_iter(body, &delimiter).filter(|&at| at == 0 || body[..at].ends_with(b"\n"));
    let Some(mut start) = places.next().map(|at| at + delimiter.len()) else {
        return Err(format!("the boundary {boundary:?} is not in the body"));
    };
    let mut found = Vec::new();
    while !body[start..].starts_with(b"--") {
        let Some(end) = places.next() else {
            return Err("the last part does not end: the closing boundary is missing".to_owned());
        };
        if found.len() == MAX_PARTS {
            return Err(format!("the form has more than {MAX_PARTS} parts"));
        }
        found.push(part(body, start, end)?);
        start = end + delimiter.len();
    }
    Ok(found)
}

/// Parses the part between the end of a delimiter and the start of the next one.
fn part(body: &Bytes, start: usize, end: usize) -> Result<Part, String> {
    let text = &body[start..end];
    let (head, gap) = match (memmem::find(text, b"\r\n\r\n"), memmem::find(text, b"\n\n")) {
        (Some(crlf), lf) if lf.is_none_or(|lf| crlf < lf) => (crlf, 4),
        (_, Some(lf)) => (lf, 2),
        (_, None) => return Err("a part has no empty line after its headers".to_owned()),
    };
    let content = start + head + gap;
    let end = end - if body[..end].ends_with(b"\r\n") { 2 } else { 1 };
    if content > end {
        return Err("a part has no content".to_owned());
    }
    let headers = String::from_utf8_lossy(&text[..head]);
    let disposition = headers
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"))
        .map_or("", |(_, value)| value);
    Ok(Part {
        name: parameter(disposition, "name").unwrap_or_default(),
        is_file: parameter(disposition, "filename").is_some(),
        body: body.slice(content..end),
    })
}

/// The value of a parameter of a header, without its quotes.
fn parameter(header: &str, name: &str) -> Option<String> {
    header.split(';').find_map(|part| {
        let (own, value) = part.split_once('=')?;
        let is_meant = own.trim().eq_ignore_ascii_case(name);
        is_meant.then(|| value.trim().trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_and_bodies(body: &'static [u8], boundary: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
        let parts = parts(&Bytes::from_static(body), boundary)?;
        Ok(parts.into_iter().map(|part| (part.name, part.body.to_vec())).collect())
    }

    #[test]
    fn finds_the_parts_of_a_form_and_their_names_even_if_the_bodies_are_binary() {
        let body = b"preamble\r\n--x\r\nContent-Disposition: form-data; name=\"a\"; filename=\"a.jpg\"\r\n\
            Content-Type: image/jpeg\r\n\r\n\xff\xd8\r\n\r\n--y\xff\r\n--x\r\n\
            content-disposition: form-data; name=b\r\n\r\n\r\n--x--\r\nepilogue";
        let found = names_and_bodies(body, "x").unwrap();
        assert_eq!(
            found,
            [
                ("a".to_owned(), b"\xff\xd8\r\n\r\n--y\xff".to_vec()),
                ("b".to_owned(), Vec::new())
            ]
        );
        let parts = parts(&Bytes::from_static(body), "x").unwrap();
        assert!(parts[0].is_file && !parts[1].is_file);
    }

    #[test]
    fn rejects_a_form_that_is_truncated_or_has_a_different_boundary() {
        let cases: [(&[u8], &str, &str); 5] = [
            (b"--x\r\nA: b\r\n\r\nbody", "x", "does not end"),
            (b"--x\r\nA: b\r\n\r\nbody\r\n--x--", "y", "is not in the body"),
            (b"--x\r\nbody\r\n--x--", "x", "no empty line"),
            (b"--x", "x", "does not end"),
            (b"--x--", "", "boundary"),
        ];
        for (body, boundary, expected) in cases {
            let error = names_and_bodies(body, boundary).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(names_and_bodies(b"--x--", "x").unwrap().is_empty());
    }
}
