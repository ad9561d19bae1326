//! The order in which the models of a server were used.
//!
//! A doubly linked list in one vector: each operation takes constant time and allocates nothing.
//! A model that is not in the list has zeros, so that the memory of models which never reach a
//! server stays untouched.

/// Code of a link that does not exist: its model is not in the list.
const ABSENT: u32 = 0;

/// Code of the list's end, which links its oldest and its newest model.
const END: u32 = 1;

/// Code of the first model.
const FIRST: u32 = 2;

#[derive(Debug, Clone, Copy)]
struct Link {
    older: u32,
    newer: u32,
}

/// Models from the least to the most recently used.
#[derive(Debug)]
pub struct Recency {
    older: Vec<u32>,
    newer: Vec<u32>,
    count: usize,
}

impl Recency {
    /// An empty list for models below `models`.
    pub fn new(models: usize) -> Self {
        let mut list = Self {
            older: vec![0; models + FIRST as usize],
            newer: vec![0; models + FIRST as usize],
            count: 0,
        };
        list.set(END, Link { older: END, newer: END });
        list
    }

    fn set(&mut self, code: u32, link: Link) {
        self.older[code as usize] = link.older;
        self.newer[code as usize] = link.newer;
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn contains(&self, model: u32) -> bool {
        self.newer[(model + FIRST) as usize] != ABSENT
    }

    /// Makes `model` the newest.
    pub fn touch(&mut self, model: u32) {
        self.remove(model);
        let code = model + FIRST;
        let newest = self.older[END as usize];
        self.set(
            code,
            Link {
                older: newest,
                newer: END,
            },
        );
        self.newer[newest as usize] = code;
        self.older[END as usize] = code;
        self.count += 1;
    }

    /// Returns whether the model was in the list.
    pub fn remove(&mut self, model: u32) -> bool {
        let code = model + FIRST;
        let (older, newer) = (self.older[code as usize], self.newer[code as usize]);
        if newer == ABSENT {
            return false;
        }
        self.newer[older as usize] = newer;
        self.older[newer as usize] = older;
        self.set(
            code,
            Link {
                older: ABSENT,
                newer: ABSENT,
            },
        );
        self.count -= 1;
        true
    }

    pub fn oldest(&self) -> Option<u32> {
        self.newer[END as usize].checked_sub(FIRST)
    }

    /// The model that was used next after `model`, which is in the list.
    pub fn after(&self, model: u32) -> Option<u32> {
        self.newer[(model + FIRST) as usize].checked_sub(FIRST)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(list: &Recency) -> Vec<u32> {
        std::iter::successors(list.oldest(), |&model| list.after(model)).collect()
    }

    proptest! {
        #[test]
        fn the_list_equals_a_vector_that_is_searched(steps in prop::collection::vec((any::<bool>(), 0u32..12), 0..200)) {
            let (mut list, mut naive) = (Recency::new(12), Vec::new());
            for (is_used, model) in steps {
                let was_there = naive.contains(&model);
                naive.retain(|other| *other != model);
                if is_used {
                    list.touch(model);
                    naive.push(model);
                } else {
                    prop_assert_eq!(list.remove(model), was_there);
                }
                prop_assert_eq!(order(&list), naive.clone());
                prop_assert_eq!(list.len(), naive.len());
                prop_assert!((0..12).all(|model| list.contains(model) == naive.contains(&model)));
            }
        }
    }
}
