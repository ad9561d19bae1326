//! Values shared by key: each is created once, shared by all its users, and dropped with the last.
//!
//! Invariants: at most one value of a key exists or is being created. The table keeps no value
//! alive, and forgets keys without a value and without a waiting task.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The values by key.
#[derive(Debug)]
pub struct SharedMap<K, T> {
    slots: Mutex<HashMap<K, Arc<tokio::sync::Mutex<SharedSlot<T>>>>>,
}

/// The slot of a key's value. Locked while the value is created, so that others wait for it rather
/// than create a second one.
#[derive(Debug)]
pub struct SharedSlot<T>(Weak<T>);

impl<T> Default for SharedSlot<T> {
    fn default() -> Self {
        Self(Weak::new())
    }
}

impl<T> SharedSlot<T> {
    pub fn get(&self) -> Option<Arc<T>> {
        self.0.upgrade()
    }

    pub fn set(&mut self, value: &Arc<T>) {
        self.0 = Arc::downgrade(value);
    }
}

impl<K, T> Default for SharedMap<K, T> {
    fn default() -> Self {
        Self {
            slots: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash, T> SharedMap<K, T> {
    pub fn slot(&self, key: K) -> Arc<tokio::sync::Mutex<SharedSlot<T>>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= 64 && slots.len().is_power_of_two() {
            // At each doubling, slots without a value and without a waiting task are removed.
            slots.retain(|_, slot| {
                Arc::strong_count(slot) > 1 || slot.try_lock().map_or(true, |slot| slot.0.strong_count() > 0)
            });
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_without_a_value_or_a_waiting_task_are_forgotten() {
        let shared = SharedMap::<u64, ()>::default();
        let wanted = shared.slot(0);
        for key in 1..10_000 {
            shared.slot(key);
        }
        let slots = shared.slots.lock().unwrap().len();
        assert!(slots <= 64, "{slots}");
        // A waiting task and a later one get the same slot.
        assert!(Arc::ptr_eq(&wanted, &shared.slot(0)));
    }

    #[test]
    fn a_value_is_found_as_long_as_it_has_a_user() {
        let shared = SharedMap::<u64, u64>::default();
        let value = Arc::new(7);
        shared.slot(1).try_lock().unwrap().set(&value);
        assert_eq!(shared.slot(1).try_lock().unwrap().get().as_deref(), Some(&7));
        drop(value);
        assert!(shared.slot(1).try_lock().unwrap().get().is_none());
    }
}
