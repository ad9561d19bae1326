use std::cell::Cell;
use std::thread;

use proptest::prelude::*;

use super::*;

/// A budget without a readable system and without other processes.
fn budget(limit: u64, reserve: u64) -> Budget {
    let config = BudgetConfig {
        limit: Some(MemoryLimit {
            bytes: limit,
            usage: MemoryUsage::Group2("nowhere".into()),
        }),
        reserve,
        mapped_percent: 50,
        load_patience: REQUEST_WAIT,
        runs: 4,
    };
    Budget::new(config, DataLimit::new(None).unwrap(), 0)
}

fn private(bytes: u64) -> Footprint {
    Footprint {
        private: bytes,
        ..Footprint::default()
    }
}

/// A load with only its private memory known.
fn load(budget: &Budget, private: u64) -> Result<LoadReservation, NoRoom> {
    budget.load(&LoadRequest {
        private,
        ..LoadRequest::default()
    })
}

/// A preparation of `bytes` bytes.
fn prepare(budget: &Budget, bytes: u64) -> Result<LoadReservation, NoRoom> {
    budget.prepare(bytes, 0)
}

#[test]
fn a_load_reserves_its_peak_and_a_model_keeps_its_footprint() {
    let budget = budget(1000, 0);
    let loading = load(&budget, 900).unwrap();
    assert_eq!(budget.reserved().models, 900);
    let loaded = loading.settle(private(400)).unwrap();
    assert_eq!(budget.reserved().models, 400);
    assert_eq!(
        load(&budget, 700).unwrap_err().available,
        550,
        "an eighth is lost to rounding"
    );
    drop(loaded);
    assert_eq!(budget.reserved().models, 0);
    drop(load(&budget, 1000).unwrap());
    assert_eq!(budget.reserved().models, 0);
}

#[test]
fn prepare_up_to_reserves_as_much_as_fits() {
    let budget = budget(1000, 0);
    let (all, bytes) = budget.prepare_up_to(100, 800).unwrap();
    assert_eq!(bytes, 800);
    drop(all);
    let _loaded = load(&budget, 700).unwrap().settle(private(700)).unwrap();
    let (rest, bytes) = budget.prepare_up_to(50, 800).unwrap();
    assert_eq!(bytes, 189, "three quarters of three quarters, repeatedly");
    drop(rest);
    let (least, bytes) = budget.prepare_up_to(205, 800).unwrap();
    assert_eq!(bytes, 205);
    drop(least);
    let refused = budget.prepare_up_to(300, 800).unwrap_err();
    assert_eq!(
        (refused.needed, refused.available),
        (300, 213),
        "the smallest size that was tried, and what was available"
    );
}

#[test]
fn prepare_up_to_waits_for_other_loads() {
    let budget = budget(1000, 0);
    let other = prepare(&budget, 800).unwrap();
    thread::scope(|scope| {
        let more = scope.spawn(|| budget.prepare_up_to(400, 900));
        drop(other);
        let (_more, bytes) = more.join().unwrap().unwrap();
        // All of it, or less if the other load ended between two attempts.
        assert!((400..=900).contains(&bytes), "{bytes}");
    });
}

#[test]
fn a_model_that_exceeds_the_limit_must_be_dropped() {
    let budget = budget(1000, 0);
    let (refused, loaded) = load(&budget, 100).unwrap().settle(private(1200)).unwrap_err();
    assert_eq!((refused.needed, refused.available), (1200, 0));
    assert_eq!(load(&budget, 1).unwrap_err().available, 0);
    drop(loaded);
    assert!(load(&budget, 1).is_ok());
}

#[test]
fn mapped_weights_count_by_their_percentage() {
    let budget = budget(1000, 0);
    let footprint = Footprint {
        mapped: 1600,
        ..private(80)
    };
    let load_mapped = |mapped| {
        budget.load(&LoadRequest {
            private: 80,
            mapped,
            ..LoadRequest::default()
        })
    };
    assert!(load_mapped(1900).is_err());
    let _loaded = load_mapped(1600).unwrap().settle(footprint).unwrap();
    assert_eq!(budget.reserved().mapped, 1600);
    assert_eq!(load(&budget, 200).unwrap_err().available, 110);
}

#[test]
fn the_largest_run_on_every_thread_is_kept_free_for_requests() {
    let budget = budget(1000, 100);
    let footprint = Footprint {
        workspace: 50,
        ..private(80)
    };
    let loaded = load(&budget, 80).unwrap().settle(footprint).unwrap();
    assert_eq!(load(&budget, 800).unwrap_err().available, 710);
    let loading = load(&budget, 675).unwrap();
    // Requests may use the headroom, and no more.
    let mut working = budget.request(150).unwrap();
    working.grow(50).unwrap();
    assert!(working.grow(50).is_err());
    assert_eq!(budget.reserved().requests, 200);
    drop(loading);
    working.grow(50).unwrap();
    drop((working, loaded));
    assert_eq!(budget.reserved().requests, 0);
    assert!(load(&budget, 900).is_ok());
}

