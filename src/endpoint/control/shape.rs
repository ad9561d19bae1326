//! The shapes of requests, and SageMaker's messages for requests that violate them.
//!
//! A shape is data, as in the service's own description. So each constraint is written once, next
//! to the name of its member. The check reports all violations together, but a member of the wrong
//! type ends it.

use serde_json::{Map, Value};

use super::error::ControlError;
use crate::endpoint::pattern::Pattern;

/// Maximum characters of a value in a message.
const SHOWN_CHARS: usize = 256;

/// The type of a value and its constraints.
#[derive(Debug)]
pub(super) enum Shape {
    Text {
        min: usize,
        max: usize,
        pattern: Option<&'static Pattern>,
    },
    Choice(&'static [&'static str]),
    Integer {
        min: i64,
        max: i64,
    },
    /// A finite single-precision number, as on SageMaker.
    Number {
        min: f64,
    },
    Flag,
    /// Seconds since the epoch.
    Time,
    List {
        min: usize,
        max: usize,
        of: &'static Shape,
    },
    /// A map from text to text.
    Map {
        max: usize,
        key: &'static Shape,
        value: &'static Shape,
    },
    Structure(&'static [Member]),
    /// Any value, which is stored unchanged.
    Anything,
}

#[derive(Debug)]
pub(super) struct Member {
    pub name: &'static str,
    pub required: bool,
    pub shape: Shape,
}

pub(super) const fn required(name: &'static str, shape: Shape) -> Member {
    Member {
        name,
        required: true,
        shape,
    }
}

pub(super) const fn optional(name: &'static str, shape: Shape) -> Member {
    Member {
        name,
        required: false,
        shape,
    }
}

pub(super) const fn text(max: usize, pattern: &'static Pattern) -> Shape {
    Shape::Text {
        min: 0,
        max,
        pattern: Some(pattern),
    }
}

/// Checks `body` against `members`. Accepts unknown members, as SageMaker does.
pub(super) fn check(members: &'static [Member], body: &Map<String, Value>) -> Result<(), ControlError> {
    let mut check = ShapeCheck::default();
    check.structure("", members, body)?;
    match check.violations.len() {
        0 => Ok(()),
        1 => Err(ControlError::Validation(format!(
            "1 validation error detected: {}",
            check.violations[0]
        ))),
        several => Err(ControlError::Validation(format!(
            "{several} validation errors detected: {}",
            check.violations.join("; ")
        ))),
    }
}

#[derive(Default)]
struct ShapeCheck {
    violations: Vec<String>,
}

impl ShapeCheck {
    fn structure(
        &mut self,
        path: &str,
        members: &'static [Member],
        body: &Map<String, Value>,
    ) -> Result<(), ControlError> {
        for member in members {
            let path = below(path, member.name);
            match body.get(member.name) {
                Some(value) => self.value(&path, &member.shape, value)?,
                None if member.required => self.refuse("Value null", &path, "Member must not be null"),
                None => {}
            }
        }
        Ok(())
    }

    fn value(&mut self, path: &str, shape: &Shape, value: &Value) -> Result<(), ControlError> {
        match (shape, value) {
            (Shape::Text { .. } | Shape::Choice(_), Value::String(text)) => {
                for constraint in text_constraints(shape, text) {
                    self.refuse(&shown(text), path, &constraint);
                }
            }
            (Shape::Integer { min, max }, Value::Number(number)) => {
                let whole = number.as_i64().ok_or_else(|| mistyped(path, "an integer", value))?;
                self.between(path, whole, *min, *max);
            }
            (Shape::Number { min }, Value::Number(number)) => {
                let max = f64::from(f32::MAX);
                let constraint = match number.as_f64() {
                    Some(number) if number >= *min && number <= max => return Ok(()),
                    Some(number) if number > max => format!("Member must have value less than or equal to {max:e}"),
                    _ => format!("Member must have value greater than or equal to {min}"),
                };
                self.refuse(&format!("Value '{number}'"), path, &constraint);
            }
            (Shape::Flag, Value::Bool(_)) | (Shape::Time, Value::Number(_)) | (Shape::Anything, _) => {}
            (Shape::List { min, max, of }, Value::Array(items)) => {
                if let Some(constraint) = length_constraint(items.len(), *min, *max) {
                    let value = if items.is_empty() { "Value '[]'" } else { "Value" };
                    self.refuse(value, path, &constraint);
                }
                for (index, item) in items.iter().enumerate() {
                    self.value(&format!("{path}.{}.member", index + 1), of, item)?;
                }
            }
            (Shape::Map { max, key, value }, Value::Object(entries)) => {
                if let Some(constraint) = length_constraint(entries.len(), 0, *max) {
                    self.refuse("Value", path, &constraint);
                }
                self.entries(path, key, value, entries)?;
            }
            (Shape::Structure(members), Value::Object(body)) => self.structure(path, members, body)?,
            (_, value) => return Err(mistyped(path, kind(shape), value)),
        }
        Ok(())
    }

