//! Requests as bytes, written once and sent many times.

use std::fmt::Write as _;

/// A request without a body.
pub fn bare(method: &str, path: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

pub fn post(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    post_with(path, &[], content_type, body)
}

fn post_with(path: &str, headers: &[(&str, &str)], content_type: &str, body: &[u8]) -> Vec<u8> {
    write(path, headers, content_type, content_type, body)
}

/// A request in one format that accepts a response in another.
pub fn post_accepting(path: &str, content_type: &str, accept: &str, body: &[u8]) -> Vec<u8> {
    write(path, &[], content_type, accept, body)
}

fn write(path: &str, headers: &[(&str, &str)], content_type: &str, accept: &str, body: &[u8]) -> Vec<u8> {
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nAccept: {accept}\r\n\
         {headers}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// A request for the model `name` with `rows` rows of `features` numbers as JSON.
pub fn json(name: &str, rows: usize, features: usize) -> Vec<u8> {
    json_to(&invoke(name), &[], rows, features)
}

/// The same request with another path and more headers.
pub fn json_to(path: &str, headers: &[(&str, &str)], rows: usize, features: usize) -> Vec<u8> {
    let mut body = String::from("{\"instances\": [");
    for row in 0..rows {
        let values: Vec<String> = (0..features).map(|i| feature(row * features + i).to_string()).collect();
        let separator = if row == 0 { "" } else { ", " };
        let _ = write!(body, "{separator}[{}]", values.join(", "));
    }
    body.push_str("]}");
    post_with(path, headers, "application/json", body.as_bytes())
}

/// A request with an array of this shape as an NPY file.
pub fn npy(name: &str, shape: &[usize]) -> Vec<u8> {
    let dims: String = shape.iter().map(|dim| format!("{dim}, ")).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({dims}), }}");
    let unpadded = 10 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let mut body = b"\x93NUMPY\x01\x00".to_vec();
    body.extend(u16::try_from(header.len()).expect("a short header").to_le_bytes());
    body.extend(header.bytes());
    let count: usize = shape.iter().product();
    body.extend((0..count).flat_map(|i| feature(i).to_le_bytes()));
    post(&invoke(name), "application/x-npy", &body)
}

/// A request with one row for a model of `networks::recommender`.
pub fn recommendation(name: &str, features: usize) -> Vec<u8> {
    let features: Vec<String> = (0..features).map(|i| feature(i).to_string()).collect();
    let body = format!("{{\"instances\": [{{\"item\": 7, \"x\": [{}]}}]}}", features.join(", "));
    post(&invoke(name), "application/json", body.as_bytes())
}

fn invoke(name: &str) -> String {
    format!("/models/{name}/invoke")
}

/// A value with as many digits as real features.
fn feature(index: usize) -> f32 {
    (index as f32 * 0.37).sin()
}
