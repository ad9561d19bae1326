//! Places in a vector that are used again, so that a simulation allocates nothing for an event.

/// Items by their place in a vector.
#[derive(Debug)]
pub(super) struct Slab<T> {
    pub(super) items: Vec<T>,
    free: Vec<u32>,
}

impl<T: Copy> Slab<T> {
    pub(super) fn new() -> Self {
        Self {
            items: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, item: T) -> u32 {
        if let Some(place) = self.free.pop() {
            self.items[place as usize] = item;
            return place;
        }
        self.items.push(item);
        (self.items.len() - 1) as u32
    }

    pub(super) fn remove(&mut self, place: u32) -> T {
        self.free.push(place);
        self.items[place as usize]
    }
}
