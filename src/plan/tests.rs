//! The simulation as a whole, against what theory says.

mod overload;

use super::*;
use crate::engine::{ForecastConfig, ModelCost};

const MIB: u64 = 1 << 20;
const MILLISECOND: u64 = 1_000_000;

/// A distribution with the quantiles of an exponential one.
fn exponential(mean: u64) -> Times {
    const PARTS: u32 = 20_000;
    let quantile = |part: u32| (-(1.0 - (f64::from(part) + 0.5) / f64::from(PARTS)).ln() * mean as f64) as u64;
    Times::measured((0..PARTS).map(quantile).collect()).unwrap()
}

fn models(names: usize, mebibytes: u64, run: Times) -> FleetModels {
    let cost = ContentCost {
        memory: ModelCost {
            mapped: mebibytes * MIB,
            ..ModelCost::default()
        },
        disk: MIB,
        family: None,
    };
    let times = ModelTimes {
        first: Times::constant(10 * MILLISECOND),
        load: Times::constant(MILLISECOND),
        run,
    };
    FleetModels::equal(names, cost, times)
}

fn fleet(servers: u32, mebibytes: u64, cores: u32, requests: usize) -> FleetConfig {
    FleetConfig {
        servers,
        server: ServerConfig {
            memory: ForecastConfig {
                limit: mebibytes * MIB,
                reserve: 8 * MIB,
                mapped_percent: 100,
                threads: 1,
            },
            cores,
            load_threads: 8,
            patience: 100 * MILLISECOND,
            timeout: 58_000 * MILLISECOND,
            disk: u64::MAX,
        },
        balance: Balance::Consistent {
            points: 160,
            factor: None,
            busy: 0,
        },
        requests,
        warm_up: 0.3,
        order: None,
        seed: 1,
    }
}

fn poisson(rate: f64, names: usize, skew: f64) -> Traffic {
    Traffic::Poisson {
        rate,
        popularity: Popularity::of(&zipf(names, skew)).unwrap(),
    }
}

/// The hit rate of an LRU cache for `capacity` of the models, by Che's approximation.
fn che(weights: &[f64], capacity: f64) -> f64 {
    let total: f64 = weights.iter().sum();
    let shares: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
    let occupied = |time: f64| shares.iter().map(|share| 1.0 - (-share * time).exp()).sum::<f64>();
    let (mut low, mut high) = (0.0, 1e12);
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if occupied(middle) < capacity {
            low = middle;
        } else {
            high = middle;
        }
    }
    shares.iter().map(|share| share * (1.0 - (-share * low).exp())).sum()
}

#[test]
fn the_share_of_cold_requests_is_that_of_ches_approximation() {
    const NAMES: usize = 2000;
    for (skew, mebibytes) in [(0.7, 512), (1.0, 512), (1.0, 1024), (1.3, 256)] {
        let models = models(NAMES, 1, Times::constant(1));
        let outcome = simulate(&fleet(1, mebibytes, 64, 400_000), &models, &poisson(10.0, NAMES, skew));
        let expected = 1.0 - che(&zipf(NAMES, skew), outcome.resident);
        let found = outcome.cold_share();
        assert!(
            (found - expected).abs() < 0.01,
            "{skew} {mebibytes}: {found} {expected}"
        );
    }
}

#[test]
fn waits_are_those_of_a_queue_with_several_servers() {
    /// The share of requests that wait (Erlang's formula C).
    fn erlang_c(cores: u32, load: f64) -> f64 {
        let (mut term, mut sum) = (1.0, 0.0);
        for k in 0..cores {
            sum += term;
            term *= load / f64::from(k + 1);
        }
        let waiting = term / (1.0 - load / f64::from(cores));
        waiting / (sum + waiting)
    }
    let models = models(1, 1, exponential(MILLISECOND));
    for (cores, load) in [(1, 0.5), (1, 0.8), (4, 3.2)] {
        let outcome = simulate(&fleet(1, 256, cores, 600_000), &models, &poisson(load * 1000.0, 1, 1.0));
        let (c, spare) = (erlang_c(cores, load), f64::from(cores) - load);
        // Distribution of the time in an M/M/c queue, for a service of 1 ms on average.
        let later = |time: f64| {
            let rest = if (spare - 1.0).abs() < 1e-9 {
                c * time * (-time).exp()
            } else {
                c / (1.0 - spare) * ((-spare * time).exp() - (-time).exp())
            };
            (-time).exp() + rest
        };
        for (share, found) in [(0.5, outcome.p50.unwrap()), (0.99, outcome.p99.unwrap())] {
            let found = found as f64 / MILLISECOND as f64;
            assert!(
                (later(found * 0.93) > 1.0 - share) && (later(found * 1.07) < 1.0 - share),
                "{cores} {load}: {found} ms, which {} exceed",
                later(found)
            );
        }
        assert!(
            (outcome.busy - load / f64::from(cores)).abs() < 0.01,
            "{}",
            outcome.busy
        );
    }
}