#[test]
fn a_preparation_may_use_the_request_headroom_and_requests_wait_for_it() {
    let budget = budget(1000, 100);
    let _loaded = load(&budget, 720).unwrap().settle(private(720)).unwrap();
    assert_eq!(load(&budget, 100).unwrap_err().available, 90);
    let preparing = prepare(&budget, 150).unwrap();
    assert!(budget.request_now(60).is_err());
    thread::scope(|scope| {
        let request = scope.spawn(|| budget.request(60));
        drop(preparing);
        assert!(request.join().unwrap().is_ok());
    });
    assert!(budget.request_now(60).is_ok());
}

#[test]
fn the_temporary_part_of_a_load_may_use_the_request_headroom() {
    let budget = budget(1000, 100);
    let _loaded = load(&budget, 700).unwrap().settle(private(700)).unwrap();
    let with_peak = |peak| {
        let private = 100;
        budget.load(&LoadRequest {
            peak,
            private,
            ..LoadRequest::default()
        })
    };
    let refused = with_peak(220).unwrap_err();
    assert_eq!(
        (refused.needed, refused.available),
        (220, 188),
        "a quarter of the reserve is the margin"
    );
    drop(with_peak(185).unwrap().settle(private(100)).unwrap());
    assert!(
        with_peak(185).unwrap().settle(private(200)).is_err(),
        "the model is larger than expected"
    );
}

#[test]
fn headroom_remains_to_prepare_a_replacement_after_an_unload() {
    const KIND: Replacement = Replacement { peak: 75, child: 20 };
    let budget = budget(1000, 10);
    let load = || {
        budget.load(&LoadRequest {
            private: 40,
            replacement: KIND,
            ..LoadRequest::default()
        })
    };
    let prepare = || prepare(&budget, KIND.peak + KIND.child);
    let mut loaded = Vec::new();
    let refused = loop {
        match load() {
            Ok(loading) => loaded.push(loading.settle(private(40)).unwrap()),
            Err(refused) => break refused,
        }
    };
    assert!(loaded.len() > 15, "{}", loaded.len());
    assert!(refused.needed > refused.available);
    for _ in 0..10 {
        loaded.pop();
        drop(prepare().unwrap());
        loaded.push(load().unwrap().settle(private(40)).unwrap());
        assert!(load().is_err());
    }
    // The headroom is limited.
    let large = Replacement { peak: 900, child: 0 };
    let private = 10;
    let mut only = LoadRequest {
        private,
        replacement: large,
        ..LoadRequest::default()
    };
    loaded.clear();
    let _only = budget.load(&only).unwrap();
    only.private = 800;
    assert!(budget.load(&only).is_ok());
}

/// A budget of 1,000 bytes, and a function that sets the bytes in use.
fn budget_that_reads(reserve: u64) -> (Budget, impl Fn(u64)) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("memory.stat"), "active_file 0\ninactive_file 0\n").unwrap();
    let config = BudgetConfig {
        limit: Some(MemoryLimit {
            bytes: 1000,
            usage: MemoryUsage::Group2(folder.path().to_owned()),
        }),
        reserve,
        mapped_percent: 50,
        load_patience: REQUEST_WAIT,
        runs: 1,
    };
    let budget = Budget::new(config, DataLimit::new(None).unwrap(), 0);
    let used = move |bytes: u64| std::fs::write(folder.path().join("memory.current"), bytes.to_string()).unwrap();
    (budget, used)
}

#[test]
fn a_refused_preparation_fits_after_an_unload() {
    let (budget, used) = budget_that_reads(100);
    used(0);
    let _large = load(&budget, 700).unwrap().settle(private(700)).unwrap();
    let small = load(&budget, 100).unwrap().settle(private(100)).unwrap();
    used(900);
    drop(budget.prepare(50, 100).unwrap());
    assert!(budget.prepare(51, 100).is_err());
    drop(small);
    drop(budget.prepare(75, 100).unwrap());
    assert!(budget.prepare(75, 300).is_err(), "a larger model");
    assert!(budget.prepare(76, 100).is_err());
}

#[test]
fn a_replacement_fits_even_if_the_allocator_keeps_the_old_models_memory() {
    let (budget, used) = budget_that_reads(100);
    used(0);
    let large = load(&budget, 850).unwrap().settle(private(850)).unwrap();
    let small = load(&budget, 50).unwrap().settle(private(50)).unwrap();
    used(900);
    assert!(load(&budget, 50).is_err());
    drop(small);
    // The system still reports the same usage.
    assert!(load(&budget, 60).is_err(), "larger");
    drop(load(&budget, 50).unwrap());
    let small = load(&budget, 50).unwrap().settle(private(50)).unwrap();
    assert!(load(&budget, 50).is_err(), "one replacement per unloaded model");
    drop(small);
    used(901);
    assert!(load(&budget, 50).is_err(), "more memory is in use than before");
    drop(large);
}

