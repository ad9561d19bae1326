//! The page of the local endpoint at `/ui`: endpoints, variants, containers, their models and logs.
//!
//! The containers count the requests to their models, and each has a page of its own. This page
//! counts invocations as clients see them: after routing, loads, retries and faults.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::fleet::{Fleet, FleetPhase, FleetStatus, Fleets, Instance, RunningContainer, RunningVariant};
use super::runtime::Runtime;
use crate::connections::Watched;
use crate::page::feed::{Feed, Source};
use crate::page::state::{
    ContainerRow, EndpointRow, FORM, InstanceRow, Point, Refusal, ServerFacts, ServerKind, State, Totals, VariantRow,
};
use crate::page::time::{millis, now};
use crate::page::{self, Part};
use crate::telemetry::latency::LatencySnapshot;

/// Number of failed invocations that the page shows.
const REFUSALS: usize = 30;

/// Starts the feed of the page.
pub(super) fn start(fleets: &Arc<Fleets>, runtime: &Arc<Runtime>) -> std::io::Result<Feed> {
    Feed::start(EndpointSource {
        server: ServerFacts {
            kind: ServerKind::Endpoint,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: "local endpoint".to_owned(),
            started: now(),
            ..ServerFacts::default()
        },
        fleets: Arc::clone(fleets),
        runtime: Arc::clone(runtime),
        before: (LatencySnapshot::default(), 0),
    })
}

/// Answers a request for a part of the page; `None` for paths that are none.
pub(super) async fn answer(request: &HttpRequest, feed: &Feed, fleets: &Data<Fleets>) -> Option<HttpResponse> {
    Some(match Part::of(request.path())? {
        Part::Page => page::page(),
        Part::File(file) => page::file(file),
        Part::State => match feed.state().await {
            Ok(state) => page::state(state),
            Err(stopped) => refusal(StatusCode::SERVICE_UNAVAILABLE, &stopped.to_string()),
        },
        Part::Events => match feed.watch() {
            Ok(watcher) => {
                let mut response = page::events(watcher);
                response.extensions_mut().insert(Watched);
                response
            }
            Err(too_many) => refusal(StatusCode::SERVICE_UNAVAILABLE, &too_many.to_string()),
        },
        Part::Watchers => page::watchers(feed),
        Part::Log => {
            let query = web::Query::<HashMap<String, String>>::from_query(request.query_string());
            let label = query.ok().and_then(|mut query| query.remove("container"));
            match label.and_then(|label| log(fleets, &label)) {
                Some(lines) => page::text(lines.join("\n")),
                None => refusal(
                    StatusCode::NOT_FOUND,
                    "the endpoint has no container with this name; ui/state lists them",
                ),
            }
        }
        // The endpoint does not know what a model takes; its container does.
        Part::Model => return None,
    })
}

fn refusal(status: StatusCode, message: &str) -> HttpResponse {
    HttpResponse::build(status).json(json!({"message": message}))
}

/// The last lines of a container's log.
fn log(fleets: &Fleets, label: &str) -> Option<Vec<String>> {
    let (endpoint, _) = label.split_once('/')?;
    let fleet = fleets.get(endpoint)?;
    let instances = fleet.variants().iter().map(|variant| variant.instances());
    let containers = instances.flat_map(|instances| {
        let containers = instances.iter().flat_map(|instance| instance.containers());
        containers.cloned().collect::<Vec<_>>()
    });
    let mut containers = containers.filter(|container| container.label() == label);
    containers.next().map(|container| container.last_lines())
}

struct EndpointSource {
    server: ServerFacts,
    fleets: Arc<Fleets>,
    runtime: Arc<Runtime>,
    /// The latencies and the number of failures at the last point.
    before: (LatencySnapshot, u64),
}

impl Source for EndpointSource {
    fn state(&mut self) -> State {
        let mut endpoints: Vec<EndpointRow> = self.fleets.all().into_iter().map(endpoint).collect();
        endpoints.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let variants = endpoints.iter().flat_map(|endpoint| &endpoint.variants);
        let instances = variants.flat_map(|variant| &variant.instances);
        let failures = &self.runtime.counts().failures;
        State {
            form: FORM,
            server: self.server.clone(),
            time: now(),
            totals: Totals {
                running: instances.map(|instance| instance.outstanding as u64).sum(),
                refused: failures.total(),
                ..Totals::default()
            },
            refusals: failures
                .newest_first()
                .into_iter()
                .take(REFUSALS)
                .map(|failure| Refusal {
                    time: millis(failure.at),
                    status: failure.status,
                    cause: failure.cause.label().to_owned(),
                    operation: failure.operation.to_owned(),
                    model: failure.target_model.or(failure.model),
                    message: failure.text,
                    count: failure.count,
                })
                .collect(),
            endpoints,
            ..State::default()
        }
    }

    fn point(&mut self) -> Point {
        let counts = self.runtime.counts();
        let (latency, failures) = (counts.latencies.snapshot(), counts.failures.total());
        let since = latency.since(&self.before.0);
        let errors = failures.saturating_sub(self.before.1);
        self.before = (latency, failures);
        Point::of(since.count, errors, |quantile| since.quantile(quantile))
    }
}

fn endpoint((name, status, fleet): (String, FleetStatus, Option<Arc<Fleet>>)) -> EndpointRow {
    let (phase, reason) = match status.phase {
        FleetPhase::Creating => ("Creating", None),
        FleetPhase::Updating => ("Updating", None),
        FleetPhase::InService => ("InService", None),
        FleetPhase::Failed { reason } => ("Failed", Some(reason)),
        FleetPhase::Deleting => ("Deleting", None),
    };
    let variants = status.variants.into_iter().map(|status| {
        let running = fleet.as_ref().and_then(|fleet| fleet.variant(&status.name));
        VariantRow {
            model: running.map(|running| running.model().name.clone()).unwrap_or_default(),
            instances: running.map(|running| instances(running)).unwrap_or_default(),
            name: status.name,
            weight: status.current_weight,
            desired_weight: status.desired_weight,
            desired_instances: status.desired_instances,
        }
    });
    EndpointRow {
        name,
        phase: phase.to_owned(),
        reason,
        variants: variants.collect(),
    }
}

fn instances(variant: &RunningVariant) -> Vec<InstanceRow> {
    let instance = |instance: &Arc<Instance>| InstanceRow {
        name: instance.name().to_owned(),
        outstanding: instance.outstanding(),
        containers: instance.containers().iter().map(|one| container(one)).collect(),
    };
    variant.instances().iter().map(instance).collect()
}

fn container(container: &RunningContainer) -> ContainerRow {
    let (address, reason) = (container.address(), container.failure());
    let platform = container.platform.get().and_then(|platform| platform.as_ref().ok());
    ContainerRow {
        label: container.label().to_owned(),
        hostname: container.spec().hostname.clone(),
        state: match (&address, &reason) {
            (Some(_), _) => "up",
            (None, Some(_)) => "down",
            (None, None) => "starting",
        }
        .to_owned(),
        address: address.map(|address| address.to_string()),
        starts: container.generation(),
        reason,
        multi_model: container.spec().is_multi_model(),
        models: platform.map(|platform| platform.held()).unwrap_or_default(),
        life: platform.map(|platform| platform.life()).unwrap_or_default(),
        lines: container.count_lines(),
    }
}
