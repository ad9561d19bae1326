//! `ListModels`, `ListEndpointConfigs` and `ListEndpoints`: filters, sort orders and pages, which
//! are the same for all three.
//!
//! A token contains the sort key of the page's last item, not a count. So the next page repeats
//! and misses nothing when items are created or deleted between two pages.

use std::cmp::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::ActionContext;
use super::error::ControlError;
use super::records::Records;
use super::request::CheckedRequest;
use super::running::EndpointPhase;

/// The default page size, as on SageMaker.
const PAGE: u64 = 10;

struct ListItem<'a> {
    name: &'a str,
    created: f64,
    /// The phase and the modification time of an endpoint.
    state: Option<(EndpointPhase, f64)>,
    summary: Value,
}

pub(super) fn models(
    _: &ActionContext<'_>,
    records: &Records,
    body: &Map<String, Value>,
) -> Result<Value, ControlError> {
    let items = records.models.values().map(|model| ListItem {
        name: &model.name,
        created: model.created,
        state: None,
        summary: json!({"ModelName": model.name, "ModelArn": model.arn, "CreationTime": model.created}),
    });
    page("Models", items, CheckedRequest(body))
}

pub(super) fn endpoint_configs(
    _: &ActionContext<'_>,
    records: &Records,
    body: &Map<String, Value>,
) -> Result<Value, ControlError> {
    let items = records.configs.values().map(|config| ListItem {
        name: &config.name,
        created: config.created,
        state: None,
        summary: json!({
            "EndpointConfigName": config.name, "EndpointConfigArn": config.arn, "CreationTime": config.created,
        }),
    });
    page("EndpointConfigs", items, CheckedRequest(body))
}

pub(super) fn endpoints(
    _: &ActionContext<'_>,
    records: &Records,
    body: &Map<String, Value>,
) -> Result<Value, ControlError> {
    let items = records.endpoints.values().map(|endpoint| ListItem {
        name: &endpoint.name,
        created: endpoint.created,
        state: Some((endpoint.phase, endpoint.modified)),
        summary: json!({
            "EndpointName": endpoint.name,
            "EndpointArn": endpoint.arn,
            "CreationTime": endpoint.created,
            "LastModifiedTime": endpoint.modified,
            "EndpointStatus": endpoint.phase.name(),
        }),
    });
    page("Endpoints", items, CheckedRequest(body))
}

fn page<'a>(
    member: &str,
    items: impl Iterator<Item = ListItem<'a>>,
    request: CheckedRequest<'_>,
) -> Result<Value, ControlError> {
    let order = ListOrder {
        by: match request.text("SortBy") {
            Some("Name") => SortField::Name,
            Some("Status") => SortField::Status,
            _ => SortField::Creation,
        },
        ascending: request.text("SortOrder") == Some("Ascending"),
    };
    let begin = request.text("NextToken").map(SortKey::from_token).transpose()?;
    let mut items = Vec::from_iter(
        items
            .filter(|item| is_wanted(item, request))
            .map(|item| (SortKey::of(&item), item)),
    );
    items.retain(|(place, _)| {
        begin
            .as_ref()
            .is_none_or(|begin| order.compare(place, begin) == Ordering::Greater)
    });
    items.sort_by(|(one, _), (other, _)| order.compare(one, other));

    let wanted = request.integer("MaxResults").unwrap_or(PAGE);
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    let more = items.len() > wanted;
    items.truncate(wanted);
    let token = items.last().filter(|_| more).map(|(place, _)| place.to_token());
    let mut body = Map::new();
    let summaries = items.into_iter().map(|(_, item)| item.summary);
    body.insert(member.to_owned(), summaries.collect());
    if let Some(token) = token {
        body.insert("NextToken".to_owned(), token.into());
    }
    Ok(body.into())
}

/// Whether an item passes the request's filters. Names are compared without case, as on SageMaker.
fn is_wanted(item: &ListItem<'_>, request: CheckedRequest<'_>) -> bool {
    let after = |member, time: f64| request.number(member).is_none_or(|limit| time >= limit);
    let before = |member, time: f64| request.number(member).is_none_or(|limit| time < limit);
    let contained = request.text("NameContains").is_none_or(|part| {
        let part = part.to_ascii_lowercase();
        item.name.to_ascii_lowercase().contains(&part)
    });
    let in_state = item.state.is_none_or(|(phase, modified)| {
        request.text("StatusEquals").is_none_or(|status| status == phase.name())
            && after("LastModifiedTimeAfter", modified)
            && before("LastModifiedTimeBefore", modified)
    });
    contained && in_state && after("CreationTimeAfter", item.created) && before("CreationTimeBefore", item.created)
}

#[derive(Clone, Copy)]
enum SortField {
    Name,
    Creation,
    Status,
}

#[derive(Clone, Copy)]
struct ListOrder {
    by: SortField,
    ascending: bool,
}

/// The sort key of an item. A token keeps it, so it works even if the item is deleted.
#[derive(Debug, Clone, PartialEq)]
struct SortKey {
    created: f64,
    status: String,
    name: String,
}

impl ListOrder {
    fn compare(self, one: &SortKey, other: &SortKey) -> Ordering {
        let by_name = one.name.cmp(&other.name);
        let ordering = match self.by {
            SortField::Name => by_name,
            SortField::Creation => one.created.total_cmp(&other.created).then(by_name),
            SortField::Status => one.status.cmp(&other.status).then(by_name),
        };
        if self.ascending { ordering } else { ordering.reverse() }
    }
}

impl SortKey {
    fn of(item: &ListItem<'_>) -> Self {
        Self {
            created: item.created,
            status: item.state.map(|(phase, _)| phase.name().to_owned()).unwrap_or_default(),
            name: item.name.to_owned(),
        }
    }

    fn to_token(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!([self.created.to_bits(), self.status, self.name]).to_string())
    }

    fn from_token(token: &str) -> Result<Self, ControlError> {
        let place = URL_SAFE_NO_PAD.decode(token).ok();
        let place = place.and_then(|bytes| serde_json::from_slice::<(u64, String, String)>(&bytes).ok());
        let (created, status, name) = place.ok_or_else(|| ControlError::validation("Invalid NextToken."))?;
        Ok(Self {
            created: f64::from_bits(created),
            status,
            name,
        })
    }
}