    /// Checks the entries of a map. Messages do not show values, because environments contain
    /// secrets.
    fn entries(
        &mut self,
        path: &str,
        key: &Shape,
        value: &Shape,
        entries: &Map<String, Value>,
    ) -> Result<(), ControlError> {
        for (name, entry) in entries {
            let Value::String(entry) = entry else {
                return Err(mistyped(&format!("{path}.{name}"), "a string", entry));
            };
            let constraints = text_constraints(key, name);
            if !constraints.is_empty() {
                let constraint = format!("Map keys must satisfy constraint: [{}]", constraints.join(", "));
                self.refuse(&shown(name), path, &constraint);
            }
            let constraints = text_constraints(value, entry);
            if !constraints.is_empty() {
                let constraint = format!("Map value must satisfy constraint: [{}]", constraints.join(", "));
                self.refuse("Value", &format!("{path}.{name}"), &constraint);
            }
        }
        Ok(())
    }

    fn between(&mut self, path: &str, number: i64, min: i64, max: i64) {
        let constraint = match number {
            small if small < min => format!("Member must have value greater than or equal to {min}"),
            large if large > max => format!("Member must have value less than or equal to {max}"),
            _ => return,
        };
        self.refuse(&format!("Value '{number}'"), path, &constraint);
    }

    fn refuse(&mut self, value: &str, path: &str, constraint: &str) {
        self.violations.push(format!(
            "{value} at '{path}' failed to satisfy constraint: {constraint}"
        ));
    }
}

fn text_constraints(shape: &Shape, text: &str) -> Vec<String> {
    match shape {
        Shape::Text { min, max, pattern } => {
            let mut constraints = Vec::from_iter(length_constraint(text.chars().count(), *min, *max));
            if let Some(pattern) = pattern
                && !(pattern.matches)(text)
            {
                constraints.push(format!(
                    "Member must satisfy regular expression pattern: {}",
                    pattern.text
                ));
            }
            constraints
        }
        Shape::Choice(choices) if !choices.contains(&text) => {
            vec![format!("Member must satisfy enum value set: [{}]", choices.join(", "))]
        }
        _ => Vec::new(),
    }
}

fn length_constraint(length: usize, min: usize, max: usize) -> Option<String> {
    if length < min {
        Some(format!("Member must have length greater than or equal to {min}"))
    } else if length > max {
        Some(format!("Member must have length less than or equal to {max}"))
    } else {
        None
    }
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("Value '{}...'", &text[..end]),
        None => format!("Value '{text}'"),
    }
}

/// The path of a member in messages, in SageMaker's form: `productionVariants.1.member.modelName`.
fn below(path: &str, name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    let dot = if path.is_empty() { "" } else { "." };
    format!(
        "{path}{dot}{}{}",
        first.map(String::from).unwrap_or_default(),
        letters.as_str()
    )
}

fn mistyped(path: &str, expected: &str, value: &Value) -> ControlError {
    let given = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    ControlError::Serialization(format!("'{path}' must be {expected}, not {given}"))
}

fn kind(shape: &Shape) -> &'static str {
    match shape {
        Shape::Text { .. } | Shape::Choice(_) => "a string",
        Shape::Integer { .. } => "an integer",
        Shape::Number { .. } => "a number",
        Shape::Flag => "a boolean",
        Shape::Time => "a timestamp in seconds since the epoch",
        Shape::List { .. } => "a list",
        Shape::Map { .. } | Shape::Structure(_) => "an object",
        Shape::Anything => "anything",
    }
}
