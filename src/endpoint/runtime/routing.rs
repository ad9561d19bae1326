//! The choice of the variant and the instance for a request.
//!
//! The variant is chosen by weight, the instance by the variant's routing strategy. A request that
//! names a model prefers an instance that has the model loaded, until that instance is much busier
//! than the others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::Runtime;
use super::request::InvocationRequest;
use super::turns::RoundRobin;
use crate::endpoint::client::Target;
use crate::endpoint::deal::{self, Deal, Draws};
use crate::endpoint::error::RuntimeError;
use crate::endpoint::fleet::{Fleet, Instance, OutstandingRequest, RoutingInput, RunningVariant};
use crate::endpoint::pipeline::PipelineStage;
use crate::endpoint::spec::Model;
use crate::store::Name;

/// The choices of all endpoints.
#[derive(Debug)]
pub(super) struct Router {
    deal: Deal,
    // Locked only briefly.
    endpoints: Mutex<HashMap<String, EndpointDraws>>,
    /// Numbers requests to models, so that equal instances take turns.
    instances: AtomicU64,
}

/// The draws of one endpoint so far.
#[derive(Debug)]
struct EndpointDraws {
    round_robin: RoundRobin,
    variants: Draws,
    /// Separate from the draws of variants, so that requests that name their variant do not change
    /// the draws of the others.
    instances: Draws,
}

/// The destination of a request. The request counts as outstanding until this is dropped.
pub(super) struct Destination {
    pub fleet: Arc<Fleet>,
    pub variant: Arc<RunningVariant>,
    pub instance: OutstandingRequest,
}

/// The properties of an instance on which the choice depends.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    outstanding: usize,
    up: bool,
    has_model: bool,
}

/// The lead in outstanding requests at which an instance with the loaded model loses its
/// preference.
const SPREAD: usize = 4;

impl Destination {
    pub fn endpoint(&self) -> &str {
        &self.fleet.deployment().endpoint
    }
}

impl Router {
    pub fn new(deal: Deal) -> Self {
        Self {
            deal,
            endpoints: Mutex::default(),
            instances: AtomicU64::new(0),
        }
    }

    /// The variant with this name, or one chosen by weight.
    pub fn variant(&self, fleet: &Fleet, name: Option<&str>) -> Result<Arc<RunningVariant>, RuntimeError> {
        if let Some(name) = name {
            let variant = fleet.variant(name).cloned();
            return variant.ok_or_else(|| RuntimeError::UnknownVariant(name.to_owned()));
        }
        let variants = fleet.variants();
        if let [only] = variants
            && only.weight() > 0.0
        {
            return Ok(Arc::clone(only));
        }
        let weights = variants.iter().map(|variant| match variant.instances().is_empty() {
            true => 0.0,
            false => variant.weight(),
        });
        let weights = Vec::from_iter(weights);
        let chosen = self.of(&fleet.deployment().endpoint, |draws| match self.deal {
            Deal::Random { .. } => deal::by_weight(&weights, deal::unit(draws.variants.next())),
            Deal::Even => draws.round_robin.next(weights),
        });
        let chosen = chosen.and_then(|index| variants.get(index));
        chosen.cloned().ok_or(RuntimeError::NoCapacity)
    }

    /// The start of the choice among equal instances; `None` if they take turns.
    fn draw(&self, endpoint: &str) -> Option<u64> {
        match self.deal {
            Deal::Random { .. } => Some(self.of(endpoint, |draws| draws.instances.next())),
            Deal::Even => None,
        }
    }

    fn of<T>(&self, endpoint: &str, choose_with: impl FnOnce(&mut EndpointDraws) -> T) -> T {
        // No code panics while it holds the lock, so a poisoned value is consistent.
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(draws) = endpoints.get_mut(endpoint) {
            return choose_with(draws);
        }
        let seed = match self.deal {
            Deal::Random { seed } => seed,
            Deal::Even => 0,
        };
        let draws = EndpointDraws {
            round_robin: RoundRobin::default(),
            variants: Draws::new(seed, endpoint),
            instances: Draws::new(!seed, endpoint),
        };
        choose_with(endpoints.entry(endpoint.to_owned()).or_insert(draws))
    }

    /// Forgets the draws of a removed endpoint.
    pub fn forget(&self, endpoint: &str) {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.remove(endpoint);
    }
}

impl Runtime {
    /// Chooses the destination of a synchronous request, after checking the request's target
    /// headers.
    pub(super) fn choose(
        &self,
        endpoint: &str,
        request: &InvocationRequest,
        body: &[u8],
    ) -> Result<Destination, RuntimeError> {
        let fleet = self.fleet(endpoint)?;
        if fleet.deployment().asynchronous.is_some() {
            return Err(RuntimeError::OnlyAsynchronous);
        }
        let session = request.session.as_deref();
        let session = session.and_then(|id| self.sessions.find(endpoint, id, SystemTime::now()));
        if let (Some(session), None) = (&session, &request.target_variant)
            && let Some(variant) = fleet.variant(&session.variant).cloned()
            && let Some(instance) = variant.instance(session.instance)
        {
            check_selectors(variant.model(), request)?;
            return Ok(Destination {
                fleet,
                variant,
                instance,
            });
        }
        let variant = self.routing.variant(&fleet, request.target_variant.as_deref())?;
        check_selectors(variant.model(), request)?;
        let draw = self.routing.draw(endpoint);
        let instance = match &request.target_model {
            Some(model) => self.with_model(&variant, model, draw),
            None => variant.choose_for(&RoutingInput {
                draw,
                body,
                prefix_id: request.prefix_id.as_deref(),
            }),
        };
        Ok(Destination {
            instance: instance.ok_or(RuntimeError::NoCapacity)?,
            fleet,
            variant,
        })
    }

