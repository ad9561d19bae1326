//! Markdown tables, printed row by row during the measurements.

use std::fmt::Display;
use std::time::Duration;

/// Prints the head of a table.
pub fn head(columns: &[&str]) {
    println!("| {} |", columns.join(" | "));
    println!("|{}", "---|".repeat(columns.len()));
}

/// Prints a row.
pub fn row(cells: &[&dyn Display]) {
    let cells: Vec<String> = cells.iter().map(ToString::to_string).collect();
    println!("| {} |", cells.join(" | "));
}

/// Formats a duration for a cell: in microseconds or, from 10 ms on, in milliseconds.
pub fn time(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    if micros < 100.0 {
        format!("{micros:.1} us")
    } else if micros < 10_000.0 {
        format!("{micros:.0} us")
    } else {
        format!("{:.0} ms", micros / 1e3)
    }
}

/// Formats a number of bytes for a cell.
pub fn bytes(bytes: f64) -> String {
    if bytes.abs() < 10.0 * 1024.0 * 1024.0 {
        format!("{:.1} KiB", bytes / 1024.0)
    } else {
        format!("{:.1} MiB", bytes / 1024.0 / 1024.0)
    }
}

/// Formats the ratio of two numbers for a cell.
pub fn ratio(one: f64, other: f64) -> String {
    format!("{:.2}", one / other)
}

/// The median of the values.
pub fn median<T: Copy + PartialOrd>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|one, other| one.partial_cmp(other).expect("numbers"));
    sorted[sorted.len() / 2]
}
