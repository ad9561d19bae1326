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
use super::request::{self, EndpointFilters, ListRequest, SortField, SortOrder};
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
    page("Models", items, &request::read(body)?, &EndpointFilters::default())
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
    page(
        "EndpointConfigs",
        items,
        &request::read(body)?,
        &EndpointFilters::default(),
    )
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
    page("Endpoints", items, &request::read(body)?, &request::read(body)?)
}

fn page<'a>(
    member: &str,
    items: impl Iterator<Item = ListItem<'a>>,
    request: &ListRequest,
    filters: &EndpointFilters,
) -> Result<Value, ControlError> {
    let order = ListOrder {
        by: request.sort_by,
        order: request.sort_order,
    };
    let begin = request.next_token.as_deref().map(SortKey::from_token).transpose()?;
    let mut items = Vec::from_iter(
        items
            .filter(|item| is_wanted(item, request, filters))
            .map(|item| (SortKey::of(&item), item)),
    );
    items.retain(|(place, _)| {
        begin
            .as_ref()
            .is_none_or(|begin| order.compare(place, begin) == Ordering::Greater)
    });
    items.sort_by(|(one, _), (other, _)| order.compare(one, other));

    let wanted = request.max_results.unwrap_or(PAGE);
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
fn is_wanted(item: &ListItem<'_>, request: &ListRequest, filters: &EndpointFilters) -> bool {
    let is_within = |time: f64, after: Option<f64>, before: Option<f64>| {
        after.is_none_or(|after| time >= after) && before.is_none_or(|before| time < before)
    };
    let contained = request.name_contains.as_ref().is_none_or(|part| {
        let part = part.to_ascii_lowercase();
        item.name.to_ascii_lowercase().contains(&part)
    });
    let in_state = item.state.is_none_or(|(phase, modified)| {
        let status = filters.status_equals.as_ref();
        status.is_none_or(|status| status == phase.name())
            && is_within(
                modified,
                filters.last_modified_time_after,
                filters.last_modified_time_before,
            )
    });
    contained && in_state && is_within(item.created, request.creation_time_after, request.creation_time_before)
}

#[derive(Clone, Copy)]
struct ListOrder {
    by: SortField,
    order: SortOrder,
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
            SortField::CreationTime => one.created.total_cmp(&other.created).then(by_name),
            SortField::Status => one.status.cmp(&other.status).then(by_name),
        };
        match self.order {
            SortOrder::Ascending => ordering,
            SortOrder::Descending => ordering.reverse(),
        }
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
