//! When a fleet counts as overloaded.

use super::*;

#[test]
fn a_fleet_is_overloaded_by_work_whatever_the_number_of_requests() {
    let models = models(300, 1, Times::constant(MILLISECOND));
    for requests in [2_000, 20_000, 200_000] {
        for (rate, expected) in [(900.0, false), (1400.0, true)] {
            let config = FleetConfig {
                order: Some((0..300).rev().collect()),
                ..fleet(1, 512, 1, requests)
            };
            let outcome = simulate(&config, &models, &poisson(rate, 300, 1.0));
            assert_eq!(outcome.is_overloaded, expected, "{requests} {rate}: {outcome:?}");
            assert!(!expected || outcome.busy > 0.99, "{requests}: {outcome:?}");
        }
    }
    let requests = ClientRequests::Random(Popularity::of(&[1.0; 300]).unwrap());
    let clients = Traffic::Clients {
        clients: 70_000,
        requests,
    };
    let outcome = simulate(&fleet(1, 512, 1, 100_000), &models, &clients);
    assert!(!outcome.is_overloaded, "clients wait: {outcome:?}");
    // The first loads take a part of the core.
    assert!((950.0..=1000.0).contains(&outcome.rate), "{outcome:?}");
}

#[test]
fn a_fleet_is_overloaded_by_loads_that_never_end() {
    // Each request is for another model, and a load takes 50 ms of the eight threads.
    let mut models = models(40_000, 1, Times::constant(1));
    models.times.load = Times::constant(50 * MILLISECOND);
    for (rate, expected) in [(20.0, false), (400.0, true)] {
        let outcome = simulate(&fleet(1, 64, 8, 20_000), &models, &poisson(rate, 40_000, 0.0));
        assert_eq!(outcome.is_overloaded, expected, "{rate}: {outcome:?}");
    }
}

#[test]
fn a_burst_at_the_end_of_a_log_is_no_overload() {
    let models = models(10, 1, Times::constant(MILLISECOND));
    let burst = |number: u64| (0..20).map(move |index| (number * 10_000 * MILLISECOND, index % 10));
    let trace = Traffic::Trace((0..10).flat_map(burst).collect());
    let config = FleetConfig {
        warm_up: 0.0,
        ..fleet(1, 256, 2, usize::MAX)
    };
    let outcome = simulate(&config, &models, &trace);
    assert!(!outcome.is_overloaded && outcome.requests == 200, "{outcome:?}");
}
