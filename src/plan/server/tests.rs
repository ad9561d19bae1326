use proptest::prelude::*;

use super::*;
use crate::engine::ModelCost;
use crate::plan::models::{ContentCost, ModelTimes};
use crate::plan::times::Times;

const MIB: u64 = 1 << 20;

fn models(sizes: &[u64]) -> FleetModels {
    let cost = |mebibytes: &u64| ContentCost {
        memory: ModelCost {
            mapped: mebibytes * MIB,
            ..ModelCost::default()
        },
        disk: MIB,
        family: None,
    };
    let times = ModelTimes {
        first: Times::constant(1),
        load: Times::constant(1),
        run: Times::constant(1),
    };
    FleetModels {
        contents: (0..).take(sizes.len()).collect(),
        costs: sizes.iter().map(cost).collect(),
        families: Vec::new(),
        times,
    }
}

fn server(models: &FleetModels, mebibytes: u64, disk: u64) -> Server {
    let config = ServerConfig {
        memory: ForecastConfig {
            limit: mebibytes * MIB,
            reserve: 8 * MIB,
            mapped_percent: 100,
            threads: 1,
        },
        cores: 1,
        load_threads: 1,
        patience: 0,
        timeout: 0,
        disk: disk * MIB,
    };
    Server::new(&config, models)
}

fn load(server: &mut Server, name: u32, models: &FleetModels) -> bool {
    let Admission::Admitted(load) = server.admit_load(name, models, Pressure::Patient) else {
        return false;
    };
    server.end_load(name, load, models);
    true
}

fn loaded(server: &Server, models: &FleetModels) -> Vec<u32> {
    (0..models.names() as u32)
        .filter(|&name| server.is_loaded(name))
        .collect()
}

#[test]
fn a_busy_model_is_unloaded_last_and_only_under_pressure() {
    let models = models(&[40, 40, 40]);
    let mut server = server(&models, 128, 100);
    assert!(load(&mut server, 0, &models) && load(&mut server, 1, &models));
    server.hold(0);
    server.hold(1);
    server.release(1);
    assert!(load(&mut server, 2, &models));
    assert_eq!(loaded(&server, &models), [0, 2], "0 is older and busy");
    server.hold(2);
    assert!(matches!(
        server.admit_load(1, &models, Pressure::Evicting),
        Admission::Wait
    ));
    assert!(matches!(
        server.admit_load(1, &models, Pressure::Pressing),
        Admission::Admitted(_)
    ));
    assert_eq!(loaded(&server, &models), [2]);
}

#[test]
fn a_patient_load_waits_for_loads_in_progress() {
    let models = models(&[40, 40, 40]);
    let mut server = server(&models, 128, 100);
    assert!(load(&mut server, 0, &models));
    let Admission::Admitted(pending) = server.admit_load(1, &models, Pressure::Patient) else {
        panic!("two models fit");
    };
    let waits = server.admit_load(2, &models, Pressure::Patient);
    assert!(matches!(waits, Admission::InTheWay));
    assert_eq!(loaded(&server, &models), [0]);
    server.end_load(1, pending, &models);
    assert!(load(&mut server, 2, &models));
    assert_eq!(loaded(&server, &models), [1, 2]);
}

#[test]
fn a_model_larger_than_the_memory_is_refused_for_ever() {
    let models = models(&[40, 400]);
    let mut server = server(&models, 128, 100);
    assert!(load(&mut server, 0, &models));
    assert!(matches!(
        server.admit_load(1, &models, Pressure::Pressing),
        Admission::TooLarge
    ));
    assert_eq!(loaded(&server, &models), [0]);
}

#[test]
fn names_with_one_content_and_relatives_cost_once() {
    let mut models = models(&[30, 10, 10]);
    models.contents = vec![0, 0, 1, 2];
    models.families = vec![30 * MIB];
    for cost in &mut models.costs[1..] {
        cost.family = Some(0);
    }
    let mut server = server(&models, 512, 100);
    let mut reserved = Vec::new();
    for name in 0..4 {
        assert!(load(&mut server, name, &models));
        reserved.push(server.memory.reserved().div_ceil(MIB));
    }
    assert_eq!(reserved, [30, 30, 70, 80]);
    for name in 0..4 {
        server.unload(name, &models);
        reserved[name as usize] = server.memory.reserved().div_ceil(MIB);
    }
    assert_eq!(reserved, [80, 50, 40, 0]);
}

#[test]
fn the_disk_forgets_the_model_that_was_not_loaded_for_the_longest_time() {
    let models = models(&[1, 1, 1]);
    let mut server = server(&models, 64, 2);
    server.put_on_disk(0, &models);
    server.put_on_disk(1, &models);
    assert!(server.is_on_disk(0));
    server.put_on_disk(2, &models);
    let there: Vec<u32> = (0..3).filter(|&name| server.disk.contains(name)).collect();
    assert_eq!(there, [0, 2]);
}

proptest! {
    /// The naive model keeps a vector in the order of use, and unloads from its front.
    #[test]
    fn idle_models_are_unloaded_in_the_order_of_use(
        sizes in prop::collection::vec(1u64..30, 12),
        uses in prop::collection::vec(0u32..12, 1..120),
    ) {
        let models = models(&sizes);
        let mut server = server(&models, 128, 100);
        let mut naive: Vec<u32> = Vec::new();
        for name in uses {
            if !server.is_loaded(name) {
                prop_assert!(load(&mut server, name, &models));
            }
            server.hold(name);
            server.release(name);
            naive.retain(|other| *other != name);
            naive.push(name);
            let kept = loaded(&server, &models).len();
            naive.drain(..naive.len() - kept);
            let mut expected = naive.clone();
            expected.sort_unstable();
            prop_assert_eq!(loaded(&server, &models), expected);
        }
    }
}