#[test]
fn round_robin_has_every_model_on_every_server() {
    let models = models(300, 1, Times::constant(MILLISECOND));
    let traffic = poisson(100.0, 300, 0.8);
    let consistent = fleet(3, 170, 2, 100_000);
    let robin = FleetConfig {
        balance: Balance::RoundRobin,
        ..consistent.clone()
    };
    let (consistent, robin) = (
        simulate(&consistent, &models, &traffic),
        simulate(&robin, &models, &traffic),
    );
    assert!(consistent.resident <= 300.0 && robin.resident > 300.0);
    assert!(
        consistent.cold_share() * 5.0 < robin.cold_share(),
        "{} {}",
        consistent.cold_share(),
        robin.cold_share()
    );
    assert!(robin.imbalance < 1.01 && consistent.imbalance > 1.01);
}

#[test]
fn bounded_loads_spread_a_model_that_one_server_cannot_answer() {
    let models = models(100, 1, Times::constant(MILLISECOND));
    // Nearly all requests are for one model, at 1.5 times what one server can answer.
    let traffic = poisson(1500.0, 100, 6.0);
    let unbounded = fleet(4, 512, 1, 300_000);
    let bounded = FleetConfig {
        balance: Balance::Consistent {
            points: 160,
            factor: Some(150),
            busy: 0,
        },
        ..unbounded.clone()
    };
    assert!(simulate(&unbounded, &models, &traffic).is_overloaded);
    let bounded = simulate(&bounded, &models, &traffic);
    assert!(!bounded.is_overloaded && bounded.failed == 0, "{bounded:?}");
    assert!(bounded.imbalance < 2.0, "{}", bounded.imbalance);
}

#[test]
fn servers_that_begin_full_end_like_those_that_began_empty() {
    let models = models(3000, 1, Times::constant(100_000));
    let traffic = poisson(500.0, 3000, 0.9);
    let empty = fleet(3, 600, 2, 400_000);
    let order = Some((0..3000).rev().collect());
    let full = FleetConfig {
        order,
        requests: 100_000,
        ..empty
    };
    let (empty, full) = (simulate(&empty, &models, &traffic), simulate(&full, &models, &traffic));
    assert!(
        (empty.cold_share() - full.cold_share()).abs() < 0.01,
        "{empty:?} {full:?}"
    );
    assert!(
        (empty.resident / full.resident - 1.0).abs() < 0.01,
        "{empty:?} {full:?}"
    );
}

#[test]
fn a_fleet_without_memory_for_any_model_refuses_all_requests() {
    let models = models(3, 400, Times::constant(MILLISECOND));
    for rate in [10.0, 100_000.0] {
        let outcome = simulate(&fleet(2, 128, 2, 1000), &models, &poisson(rate, 3, 1.0));
        assert_eq!((outcome.failed, outcome.requests), (700, 700));
        assert_eq!((outcome.cold_share(), outcome.p99), (1.0, None));
        assert!(!outcome.is_overloaded, "refused requests take no core: {rate}");
    }
}

#[test]
fn a_model_that_fits_nowhere_does_not_change_what_the_servers_begin_with() {
    let mut models = models(100, 1, Times::constant(MILLISECOND));
    models.costs[99].memory.mapped = 1 << 40;
    let traffic = poisson(100.0, 99, 1.0);
    let outcome = |order: Vec<u32>| {
        let config = FleetConfig {
            order: Some(order),
            warm_up: 0.0,
            ..fleet(1, 256, 2, 64)
        };
        simulate(&config, &models, &traffic)
    };
    let (first, last) = (outcome((0..100).rev().collect()), outcome((0..100).collect()));
    assert_eq!((first.cold, first.resident), (0, 99.0));
    assert_eq!(first, last);
}