    /// The containers that process a request, in order.
    pub(super) fn stages(
        &self,
        chosen: &Destination,
        request: &InvocationRequest,
    ) -> Result<Vec<PipelineStage>, RuntimeError> {
        let containers = chosen.instance.containers();
        let of_request = match &request.target_hostname {
            None => containers,
            Some(hostname) => {
                let position = containers
                    .iter()
                    .position(|container| container.spec().hostname == *hostname);
                let position = position.ok_or_else(|| RuntimeError::UnknownHostname(hostname.clone()))?;
                &containers[position..=position]
            }
        };
        let stages = of_request.iter().map(|container| {
            let platform = match container.spec().is_multi_model() {
                true => Some(self.platform(container)?),
                false => None,
            };
            let target = Arc::clone(container) as Arc<dyn Target>;
            Ok(PipelineStage {
                target,
                platform,
                fatal: false,
            })
        });
        stages.collect()
    }

    /// Chooses the instance for a request that names a model.
    fn with_model(&self, variant: &RunningVariant, model: &Name, draw: Option<u64>) -> Option<OutstandingRequest> {
        let instances = variant.instances();
        let loads: Vec<_> = instances.iter().map(|instance| self.load(instance, model)).collect();
        let draw = draw.unwrap_or_else(|| self.routing.instances.fetch_add(1, Ordering::Relaxed));
        let count = u64::try_from(loads.len()).unwrap_or(u64::MAX).max(1);
        let start = usize::try_from(draw % count).unwrap_or_default();
        choose(&loads, start).map(|chosen| instances[chosen].begin())
    }

    fn load(&self, instance: &Instance, model: &Name) -> Candidate {
        let many = instance
            .containers()
            .iter()
            .find(|container| container.spec().is_multi_model());
        let platform = many.and_then(|container| self.platform(container).ok());
        Candidate {
            outstanding: instance.outstanding(),
            up: instance.is_up(),
            has_model: platform.is_some_and(|platform| platform.has(model)),
        }
    }
}

/// Checks that the request's target headers suit the model.
fn check_selectors(model: &Model, request: &InvocationRequest) -> Result<(), RuntimeError> {
    let many = match (&request.target_hostname, model.is_direct()) {
        (None, false) => model.multi_model().is_some(),
        (None, true) => return Err(RuntimeError::MissingHostname),
        (Some(_), false) => return Err(RuntimeError::HostnameNotSupported),
        (Some(hostname), true) => match model.container(hostname) {
            Some(container) => container.is_multi_model(),
            None => return Err(RuntimeError::UnknownHostname(hostname.clone())),
        },
    };
    match (many, &request.target_model) {
        (true, None) => Err(RuntimeError::MissingTargetModel),
        (false, Some(_)) => Err(RuntimeError::TargetModelNotSupported),
        _ => Ok(()),
    }
}

/// Chooses the least busy instance; see [`SPREAD`]. Among equal ones it takes the first from
/// `start` on. Instances that are down come last.
fn choose(loads: &[Candidate], start: usize) -> Option<usize> {
    let some_have_it = loads.iter().any(|load| load.has_model && load.up);
    let cost = |load: &Candidate| {
        let load_first = if some_have_it && !load.has_model { SPREAD } else { 0 };
        (!load.up, load.outstanding + load_first)
    };
    let around = (0..loads.len()).map(|index| start.wrapping_add(index) % loads.len());
    // `min_by_key` returns the first of several equal ones.
    around.min_by_key(|index| cost(&loads[*index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_has_the_model_is_preferred_until_it_is_much_busier() {
        const DOWN: usize = usize::MAX;
        /// Outstanding requests, and whether the instance has the model.
        type Instances = &'static [(usize, bool)];
        let table: &[(Instances, usize, Option<usize>)] = &[
            (&[], 0, None),
            (&[(0, false), (0, false), (0, false)], 0, Some(0)),
            (&[(0, false), (0, false), (0, false)], 4, Some(1)),
            (&[(2, false), (1, false), (1, false)], 0, Some(1)),
            (&[(2, false), (1, false), (1, false)], 2, Some(2)),
            (&[(0, false), (3, true)], 0, Some(1)),
            (&[(0, false), (5, true)], 0, Some(0)),
            (&[(DOWN, true), (9, false)], 0, Some(1)),
            (&[(DOWN, true), (DOWN, false)], 1, Some(1)),
        ];
        for (instances, start, expected) in table {
            let load = |&(outstanding, has_model): &(usize, bool)| Candidate {
                outstanding: if outstanding == DOWN { 0 } else { outstanding },
                up: outstanding != DOWN,
                has_model,
            };
            let loads: Vec<_> = instances.iter().map(load).collect();
            assert_eq!(choose(&loads, *start), *expected, "{instances:?}");
        }
    }
}
