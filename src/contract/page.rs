//! The page of the container at `/`, and the data that it shows.
//!
//! The state is read on the feed's own thread: with ten thousand models that takes milliseconds,
//! which no request may wait for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde_json::json;

use super::AppState;
use super::error::Error;
use crate::catalog::{Catalog, CatalogError, ModelOverview, ModelStatus};
use crate::codec;
use crate::connections::Watched;
use crate::engine::{Engine, LoadedMemory};
use crate::handler::Handler;
use crate::page::feed::{Feed, Source};
use crate::page::state::{
    FORM, History, Ledger, ModelError, ModelRow, ModelState, Point, Refusal, ServerFacts, ServerKind, State, Totals,
};
use crate::page::time::{millis, milliseconds, now};
use crate::page::{self, Part};
use crate::telemetry::failures::Failure;
use crate::telemetry::latency::LatencySnapshot;
use crate::telemetry::metrics::Metrics;
use crate::tensor::{DataType, Dim, InputSpec, Tensor};
use crate::wire::ModelPath;

/// Number of refusals that the page shows.
const REFUSALS: usize = 30;

/// Largest number of elements of an example request. A page cannot show a larger one.
const MAX_EXAMPLE: usize = 4096;

/// Options of the page.
#[derive(Debug, Clone)]
pub struct PageConfig {
    /// The mode of the server, in words.
    pub mode: String,
    /// A `url` for an example of a load.
    pub example_url: Option<String>,
}

/// Answers a request for a part of the page.
pub(super) async fn answer(state: &AppState, part: Part, request: &HttpRequest) -> Result<HttpResponse, Error> {
    let no_route = || Error::NoRoute {
        path: request.path().to_owned(),
    };
    // Other methods have no meaning here, as before there was a page.
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    let feed = state.page.as_ref().filter(|_| is_read).ok_or_else(no_route)?;
    Ok(match part {
        Part::Page if page::wants_html(request.headers()) => page::page(),
        Part::Page => page::text(summary(state)),
        Part::File(file) => page::file(file),
        Part::State => page::state(feed.state().await.map_err(|_| Error::Draining)?),
        Part::Events => {
            let watcher = feed.watch().map_err(Error::Watchers)?;
            let mut response = page::events(watcher);
            response.extensions_mut().insert(Watched);
            response
        }
        Part::Watchers => page::watchers(feed),
        Part::Model => {
            let query = web::Query::<HashMap<String, String>>::from_query(request.query_string());
            let name = query.ok().and_then(|mut query| query.remove("name"));
            let name = name.ok_or_else(no_route)?;
            page::json(model(state, &name).await?)
        }
        // Only a local endpoint has the logs of containers.
        Part::Log => return Err(no_route()),
    })
}

/// The text that a person at a terminal gets in place of the page.
fn summary(state: &AppState) -> String {
    let Some(config) = &state.settings.page else {
        return String::new();
    };
    let (version, mode, models) = (env!("CARGO_PKG_VERSION"), &config.mode, state.catalog.len());
    let load = match state.settings.loads {
        true => "POST /models               loads a model: {\"model_name\": \"NAME\", \"url\": \"PATH\"}\n",
        false => "",
    };
    format!(
        "Longshore {version}, {mode} mode, models: {models}\n\n\
         In a browser, this address shows the models, their latency and memory, and a form to try them.\n\n\
         GET  /ping                 200 when requests may arrive\n\
         POST /invocations          inference with the only model, or with the one that X-Amzn-SageMaker-Target-Model names\n\
         GET  /models               lists the models\n\
         {load}\
         POST /models/NAME/invoke   inference with that model\n\
         GET  /metrics              Prometheus text\n\
         GET  /ui/state             the data of the page, as JSON\n\n\
         longshore top ADDRESS      the same table in a terminal\n"
    )
}

/// Describes a model for the form that sends it requests.
async fn model(state: &AppState, name: &str) -> Result<Bytes, Error> {
    let about = state.catalog.describe(name).await?;
    let not_loaded = || CatalogError::NotLoaded { name: name.to_owned() };
    let handle = state.catalog.peek(name).await.ok_or_else(not_loaded)?;
    let handler = handle.handler();
    let schema = handler.schema();
    let signature = schema.signature();
    let settable: Vec<usize> = schema.settable_inputs().collect();
    let inputs = signature.inputs.iter().enumerate().map(|(index, input)| {
        let columns = schema.columns().iter().filter(|column| column.input == index);
        let columns: Vec<&str> = columns.map(|column| column.name.as_str()).collect();
        json!({
            "name": input.name,
            "type": input.to_string(),
            "data": input.data_type.name(),
            "shape": input.dims.as_deref().map(shape),
            "settable": settable.contains(&index),
            "columns": (!columns.is_empty()).then_some(columns),
        })
    });
    let optional = signature.optional.iter();
    let outputs = signature.outputs.iter();
    let described = json!({
        "url": about.url,
        "inputs": inputs.collect::<Vec<_>>(),
        "optional": optional.map(|input| json!({"name": input.name, "type": input.to_string()})).collect::<Vec<_>>(),
        "outputs": outputs.map(|output| json!({"name": output.name, "type": output.value_type.to_string()})).collect::<Vec<_>>(),
        "steps": handler.steps(),
        "takes": handler.example().map(|(media_type, _)| kind(media_type)),
        "samples": samples(handler),
        // Relative to the page, which a proxy may serve below another path.
        "invoke": {"path": format!("{}/invoke", ModelPath::of(name).trim_start_matches('/')), "headers": {}},
    });
    Ok(described.to_string().into())
}