#[test]
fn a_load_waits_for_another_load_that_needs_less_than_it_reserved() {
    let budget = budget(1000, 0);
    let first = load(&budget, 900).unwrap();
    thread::scope(|scope| {
        let second = scope.spawn(|| load(&budget, 500));
        let _first = first.settle(private(100)).unwrap();
        drop(second.join().unwrap().unwrap());
    });
}

#[derive(Debug, Clone)]
enum Step {
    BeginLoad(u64),
    Settle(u64, u64, u64),
    Unload(usize),
    Request(u64),
    Answer(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..400).prop_map(Step::BeginLoad),
        (0u64..400, 0u64..400, 0u64..50).prop_map(|(private, mapped, run)| Step::Settle(private, mapped, run)),
        any::<usize>().prop_map(Step::Unload),
        (0u64..300).prop_map(Step::Request),
        any::<usize>().prop_map(Step::Answer),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn the_ledger_equals_the_sum_of_all_reservations(steps in proptest::collection::vec(step(), 0..60)) {
        let budget = budget(1000, 50);
        let mut loading: Option<LoadReservation> = None;
        let mut loaded: Vec<ModelReservation> = Vec::new();
        let mut working: Vec<RequestMemory> = Vec::new();
        for step in steps {
            match step {
                // One at a time: a second load would wait for the first.
                Step::BeginLoad(peak) if loading.is_none() => loading = load(&budget, peak).ok(),
                Step::Settle(private, mapped, workspace) => {
                    if let Some(load) = loading.take()
                        && let Ok(model) = load.settle(Footprint { private, mapped, workspace })
                    {
                        loaded.push(model);
                    }
                }
                Step::Unload(which) if !loaded.is_empty() => drop(loaded.swap_remove(which % loaded.len())),
                Step::Request(bytes) => working.extend(budget.request_now(bytes)),
                Step::Answer(which) if !working.is_empty() => drop(working.swap_remove(which % working.len())),
                Step::BeginLoad(_) | Step::Unload(_) | Step::Answer(_) => {}
            }
            let reserved = budget.reserved();
            let private: u64 = loaded.iter().map(|model| model.footprint().private).sum();
            let mapped: u64 = loaded.iter().map(|model| model.footprint().mapped).sum();
            let under_way = loading.as_ref().map_or(0, |load| load.peak);
            prop_assert_eq!(reserved.models, private + under_way);
            prop_assert_eq!(reserved.mapped, mapped);
            prop_assert_eq!(reserved.requests, working.iter().map(|request| request.bytes).sum::<u64>());
            prop_assert!(private + mapped / 100 * 50 <= 1000);
        }
        drop((loading, loaded, working));
        prop_assert!(budget.ledger().workspaces.is_empty());
        prop_assert!(load(&budget, 950).is_ok());
    }
}

#[test]
fn memory_that_models_can_do_without_is_freed_before_a_load_is_refused() {
    let budget = budget(1000, 0);
    let spare = load(&budget, 200).unwrap().settle(private(200)).unwrap();
    let spare = Mutex::new(Some(spare));
    budget.free_first(move || spare.lock().unwrap().take().is_some());
    let _other = load(&budget, 300).unwrap().settle(private(300)).unwrap();
    budget
        .load_now(&LoadRequest {
            private: 600,
            ..LoadRequest::default()
        })
        .unwrap_err();
    assert_eq!(budget.reserved().models, 500, "without waiting, nothing is freed");
    let loaded = load(&budget, 600).unwrap().settle(private(600)).unwrap();
    assert_eq!(budget.reserved().models, 900);
    drop(loaded);
    load(&budget, 900).unwrap_err();
}

#[test]
fn an_estimate_grows_with_the_weights_and_with_trees() {
    assert_eq!(load_estimate(0, false), 100 << 10);
    assert_eq!(load_estimate(1_000_000, false), 3_000_000 + (100 << 10));
    assert_eq!(load_estimate(1_000_000, true), 5_300_000 + (100 << 10));
    assert!(load_estimate(u64::MAX, true) > u64::MAX / 2);
}

#[test]
fn a_load_that_ends_during_a_refusal_causes_a_retry() {
    let budget = budget(1000, 0);
    let under_way = Cell::new(Some(load(&budget, 900).unwrap()));
    let admitted = budget.wait_for_memory(REQUEST_WAIT, || {
        let request = budget.request_now(500);
        drop(under_way.take());
        request
    });
    assert!(admitted.is_ok(), "{admitted:?}");
}
