//! The routing strategies of a variant, which choose the instance for a request.
//!
//! The choice is a pure function of the request and of each instance's load.

use crate::endpoint::spec::Routing;

/// The properties of a request on which the choice depends.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoutingInput<'a> {
    /// The start of the choice among equal instances. Without it they take turns.
    pub draw: Option<u64>,
    pub body: &'a [u8],
    /// `PrefixAwareId`: requests with different ids are not routed to one instance because of a
    /// common prefix.
    pub prefix_id: Option<&'a str>,
}

/// The properties of an instance on which the choice depends.
#[derive(Debug, Clone, Copy)]
pub(super) struct InstanceLoad {
    /// Unique in this process.
    pub id: u64,
    /// Outstanding requests.
    pub outstanding: usize,
}

/// Chooses one of `loads`. Among equal instances it prefers the first one from `first` on. `None`
/// if there are no instances.
pub(super) fn choose(
    routing: Routing,
    loads: &[InstanceLoad],
    first: usize,
    input: &RoutingInput<'_>,
) -> Option<usize> {
    let least = || {
        let around = (0..loads.len()).map(|step| (first % loads.len() + step) % loads.len());
        // `min_by_key` returns the first of several equal ones.
        around.min_by_key(|index| loads[*index].outstanding)
    };
    match routing {
        Routing::Random => (!loads.is_empty()).then(|| first % loads.len()),
        // No container here has a key-value cache. SageMaker then falls back to the least
        // outstanding requests.
        Routing::LeastOutstandingRequests | Routing::KvAware => least(),
        Routing::PrefixAware { bytes, threshold } => {
            let prefix = &input.body[..input.body.len().min(bytes)];
            let mut by_prefix = Vec::from_iter(0..loads.len());
            by_prefix.sort_by_cached_key(|index| rank(prefix, input.prefix_id, loads[*index].id));
            let free = |index: &usize| threshold.is_none_or(|most| loads[*index].outstanding < most);
            by_prefix.into_iter().find(free).or_else(least)
        }
    }
}

/// The rank of an instance for a prefix (rendezvous hashing). It depends on nothing else, so
/// adding or removing an instance changes the choice only for that instance's prefixes.
fn rank(prefix: &[u8], prefix_id: Option<&str>, instance: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&instance.to_le_bytes());
    let prefix_id = prefix_id.unwrap_or_default();
    hasher.update(&prefix_id.len().to_le_bytes());
    hasher.update(prefix_id.as_bytes());
    hasher.update(prefix);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(outstanding: &[usize]) -> Vec<InstanceLoad> {
        let load = |(id, outstanding): (usize, &usize)| InstanceLoad {
            id: id as u64 + 10,
            outstanding: *outstanding,
        };
        outstanding.iter().enumerate().map(load).collect()
    }

    fn input<'a>(body: &'a [u8], prefix_id: Option<&'a str>) -> RoutingInput<'a> {
        RoutingInput {
            draw: None,
            body,
            prefix_id,
        }
    }

    #[test]
    fn random_takes_the_drawn_instance_and_least_outstanding_the_least_busy_one() {
        let table: &[(Routing, &[usize], usize, Option<usize>)] = &[
            (Routing::Random, &[], 0, None),
            (Routing::Random, &[9, 0], 0, Some(0)),
            (Routing::Random, &[9, 0], 3, Some(1)),
            (Routing::LeastOutstandingRequests, &[], 1, None),
            (Routing::LeastOutstandingRequests, &[1, 0, 0], 0, Some(1)),
            (Routing::LeastOutstandingRequests, &[1, 0, 0], 2, Some(2)),
            (Routing::KvAware, &[1, 0, 0], 0, Some(1)),
        ];
        for (routing, outstanding, first, expected) in table {
            let chosen = choose(*routing, &loads(outstanding), *first, &input(b"", None));
            assert_eq!(chosen, *expected, "{routing:?} {outstanding:?} {first}");
        }
    }

    #[test]
    fn a_prefix_keeps_its_instance_until_the_instance_is_busy() {
        let routing = Routing::PrefixAware {
            bytes: 4,
            threshold: Some(2),
        };
        let prefix = |number: usize| format!("{number:04}");
        let idle = loads(&[0, 0, 0]);
        let mut counts = [0; 3];
        for number in 0..300 {
            let body = |rest: &str| format!("{}{rest}", prefix(number)).into_bytes();
            let chosen = choose(routing, &idle, number, &input(&body(""), None)).unwrap();
            counts[chosen] += 1;
            assert_eq!(
                choose(routing, &idle, number + 1, &input(&body("other"), None)),
                Some(chosen)
            );
            let mut busy = idle.clone();
            busy[chosen].outstanding = 2;
            let other = choose(routing, &busy, 0, &input(&body(""), None)).unwrap();
            assert_ne!(other, chosen);
            // The remaining instances keep their prefixes.
            let left: Vec<InstanceLoad> = idle.iter().copied().filter(|load| load.id != idle[other].id).collect();
            let kept = choose(routing, &left, 0, &input(&body(""), None)).unwrap();
            assert_eq!(left[kept].id, idle[chosen].id);
        }
        assert!(counts.iter().all(|count| *count > 60), "{counts:?}");
        let by_hint: Vec<_> = (0..20)
            .map(|hint| choose(routing, &idle, 0, &input(b"same", Some(&format!("{hint}")))))
            .collect();
        assert!(by_hint.iter().any(|chosen| *chosen != by_hint[0]), "{by_hint:?}");
        // All are busy: the least busy one is chosen.
        assert_eq!(choose(routing, &loads(&[5, 3, 4]), 0, &input(b"same", None)), Some(1));
    }
}
