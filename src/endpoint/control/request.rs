//! Access to the members of a checked request, which cannot fail.

use serde_json::{Map, Value};

use super::error::ControlError;
use super::shape::{self, Member};

/// A checked JSON object without null members, which count as absent.
#[derive(Debug, Clone, Copy)]
pub(super) struct CheckedRequest<'a>(pub &'a Map<String, Value>);

/// Checks a request's body against its members.
pub(super) fn check(members: &'static [Member], body: Value) -> Result<Map<String, Value>, ControlError> {
    match without_nulls(body) {
        Value::Object(body) => shape::check(members, &body).map(|()| body),
        _ => Err(ControlError::Serialization("the body must be a JSON object".to_owned())),
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        plain => plain,
    }
}

impl<'a> CheckedRequest<'a> {
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name)
    }

    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(Value::as_str)
    }

    /// A required text member.
    pub fn name(&self, name: &str) -> &'a str {
        self.text(name).unwrap_or_default()
    }

    pub fn number(&self, name: &str) -> Option<f64> {
        self.get(name).and_then(Value::as_f64)
    }

    pub fn integer(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(Value::as_u64)
    }

    pub fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).and_then(Value::as_bool)
    }

    pub fn object(&self, name: &str) -> Option<CheckedRequest<'a>> {
        self.get(name).and_then(Value::as_object).map(CheckedRequest)
    }

    /// The objects of a list; none if the list is absent.
    pub fn objects(&self, name: &str) -> impl Iterator<Item = CheckedRequest<'a>> + use<'a> {
        let list = self.get(name).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(Value::as_object)
            .map(CheckedRequest)
    }

    pub fn texts(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let list = self.get(name).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str)
    }
}

/// Copies the present members of `names` for a response.
pub(super) fn picked(raw: &Value, names: impl IntoIterator<Item = &'static str>) -> Map<String, Value> {
    let member = |name: &'static str| Some((name.to_owned(), raw.get(name)?.clone()));
    names.into_iter().filter_map(member).collect()
}

/// The description of a resource from its create request: the members that have a shape, and the
/// default of network isolation.
pub(super) fn description(raw: &Value, members: &[Member]) -> Map<String, Value> {
    let mut description = picked(raw, members.iter().map(|member| member.name));
    description
        .entry("EnableNetworkIsolation")
        .or_insert(Value::Bool(false));
    description
}
