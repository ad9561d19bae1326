use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn name(index: usize) -> Name {
    Name::parse(&format!("m{index}")).unwrap()
}

/// Loads a model and ends its use.
fn load(directory: &mut Directory, index: usize) -> Stay {
    let Found::Absent(stay, _) = directory.arrive(&name(index)) else {
        panic!("m{index} is loaded already");
    };
    assert!(directory.loaded(&name(index), stay, directory.generation));
    directory.leave(&name(index), stay);
    stay
}

#[test]
fn the_least_recently_used_models_are_unloaded_first() {
    let mut directory = Directory::default();
    for index in 0..4 {
        load(&mut directory, index);
    }
    let Found::Loaded(stay) = directory.arrive(&name(0)) else {
        panic!()
    };
    directory.leave(&name(0), stay);
    let room = directory.make_room(99, 0, 2);
    assert_eq!(room, Room::Unload(vec![name(1), name(2)]));
    assert!(!directory.has(&name(1)) && directory.has(&name(3)));
}

#[test]
fn a_load_waits_for_models_in_use() {
    let mut directory = Directory::default();
    load(&mut directory, 0);
    let Found::Loaded(stay) = directory.arrive(&name(0)) else {
        panic!()
    };
    assert_eq!(directory.make_room(99, 0, 1), Room::Wait);
    assert!(!directory.begin_unload(&name(0)));
    directory.leave(&name(0), stay);
    assert_eq!(directory.make_room(99, 0, 1), Room::Unload(vec![name(0)]));
    // The model is unloading, but still in the container.
    assert_eq!(directory.make_room(99, 0, 1), Room::Wait);
    directory.unloaded(&name(0), None);
    assert_eq!(directory.make_room(99, 0, 1), Room::Freed);
    assert_eq!(directory.make_room(99, 1, 1), Room::Nothing);
}

#[test]
fn loads_that_wait_for_memory_do_not_wait_for_each_other() {
    let mut directory = Directory::default();
    let mut stays = [0, 1].map(|index| match directory.arrive(&name(index)) {
        Found::Absent(stay, _) => stay,
        found => panic!("{found:?}"),
    });
    directory.set_posted(&name(1), stays[1], true);
    assert_eq!(directory.make_room(stays[0], 0, 1), Room::Wait);
    directory.set_posted(&name(1), stays[1], false);
    assert_eq!(directory.make_room(stays[0], 0, 1), Room::Nothing);
    stays.reverse();
    assert_eq!(directory.make_room(stays[0], 0, 1), Room::Nothing);
}

#[test]
fn a_new_generation_of_the_container_has_no_models() {
    let mut directory = Directory::default();
    assert_eq!(directory.see(1), Vec::<Name>::new());
    let old = load(&mut directory, 0);
    assert_eq!(directory.see(1), Vec::<Name>::new());
    assert_eq!(directory.see(2), [name(0)]);
    assert!(matches!(directory.arrive(&name(0)), Found::Unloading(_)));
    directory.unloaded(&name(0), None);
    let Found::Absent(stay, _) = directory.arrive(&name(0)) else {
        panic!()
    };
    assert_ne!(old, stay);
    // A user of the ended residency no longer counts.
    assert!(!directory.leave(&name(0), old));
    assert_eq!(directory.models[&name(0)].users, 1);
    // A load whose container ended during it.
    assert_eq!(directory.see(3), Vec::<Name>::new());
    assert!(!directory.loaded(&name(0), stay, 2));
    assert!(matches!(directory.arrive(&name(0)), Found::Unloading(_)));
}

proptest! {
    /// A container with memory for a few models and random requests always unloads the least
    /// recently used model.
    #[test]
    fn the_least_recently_used_model_is_unloaded(requests in prop::collection::vec(0_usize..8, 1..60), capacity in 1_usize..5) {
        let mut directory = Directory::default();
        let mut used = BTreeMap::new();
        for (clock, index) in requests.into_iter().enumerate() {
            match directory.arrive(&name(index)) {
                Found::Loaded(stay) => {
                    prop_assert!(used.contains_key(&index));
                    directory.leave(&name(index), stay);
                }
                Found::Absent(stay, _) => {
                    prop_assert!(!used.contains_key(&index));
                    while used.len() == capacity {
                        let oldest = *used.iter().min_by_key(|(_, used)| **used).map(|(index, _)| index).unwrap();
                        let freed = directory.freed();
                        prop_assert_eq!(directory.make_room(stay, freed, 1), Room::Unload(vec![name(oldest)]));
                        directory.unloaded(&name(oldest), None);
                        used.remove(&oldest);
                    }
                    directory.loaded(&name(index), stay, 0);
                    directory.leave(&name(index), stay);
                }
                found => panic!("{found:?}"),
            }
            used.insert(index, clock);
        }
    }
}
