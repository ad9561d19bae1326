//! Injected faults (`--fault RULE`), for testing clients of an endpoint. Off by default.
//!
//! `longshore endpoint --help` describes the syntax of a rule.
//!
//! Several rules combine: latencies add up, and the first rule with an error determines the error.
//! Each rule counts its own requests from the start, so that a run can be repeated.

mod rule;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::endpoint::deal::{numbered, unit};
use crate::endpoint::error::RuntimeError;

pub use rule::{FaultError, FaultRule};

use rule::{FaultKind, Frequency};

/// All rules, each with the number of requests it has seen.
#[derive(Debug, Default)]
pub struct Faults {
    seed: u64,
    rules: Vec<(FaultRule, AtomicU64)>,
}

/// The faults for one request.
#[derive(Debug, Default, PartialEq)]
pub struct InjectedFaults {
    pub latency: Duration,
    pub error: Option<RuntimeError>,
    /// The hostname of the container to kill.
    pub kill: Option<String>,
}

impl Faults {
    pub fn new(rules: impl IntoIterator<Item = FaultRule>, seed: u64) -> Self {
        Self {
            seed,
            rules: rules.into_iter().map(|rule| (rule, AtomicU64::new(0))).collect(),
        }
    }

    /// The faults for the next request to this variant. `model` appears in error texts.
    pub fn next(&self, endpoint: &str, variant: &str, model: Option<&str>) -> InjectedFaults {
        let mut injected = InjectedFaults::default();
        for (index, (rule, seen)) in self.rules.iter().enumerate() {
            if !rule.applies_to(endpoint, variant) {
                continue;
            }
            let request = seen.fetch_add(1, Ordering::Relaxed);
            if !applies(rule.when, chance(self.seed, index as u64, request), request) {
                continue;
            }
            let error = match &rule.kind {
                FaultKind::Latency(latency) => {
                    injected.latency = injected.latency.saturating_add(*latency);
                    continue;
                }
                FaultKind::Kill(hostname) => {
                    injected.kill.get_or_insert_with(|| hostname.clone());
                    continue;
                }
                FaultKind::Memory(_) => continue,
                FaultKind::Error(status) => error(*status),
                FaultKind::ModelError(status) => RuntimeError::Model {
                    container: "model".to_owned(),
                    status: *status,
                    message: INJECTED_MESSAGE.to_owned(),
                },
                FaultKind::ModelNotReady => RuntimeError::ModelNotReady {
                    model: model.unwrap_or("model").to_owned(),
                },
            };
            injected.error.get_or_insert(error);
        }
        injected
    }

    /// The memory limit of each container of this variant, in bytes: the lowest of all rules.
    pub fn memory(&self, endpoint: &str, variant: &str) -> Option<u64> {
        let concerned = self.rules.iter().filter(|(rule, _)| rule.applies_to(endpoint, variant));
        let limits = concerned.filter_map(|(rule, _)| match rule.kind {
            FaultKind::Memory(bytes) => Some(bytes),
            _ => None,
        });
        limits.min()
    }
}

/// The message of injected errors, so that callers do not look for another cause.
const INJECTED_MESSAGE: &str = "a fault injected by --fault";

fn error(status: u16) -> RuntimeError {
    let text = INJECTED_MESSAGE.to_owned();
    match status {
        400 => RuntimeError::Validation(text),
        503 => RuntimeError::Unavailable(text),
        530 => RuntimeError::Dependency(text),
        _ => RuntimeError::Internal(text),
    }
}

/// Whether a rule applies to its request with this number, counted from 0.
fn applies(when: Frequency, chance: f64, request: u64) -> bool {
    match when {
        Frequency::Always => true,
        Frequency::Chance(share) => chance < share,
        // Spread evenly, each at the end of its share of the requests.
        Frequency::Each { of, count } => {
            let before = |request: u64| u128::from(request) * u128::from(count) / u128::from(of);
            before(request.saturating_add(1)) > before(request)
        }
    }
}

/// A pseudorandom number from 0 up to 1 that depends only on the arguments.
fn chance(seed: u64, rule: u64, request: u64) -> f64 {
    unit(numbered(numbered(seed, rule), request))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(rules: &[&str], seed: u64) -> Faults {
        Faults::new(rules.iter().map(|rule| rule.parse().unwrap()), seed)
    }

    #[test]
    fn nothing_happens_without_rules() {
        assert_eq!(Faults::default().next("a", "b", None), InjectedFaults::default());
        assert_eq!(Faults::default().memory("a", "b"), None);
    }

    #[test]
    fn a_rule_applies_to_its_endpoint_and_variant() {
        let faults = faults(
            &[
                "shop/blue:latency=1s",
                "shop:latency=10s",
                "latency=100s",
                "shop:memory=1MiB",
            ],
            0,
        );
        let latency = |endpoint, variant| faults.next(endpoint, variant, None).latency.as_secs();
        assert_eq!(latency("shop", "blue"), 111);
        assert_eq!(latency("shop", "green"), 110);
        assert_eq!(latency("other", "blue"), 100);
        assert_eq!(faults.memory("shop", "blue"), Some(1 << 20));
        assert_eq!(faults.memory("other", "blue"), None);
    }

    #[test]
    fn the_first_error_wins() {
        let faults = faults(&["model-error=507", "error=503", "kill=a", "kill=b"], 0);
        let injected = faults.next("a", "b", None);
        assert!(matches!(injected.error, Some(RuntimeError::Model { status: 507, .. })));
        assert_eq!(injected.kill.as_deref(), Some("a"));
    }

    #[test]
    fn a_ratio_is_exact_and_strikes_the_last_request_of_each_group() {
        let struck = |rule: &str, requests: usize| -> Vec<usize> {
            let faults = faults(&[rule], 7);
            let applies = (0..requests).filter(|_| faults.next("a", "b", None).error.is_some());
            applies.collect()
        };
        let which = |rule: &str| -> Vec<usize> {
            let faults = faults(&[rule], 7);
            (1..=12)
                .filter(|_| faults.next("a", "b", None).error.is_some())
                .collect()
        };
        assert_eq!(which("error=503@1/4"), [4, 8, 12]);
        assert_eq!(which("error=503@2/4"), [2, 4, 6, 8, 10, 12]);
        assert_eq!(struck("error=503@1/100", 10_000).len(), 100);
    }

    #[test]
    fn a_percentage_is_met_on_average_and_repeats_with_the_seed() {
        let applies = |seed| -> Vec<bool> {
            let faults = faults(&["latency=1s", "model-not-ready@10%"], seed);
            (0..10_000)
                .map(|_| faults.next("a", "b", None).error.is_some())
                .collect()
        };
        let count = applies(1).iter().filter(|strike| **strike).count();
        // The expected 1000 and six standard deviations of 30.
        assert!((820..=1180).contains(&count), "{count}");
        assert_eq!(applies(1), applies(1));
        assert_ne!(applies(1), applies(2));
    }
}