/// The kind of the bodies that a model accepts in addition to tensors, by the type of an example.
fn kind(media_type: &str) -> &'static str {
    match media_type.split('/').next() {
        Some("image") => "pictures",
        Some("audio") => "sounds",
        _ => "texts",
    }
}

/// A size as a number, and an open dimension as null.
fn shape(dims: &[Dim]) -> Vec<Option<usize>> {
    dims.iter()
        .map(|dim| match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Dynamic(_) => None,
        })
        .collect()
}

/// Example requests as text, from which the form starts.
fn samples(handler: &Handler) -> Vec<serde_json::Value> {
    let schema = handler.schema();
    let Some(inputs) = example(&schema.signature().inputs) else {
        return Vec::new();
    };
    let samples = codec::samples(schema, &inputs).into_iter();
    let texts = samples.filter_map(|sample| {
        let body = sample.body.ok()?;
        let body = std::str::from_utf8(&body).ok()?.to_owned();
        let is_shown = matches!(
            sample.name,
            "JSON" | "CSV" | "CSV with a header" | "Open Inference Protocol"
        );
        is_shown.then(|| json!({"name": sample.name, "content_type": sample.content_type, "body": body}))
    });
    texts.collect()
}

/// Values for one record: zeros and a word. `None` if they are too many.
fn example(inputs: &[InputSpec]) -> Option<Vec<Tensor>> {
    let mut left = MAX_EXAMPLE;
    let tensor = |input: &InputSpec| {
        let dims = input.dims.as_deref().unwrap_or(&[Dim::Fixed(1)]);
        let shape: Vec<usize> = shape(dims).into_iter().map(|size| size.unwrap_or(1)).collect();
        let count = crate::tensor::element_count(&shape)?;
        left = left.checked_sub(count)?;
        match input.data_type {
            DataType::String => Tensor::from_strings(shape, vec![Bytes::from_static(b"text"); count]).ok(),
            data_type => {
                let zeros = vec![0; count.checked_mul(data_type.size()?)?];
                Tensor::from_bytes(data_type, shape, zeros.into()).ok()
            }
        }
    };
    inputs.iter().map(tensor).collect()
}

/// Starts the feed of the page.
pub(super) fn start(
    config: &PageConfig,
    (loads, by_target): (bool, bool),
    catalog: &Arc<Catalog>,
    engine: &Arc<Engine>,
    metrics: &Arc<Metrics>,
) -> std::io::Result<Feed> {
    Feed::start(ServeSource {
        server: ServerFacts {
            kind: ServerKind::Serve,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: config.mode.clone(),
            started: now(),
            loads,
            by_target,
            example_url: config.example_url.clone(),
        },
        catalog: Arc::clone(catalog),
        engine: Arc::clone(engine),
        metrics: Arc::clone(metrics),
        before: Counted::default(),
    })
}

struct ServeSource {
    server: ServerFacts,
    catalog: Arc<Catalog>,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    /// The counts at the last point.
    before: Counted,
}

/// Counts since the start.
#[derive(Default)]
struct Counted {
    latency: LatencySnapshot,
    failures: u64,
}

impl Source for ServeSource {
    fn state(&mut self) -> State {
        let load = self.engine.current_load();
        let mut models: BTreeMap<String, ModelRow> = BTreeMap::new();
        let mut loading = 0;
        for (name, status) in self.catalog.unlisted() {
            loading += u64::from(matches!(status, ModelStatus::Loading));
            models.insert(name.clone(), unlisted(name, &status));
        }
        models.extend(
            self.catalog
                .overview()
                .iter()
                .map(|model| (model.name.clone(), row(model))),
        );
        let failures = self.metrics.failures.newest_first();
        State {
            form: FORM,
            server: self.server.clone(),
            time: now(),
            totals: Totals {
                running: load.running as u64,
                waiting: load.waiting as u64,
                loading,
                refused: self.metrics.failures.total(),
            },
            memory: Some(ledger(&self.engine)),
            models: models.into_values().collect(),
            refusals: failures.iter().take(REFUSALS).map(refusal).collect(),
            history: History::default(),
            endpoints: Vec::new(),
        }
    }

    fn point(&mut self) -> Point {
        let counted = Counted {
            latency: self.metrics.recorder().totals().latency,
            failures: self.metrics.failures.total(),
        };
        let latency = counted.latency.since(&self.before.latency);
        let errors = counted.failures.saturating_sub(self.before.failures);
        self.before = counted;
        let reserved = self.engine.current_load().reserved;
        Point {
            memory: Some(reserved.models.saturating_add(reserved.requests)),
            mapped: Some(reserved.mapped),
            ..Point::of(latency.count, errors, |quantile| latency.quantile(quantile))
        }
    }
}

