use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn name(index: usize) -> Name {
    Name::parse(&format!("m{index}")).unwrap()
}

/// Loads a model and ends its use.
fn load(directory: &mut Directory, index: usize) -> ResidencyId {
    let Lookup::Absent(residency, _) = directory.acquire(&name(index)) else {
        panic!("m{index} is loaded already");
    };
    assert!(directory.loaded(&name(index), residency, directory.generation));
    directory.release(&name(index), residency);
    residency
}

#[test]
fn the_least_recently_used_models_are_unloaded_first() {
    let mut directory = Directory::default();
    for index in 0..4 {
        load(&mut directory, index);
    }
    let Lookup::Loaded(residency) = directory.acquire(&name(0)) else {
        panic!()
    };
    directory.release(&name(0), residency);
    let step = directory.plan_eviction(99, 0, 2);
    assert_eq!(step, EvictionStep::Unload(vec![name(1), name(2)]));
    assert!(!directory.has(&name(1)) && directory.has(&name(3)));
}

#[test]
fn a_load_waits_for_models_in_use() {
    let mut directory = Directory::default();
    load(&mut directory, 0);
    let Lookup::Loaded(residency) = directory.acquire(&name(0)) else {
        panic!()
    };
    assert_eq!(directory.plan_eviction(99, 0, 1), EvictionStep::Wait);
    assert!(!directory.begin_unload(&name(0)));
    directory.release(&name(0), residency);
    assert_eq!(directory.plan_eviction(99, 0, 1), EvictionStep::Unload(vec![name(0)]));
    // The model is unloading, but still in the container.
    assert_eq!(directory.plan_eviction(99, 0, 1), EvictionStep::Wait);
    directory.unloaded(&name(0), None);
    assert_eq!(directory.plan_eviction(99, 0, 1), EvictionStep::Freed);
    assert_eq!(directory.plan_eviction(99, 1, 1), EvictionStep::Nothing);
}

#[test]
fn loads_that_wait_for_memory_do_not_wait_for_each_other() {
    let mut directory = Directory::default();
    let mut residencies = [0, 1].map(|index| match directory.acquire(&name(index)) {
        Lookup::Absent(residency, _) => residency,
        found => panic!("{found:?}"),
    });
    directory.set_posted(&name(1), residencies[1], true);
    assert_eq!(directory.plan_eviction(residencies[0], 0, 1), EvictionStep::Wait);
    directory.set_posted(&name(1), residencies[1], false);
    assert_eq!(directory.plan_eviction(residencies[0], 0, 1), EvictionStep::Nothing);
    residencies.reverse();
    assert_eq!(directory.plan_eviction(residencies[0], 0, 1), EvictionStep::Nothing);
}

#[test]
fn a_new_generation_of_the_container_has_no_models() {
    let mut directory = Directory::default();
    assert_eq!(directory.set_generation(1), Vec::<Name>::new());
    let old = load(&mut directory, 0);
    assert_eq!(directory.set_generation(1), Vec::<Name>::new());
    assert_eq!(directory.set_generation(2), [name(0)]);
    assert!(matches!(directory.acquire(&name(0)), Lookup::Unloading(_)));
    directory.unloaded(&name(0), None);
    let Lookup::Absent(residency, _) = directory.acquire(&name(0)) else {
        panic!()
    };
    assert_ne!(old, residency);
    // A user of the ended residency no longer counts.
    assert!(!directory.release(&name(0), old));
    assert_eq!(directory.models[&name(0)].users, 1);
    // A load whose container ended during it.
    assert_eq!(directory.set_generation(3), Vec::<Name>::new());
    assert!(!directory.loaded(&name(0), residency, 2));
    assert!(matches!(directory.acquire(&name(0)), Lookup::Unloading(_)));
}

proptest! {
    /// A container with memory for a few models and random requests always unloads the least
    /// recently used model.
    #[test]
    fn the_least_recently_used_model_is_unloaded(requests in prop::collection::vec(0_usize..8, 1..60), capacity in 1_usize..5) {
        let mut directory = Directory::default();
        let mut used = BTreeMap::new();
        for (clock, index) in requests.into_iter().enumerate() {
            match directory.acquire(&name(index)) {
                Lookup::Loaded(residency) => {
                    prop_assert!(used.contains_key(&index));
                    directory.release(&name(index), residency);
                }
                Lookup::Absent(residency, _) => {
                    prop_assert!(!used.contains_key(&index));
                    while used.len() == capacity {
                        let oldest = *used.iter().min_by_key(|(_, used)| **used).map(|(index, _)| index).unwrap();
                        let freed = directory.freed();
                        prop_assert_eq!(directory.plan_eviction(residency, freed, 1), EvictionStep::Unload(vec![name(oldest)]));
                        directory.unloaded(&name(oldest), None);
                        used.remove(&oldest);
                    }
                    directory.loaded(&name(index), residency, 0);
                    directory.release(&name(index), residency);
                }
                found => panic!("{found:?}"),
            }
            used.insert(index, clock);
        }
    }
}
