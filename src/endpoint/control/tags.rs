//! The actions on tags, which are stored and returned, but have no effect.

use serde_json::{Map, Value, json};

use super::error::ControlError;
use super::records::{Records, Tags};
use super::request::{self, AddTags, DeleteTags, ListTags};
use super::shapes::MAX_TAGS;
use super::{ActionContext, ActionResponse};

pub(super) fn add(
    context: &ActionContext<'_>,
    records: &mut Records,
    body: &Map<String, Value>,
) -> Result<ActionResponse, ControlError> {
    let request: AddTags = request::read(body)?;
    let resource = records.resource(context.arns, &request.resource_arn)?;
    let mut all = records.tags.get(&resource).cloned().unwrap_or_default();
    all.extend(request.tags.into_iter().map(|tag| (tag.key, tag.value)));
    if all.len() > MAX_TAGS {
        return Err(ControlError::ResourceLimitExceeded(format!(
            "The resource \"{resource}\" would have {} tags; the limit is {MAX_TAGS}.",
            all.len()
        )));
    }
    let answer = ActionResponse::plain(json!({"Tags": list_of(&all)}));
    records.tags.insert(resource, all);
    Ok(answer)
}

pub(super) fn delete(
    context: &ActionContext<'_>,
    records: &mut Records,
    body: &Map<String, Value>,
) -> Result<ActionResponse, ControlError> {
    let request: DeleteTags = request::read(body)?;
    let resource = records.resource(context.arns, &request.resource_arn)?;
    if let Some(tags) = records.tags.get_mut(&resource) {
        tags.retain(|key, _| !request.tag_keys.contains(key));
        if tags.is_empty() {
            records.tags.remove(&resource);
        }
    }
    Ok(ActionResponse::plain(json!({})))
}

pub(super) fn list(
    context: &ActionContext<'_>,
    records: &Records,
    body: &Map<String, Value>,
) -> Result<Value, ControlError> {
    let request: ListTags<'_> = request::read(body)?;
    let resource = records.resource(context.arns, request.resource_arn)?;
    Ok(json!({"Tags": list_of(records.tags.get(&resource).unwrap_or(&Tags::new()))}))
}

fn list_of(tags: &Tags) -> Vec<Value> {
    tags.iter()
        .map(|(key, value)| json!({"Key": key, "Value": value}))
        .collect()
}

/// A request without its tags, which are stored separately because they change.
pub(super) fn without_tags(body: &Map<String, Value>) -> Value {
    let mut raw = body.clone();
    raw.remove("Tags");
    raw.into()
}
