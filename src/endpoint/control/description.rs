//! Descriptions of resources, which return the members of their create requests.

use serde_json::{Map, Value};

use super::shape::Member;

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