#[test]
fn no_time_and_no_size_is_too_large_to_add() {
    let models = models(3, 1 << 43, Times::constant(u64::MAX));
    let config = FleetConfig {
        order: Some(vec![0, 1, 2]),
        ..fleet(1, 1 << 43, 1, 100)
    };
    let slow = simulate(&config, &models, &poisson(1e-18, 3, 1.0));
    assert_eq!(slow.requests, 70);
    let far = Traffic::Trace(vec![(0, 0), (u64::MAX, 1), (u64::MAX, 2)]);
    assert_eq!(simulate(&config, &models, &far).requests, 3);
}

#[test]
fn a_target_is_met_only_by_answers() {
    let models = models(3, 1, Times::constant(MILLISECOND));
    let target = Target {
        p99: Some(u64::MAX),
        cold: Some(1.0),
    };
    for (warm_up, expected) in [(0.3, true), (1.0, false)] {
        let config = FleetConfig {
            warm_up,
            ..fleet(1, 128, 1, 100)
        };
        let outcome = simulate(&config, &models, &poisson(10.0, 3, 1.0));
        assert_eq!(target.is_met(&outcome), expected, "{warm_up}");
    }
}

#[test]
fn clients_and_traces_send_all_their_requests() {
    let models = models(50, 1, Times::constant(MILLISECOND));
    let trace: Vec<u32> = (0..1000).map(|index| index * 7 % 50).collect();
    let timed = trace
        .iter()
        .zip(0..)
        .map(|(&model, index)| (index * MILLISECOND, model));
    let config = FleetConfig {
        warm_up: 0.0,
        ..fleet(2, 256, 2, usize::MAX)
    };
    let timed = simulate(&config, &models, &Traffic::Trace(timed.collect()));
    assert_eq!(timed.requests, 1000);
    assert!(
        (50..150).contains(&timed.cold),
        "each model is cold until its first load ends: {}",
        timed.cold
    );
    let requests = ClientRequests::Trace(trace);
    let clients = simulate(&config, &models, &Traffic::Clients { clients: 4, requests });
    assert_eq!(clients.requests, 1000);
    assert!((1900.0..4000.0).contains(&clients.rate), "{}", clients.rate);
}

#[test]
fn the_same_seed_gives_the_same_result() {
    let models = models(200, 1, exponential(MILLISECOND));
    let result = |seed| {
        let config = FleetConfig {
            seed,
            ..fleet(3, 128, 2, 20_000)
        };
        simulate(&config, &models, &poisson(800.0, 200, 1.0))
    };
    assert_eq!(result(1), result(1));
    assert_ne!(result(1), result(2));
}

#[test]
fn the_search_finds_the_smallest_number_of_servers_that_meets_the_target() {
    let models = models(2000, 1, Times::constant(MILLISECOND));
    let traffic = poisson(500.0, 2000, 0.6);
    let candidate = |name: &str, mebibytes, price| Candidate {
        instance: InstanceType {
            name: name.to_owned(),
            memory: mebibytes * MIB,
            cores: 2,
        },
        price: Some(price),
        fleet: FleetConfig {
            order: Some((0..2000).rev().collect()),
            ..fleet(1, mebibytes, 2, 20_000)
        },
    };
    let candidates = [candidate("small", 256, 0.1), candidate("large", 1024, 0.5)];
    let target = Target {
        p99: None,
        cold: Some(0.05),
    };
    let counts = [1, 2, 4, 8, 16];
    let rows = search(&candidates, &counts, &target, &models, &traffic, |_, _| {});
    let smallest = |index| {
        let mut own = rows.iter().filter(|row| row.candidate == index);
        own.find(|row| row.is_met).unwrap().servers
    };
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row.is_met, row.servers >= smallest(row.candidate), "{index}");
    }
    for index in [0, 1] {
        let before = smallest(index) - 1;
        assert!(before == 0 || rows.iter().any(|row| row.candidate == index && row.servers == before));
    }
    let only = search(&candidates, &[16], &target, &models, &traffic, |_, _| {});
    assert_eq!(only.iter().map(|row| row.servers).collect::<Vec<_>>(), [16, 16]);
    let cheapest = choice(&rows, &candidates).unwrap();
    let price = |index: usize| candidates[index].price.unwrap() * f64::from(smallest(index));
    assert_eq!(cheapest.price, Some(price(0).min(price(1))));
    assert_eq!(search::counts(20, false), [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20]);
}
