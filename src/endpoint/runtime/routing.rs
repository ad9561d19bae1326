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
use super::request::Request;
use super::turns::Turns;
use crate::endpoint::client::Target;
use crate::endpoint::deal::{self, Deal, Draws};
use crate::endpoint::error::RuntimeError;
use crate::endpoint::fleet::{Asked, Fleet, InFlight, Instance, RunningVariant};
use crate::endpoint::pipeline::Stage;
use crate::endpoint::spec::Model;
use crate::store::Name;

/// The choices of all endpoints.
#[derive(Debug)]
pub(super) struct Routing {
    deal: Deal,
    // Locked only briefly.
    endpoints: Mutex<HashMap<String, Dealt>>,
    /// Numbers requests to models, so that equal instances take turns.
    instances: AtomicU64,
}

/// The draws of one endpoint so far.
#[derive(Debug)]
struct Dealt {
    turns: Turns,
    variants: Draws,
    /// Separate from the draws of variants, so that requests that name their variant do not change
    /// the draws of the others.
    instances: Draws,
}

/// The destination of a request. The request counts as outstanding until this is dropped.
pub(super) struct Chosen {
    pub fleet: Arc<Fleet>,
    pub variant: Arc<RunningVariant>,
    pub instance: InFlight,
}

/// The properties of an instance on which the choice depends.
#[derive(Debug, Clone, Copy)]
struct Load {
    outstanding: usize,
    up: bool,
    has_model: bool,
}

/// The lead in outstanding requests at which an instance with the loaded model loses its
/// preference.
const SPREAD: usize = 4;

impl Chosen {
    pub fn endpoint(&self) -> &str {
        &self.fleet.deployment().endpoint
    }
}

impl Routing {
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
        let chosen = self.of(&fleet.deployment().endpoint, |dealt| match self.deal {
            Deal::Random { .. } => deal::by_weight(&weights, deal::unit(dealt.variants.next())),
            Deal::Even => dealt.turns.next(weights),
        });
        let chosen = chosen.and_then(|index| variants.get(index));
        chosen.cloned().ok_or(RuntimeError::NoCapacity)
    }

    /// The start of the choice among equal instances; `None` if they take turns.
    fn draw(&self, endpoint: &str) -> Option<u64> {
        match self.deal {
            Deal::Random { .. } => Some(self.of(endpoint, |dealt| dealt.instances.next())),
            Deal::Even => None,
        }
    }

    fn of<T>(&self, endpoint: &str, ask: impl FnOnce(&mut Dealt) -> T) -> T {
        // No code panics while it holds the lock, so a poisoned value is consistent.
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dealt) = endpoints.get_mut(endpoint) {
            return ask(dealt);
        }
        let seed = match self.deal {
            Deal::Random { seed } => seed,
            Deal::Even => 0,
        };
        let dealt = Dealt {
            turns: Turns::default(),
            variants: Draws::new(seed, endpoint),
            instances: Draws::new(!seed, endpoint),
        };
        ask(endpoints.entry(endpoint.to_owned()).or_insert(dealt))
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
    pub(super) fn choose(&self, endpoint: &str, request: &Request, body: &[u8]) -> Result<Chosen, RuntimeError> {
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
            suits(variant.model(), request)?;
            return Ok(Chosen {
                fleet,
                variant,
                instance,
            });
        }
        let variant = self.routing.variant(&fleet, request.target_variant.as_deref())?;
        suits(variant.model(), request)?;
        let draw = self.routing.draw(endpoint);
        let instance = match &request.target_model {
            Some(model) => self.with_model(&variant, model, draw),
            None => variant.choose_for(&Asked {
                draw,
                body,
                prefix_id: request.prefix_id.as_deref(),
            }),
        };
        Ok(Chosen {
            instance: instance.ok_or(RuntimeError::NoCapacity)?,
            fleet,
            variant,
        })
    }

    /// The containers that process a request, in order.
    pub(super) fn stages(&self, chosen: &Chosen, request: &Request) -> Result<Vec<Stage>, RuntimeError> {
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
            Ok(Stage {
                target,
                platform,
                fatal: false,
            })
        });
        stages.collect()
    }

    /// Chooses the instance for a request that names a model.
    fn with_model(&self, variant: &RunningVariant, model: &Name, draw: Option<u64>) -> Option<InFlight> {
        let instances = variant.instances();
        let loads: Vec<_> = instances.iter().map(|instance| self.load(instance, model)).collect();
        let draw = draw.unwrap_or_else(|| self.routing.instances.fetch_add(1, Ordering::Relaxed));
        let count = u64::try_from(loads.len()).unwrap_or(u64::MAX).max(1);
        let start = usize::try_from(draw % count).unwrap_or_default();
        choose(&loads, start).map(|chosen| instances[chosen].begin())
    }

    fn load(&self, instance: &Instance, model: &Name) -> Load {
        let many = instance
            .containers()
            .iter()
            .find(|container| container.spec().is_multi_model());
        let platform = many.and_then(|container| self.platform(container).ok());
        Load {
            outstanding: instance.outstanding(),
            up: instance.is_up(),
            has_model: platform.is_some_and(|platform| platform.has(model)),
        }
    }
}

/// Checks that the request's target headers suit the model.
fn suits(model: &Model, request: &Request) -> Result<(), RuntimeError> {
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
fn choose(loads: &[Load], start: usize) -> Option<usize> {
    let some_have_it = loads.iter().any(|load| load.has_model && load.up);
    let cost = |load: &Load| {
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
            let load = |&(outstanding, has_model): &(usize, bool)| Load {
                outstanding: if outstanding == DOWN { 0 } else { outstanding },
                up: outstanding != DOWN,
                has_model,
            };
            let loads: Vec<_> = instances.iter().map(load).collect();
            assert_eq!(choose(&loads, *start), *expected, "{instances:?}");
        }
    }
}
