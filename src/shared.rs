//! One value for a key at a time: made once, shared by all who want it, gone with its last user.
//!
//! What always holds: at most one value of a key exists, or is being made, at a time; the table
//! itself keeps none alive, and forgets keys that have no value and no waiter.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// All values, by key.
#[derive(Debug)]
pub struct Shared<K, T> {
    places: Mutex<HashMap<K, Arc<tokio::sync::Mutex<Place<T>>>>>,
}

/// Where a key's value is found. Locked while the value is made, so that others wait for it rather
/// than make another.
#[derive(Debug)]
pub struct Place<T>(Weak<T>);

impl<T> Default for Place<T> {
    fn default() -> Self {
        Self(Weak::new())
    }
}

impl<T> Place<T> {
    pub fn get(&self) -> Option<Arc<T>> {
        self.0.upgrade()
    }

    pub fn set(&mut self, value: &Arc<T>) {
        self.0 = Arc::downgrade(value);
    }
}

impl<K, T> Default for Shared<K, T> {
    fn default() -> Self {
        Self {
            places: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash, T> Shared<K, T> {
    pub fn place(&self, key: K) -> Arc<tokio::sync::Mutex<Place<T>>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= 64 && places.len().is_power_of_two() {
            // A scan at each doubling: places without a value and without a waiter are forgotten.
            places.retain(|_, place| {
                Arc::strong_count(place) > 1 || place.try_lock().map_or(true, |place| place.0.strong_count() > 0)
            });
        }
        Arc::clone(places.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_without_a_value_or_a_waiter_are_forgotten() {
        let shared = Shared::<u64, ()>::default();
        let wanted = shared.place(0);
        for key in 1..10_000 {
            shared.place(key);
        }
        let places = shared.places.lock().unwrap().len();
        assert!(places <= 64, "{places}");
        // One that waits at a place and one that comes later meet at the same place.
        assert!(Arc::ptr_eq(&wanted, &shared.place(0)));
    }

    #[test]
    fn a_value_is_found_for_as_long_as_it_has_a_user() {
        let shared = Shared::<u64, u64>::default();
        let value = Arc::new(7);
        shared.place(1).try_lock().unwrap().set(&value);
        assert_eq!(shared.place(1).try_lock().unwrap().get().as_deref(), Some(&7));
        drop(value);
        assert!(shared.place(1).try_lock().unwrap().get().is_none());
    }
}