fn row(model: &ModelOverview) -> ModelRow {
    let stats = model.stats.snapshot();
    let memory = model.memory.as_ref();
    let causes = stats.errors.iter();
    ModelRow {
        name: model.name.clone(),
        target: model.target_model.clone(),
        state: match &model.status {
            ModelStatus::Loaded => ModelState::Loaded,
            ModelStatus::Stuck(_) => ModelState::Stuck,
            ModelStatus::Restored => ModelState::Restored,
            ModelStatus::Loading => ModelState::Loading,
            ModelStatus::Failed(..) => ModelState::Failed,
        },
        memory: memory.map(|memory| memory.own),
        mapped: memory.map_or(0, |LoadedMemory { mapped, .. }| *mapped),
        shared: memory.map_or(0, |LoadedMemory { shared, .. }| *shared),
        requests: stats.requests(),
        errors: stats.failed(),
        causes: causes
            .map(|(cause, count)| (cause.label().to_owned(), *count))
            .collect(),
        cold: stats.cold,
        p50: stats.latency.quantile(0.5).map(milliseconds),
        p99: stats.latency.quantile(0.99).map(milliseconds),
        // Whole seconds: the clock of the statistics is coarse, and a row without requests must not
        // change.
        last: stats.last_request.map(|last| (millis(last) + 500) / 1000 * 1000),
        error: stats.last_error.map(|error| ModelError {
            time: millis(error.at),
            cause: error.cause.label().to_owned(),
            message: error.text,
        }),
    }
}

/// The row of a model of a store that is being loaded, or that failed to load.
fn unlisted(name: String, status: &ModelStatus) -> ModelRow {
    let (state, error) = match status {
        ModelStatus::Failed(error, time) => {
            let error = Error::Catalog(CatalogError::PendingLoad(Arc::clone(error)));
            let error = ModelError {
                time: millis(*time),
                cause: error.cause().label().to_owned(),
                message: error.to_string(),
            };
            (ModelState::Failed, Some(error))
        }
        ModelStatus::Loading | ModelStatus::Loaded | ModelStatus::Stuck(_) | ModelStatus::Restored => {
            (ModelState::Loading, None)
        }
    };
    ModelRow {
        name,
        state,
        error,
        ..ModelRow::default()
    }
}

fn refusal(failure: &Failure) -> Refusal {
    Refusal {
        time: millis(failure.at),
        status: failure.status,
        cause: failure.cause.label().to_owned(),
        operation: failure.operation.to_owned(),
        model: failure.target_model.clone().or_else(|| failure.model.clone()),
        message: failure.text.clone(),
        count: failure.count,
    }
}

/// The memory ledger, in parts that add up to the limit.
fn ledger(engine: &Engine) -> Ledger {
    let load = engine.current_load();
    let (reserved, shared) = (load.reserved, load.constants.bytes);
    // Shared constants are mapped, and a few are copied into private memory.
    let shared_mapped = shared.min(reserved.mapped);
    let own = reserved.models.saturating_sub(shared - shared_mapped);
    let mapped = reserved.mapped - shared_mapped;
    let parts = Ledger {
        limit: (reserved.limit != u64::MAX).then_some(reserved.limit),
        own,
        shared,
        mapped,
        requests: reserved.requests,
        kept: 0,
        free: 0,
    };
    match parts.limit {
        None => parts,
        Some(limit) => {
            let free = engine.free_memory().unwrap_or(0);
            let reserved = own + shared + mapped + reserved.requests;
            Ledger {
                // The rest is in use by the process itself and by others, or kept free.
                kept: limit.saturating_sub(free.saturating_add(reserved)),
                free,
                ..parts
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(data_type: DataType, dims: Vec<Dim>) -> InputSpec {
        InputSpec {
            name: "x".to_owned(),
            data_type,
            dims: Some(dims),
        }
    }

    #[test]
    fn an_example_has_one_record_and_a_bounded_size() {
        let open = || Dim::Dynamic(None);
        let inputs = [
            input(DataType::F32, vec![open(), Dim::Fixed(4)]),
            input(DataType::String, vec![open()]),
            input(DataType::Bool, vec![]),
        ];
        let shapes: Vec<_> = example(&inputs)
            .unwrap()
            .iter()
            .map(|tensor| tensor.shape().to_vec())
            .collect();
        assert_eq!(shapes, [vec![1, 4], vec![1], vec![]]);
        let large = [input(DataType::F32, vec![open(), Dim::Fixed(MAX_EXAMPLE + 1)])];
        assert!(example(&large).is_none());
        let huge = [input(DataType::F32, vec![Dim::Fixed(usize::MAX), Dim::Fixed(2)])];
        assert!(example(&huge).is_none());
    }

    #[test]
    fn the_kind_of_a_form_follows_from_an_example() {
        for (media_type, expected) in [
            ("image/jpeg", "pictures"),
            ("audio/wav", "sounds"),
            ("application/json", "texts"),
        ] {
            assert_eq!(kind(media_type), expected);
        }
    }
}
