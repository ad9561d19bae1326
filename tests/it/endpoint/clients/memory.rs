//! More models than fit into memory.

use std::collections::BTreeSet;

use super::{endpoint, run};
use crate::harness::{S3, in_parallel};
use crate::support::archive::archive_of;
use crate::support::networks;

const MODELS: usize = 40;

/// The rows of each model's table, and the bytes of the table. `memory.py` starts the container
/// with memory for about eight models.
const ITEMS: usize = 1024;
const WEIGHTS: usize = 4 << 20;

/// A line of the endpoint's log about a model: an operation or its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step<'a> {
    what: &'a str,
    model: &'a str,
}

const LOAD: &str = "load";
const NO_ROOM: &str = "507: not enough memory for the model";
const UNLOAD: &str = "unload";
const RETRY: &str = "retry";
const LOADED: &str = "loaded";

impl<'a> Step<'a> {
    fn of(line: &'a str) -> Option<Self> {
        // Lines of containers begin with the container's name in brackets.
        let (_, message) = line.split_once(" INFO ").filter(|_| !line.starts_with('['))?;
        let (what, fields) = message.split_once(" container=")?;
        let (_, model) = fields.split_once(" model=")?;
        let is_known = [LOAD, NO_ROOM, UNLOAD, RETRY, LOADED].contains(&what);
        is_known.then_some(Self { what, model })
    }
}

/// Whether the load that begins at `start` succeeded on a retry, after an unload of other models.
fn made_room(steps: &[Step<'_>], start: usize) -> bool {
    let model = steps[start].model;
    let (mut expected, mut unloaded) = ([NO_ROOM, RETRY].iter().cycle().peekable(), 0);
    for step in &steps[start + 1..] {
        if step.model != model {
            unloaded += usize::from(step.what == UNLOAD && expected.peek() == Some(&&RETRY));
        } else if step.what == LOADED {
            return unloaded > 0 && expected.peek() == Some(&&NO_ROOM);
        } else if expected.next() != Some(&step.what) {
            return false;
        }
    }
    false
}

#[test]
fn forty_models_are_served_with_memory_for_eight_and_the_log_shows_each_step() {
    let bucket = S3::start().bucket();
    let numbers: Vec<usize> = (0..MODELS).collect();
    in_parallel(2, &numbers, |&number| {
        let model = networks::lookup(ITEMS, WEIGHTS / 4 / ITEMS, (number * ITEMS) as f32);
        bucket.put(&format!("models/s{number:02}.tar.gz"), &archive_of(&model));
    });
    let server = endpoint().start();
    let url = format!("{}/models/", bucket.url());
    run(&server, "memory.py", &[url, MODELS.to_string(), ITEMS.to_string()]);

    let log = server.log();
    let steps: Vec<Step<'_>> = log.iter().filter_map(|line| Step::of(line)).collect();
    let loads = (0..steps.len()).filter(|&at| steps[at].what == LOAD);
    let retried = loads.filter(|&at| made_room(&steps, at)).count();
    println!("{retried} loads in the order load, 507, unload of another, retry, loaded");
    assert!(
        retried > MODELS,
        "only {retried} loads were retried: the memory limit has no effect"
    );

    let (mut loaded, mut most) = (BTreeSet::new(), 0);
    for step in &steps {
        match step.what {
            LOADED => _ = loaded.insert(step.model),
            UNLOAD => _ = loaded.remove(step.model),
            _ => {}
        }
        most = most.max(loaded.len());
    }
    assert!(
        (4..=14).contains(&most),
        "{most} were loaded at once: the memory limit is wrong"
    );
}
