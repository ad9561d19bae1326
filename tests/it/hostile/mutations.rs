//! Valid models with some bytes changed, as a broken disk, a broken exporter or a fuzzer changes
//! them.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use super::artifact::{Content, Hostile};
use crate::harness::{cases, fixture};
use crate::support::random::Random;

/// The models to mutate, among them trees, loops, sequences, strings, external data and ONNX
/// Runtime's own format.
const BASES: [&str; 18] = [
    "allocate",
    "any_rank",
    "columns",
    "empty_axis",
    "external",
    "identity_bfloat16",
    "identity_string",
    "int_divide",
    "iris_zipmap",
    "iris_zipmap_str",
    "mlp",
    "ort_format",
    "scalar",
    "scale",
    "sequence",
    "spin",
    "trees",
    "two_inputs",
];

/// Number of mutants of each model.
const EACH: usize = 16;

struct Base {
    name: &'static str,
    files: BTreeMap<String, Vec<u8>>,
    body: Value,
}

impl Base {
    fn read(name: &'static str) -> Self {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(fixture(name)).unwrap() {
            let entry = entry.unwrap();
            let file = entry.file_name().into_string().unwrap();
            if file != "cases.json" {
                files.insert(file, fs::read(entry.path()).unwrap());
            }
        }
        let case = cases(name).into_iter().next().unwrap();
        let inputs: BTreeMap<_, _> = case
            .inputs
            .iter()
            .map(|(name, tensor)| (name, tensor.nested()))
            .collect();
        Self {
            name,
            files,
            body: json!({"inputs": inputs}),
        }
    }

    fn model(&self) -> (&str, &[u8]) {
        let (name, bytes) = self.files.iter().find(|(name, _)| name.starts_with("model.")).unwrap();
        (name, bytes)
    }
}

pub fn all() -> Vec<Hostile> {
    let bases = BASES.map(Base::read);
    let mut mutants = Vec::new();
    for (number, base) in bases.iter().enumerate() {
        for each in 0..EACH {
            let mut random = Random::new((number * EACH + each) as u64);
            let donor = bases[random.below(bases.len())].model().1;
            let (file, model) = base.model();
            let (how, mutated) = mutate(model, donor, &mut random);
            let mut mutant = Hostile::new(format!("{} {how} {each}", base.name)).with_request(base.body.clone());
            for (name, content) in &base.files {
                let content = if name == file { &mutated } else { content };
                mutant = mutant.with(name, Content::File(content.clone()));
            }
            mutants.push(mutant);
        }
    }
    mutants
}

/// Changes `model` in one way, and returns the name of that way. Some changes copy bytes from the
/// model `donor`.
fn mutate(model: &[u8], donor: &[u8], random: &mut Random) -> (&'static str, Vec<u8>) {
    /// Byte values at which sizes and signs change.
    const EDGES: [u8; 6] = [0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff];
    let mut bytes = model.to_vec();
    let at = random.below(bytes.len());
    let length = 1 + random.below(16.min(bytes.len() - at));
    // Changes that keep the lengths of the format are the most frequent: they pass the most
    // checks.
    let how = match random.below(10) {
        0..=2 => {
            for _ in 0..1 + random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            "bits flipped"
        }
        3..=4 => {
            for _ in 0..1 + random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = EDGES[random.below(EDGES.len())];
            }
            "edges written"
        }
        5 => {
            bytes[at..at + length].fill_with(|| random.next() as u8);
            "overwritten"
        }
        6 => {
            bytes.drain(at..at + length);
            "bytes lost"
        }
        7 => {
            let from = random.below(donor.len());
            let part = &donor[from..donor.len().min(from + 8 * length)];
            bytes.splice(at..at + length, part.iter().copied());
            "spliced"
        }
        8 => {
            let copy = bytes[at..].to_vec();
            bytes.extend(copy);
            "end doubled"
        }
        _ => {
            bytes.truncate(at);
            "cut"
        }
    };
    (how, bytes)
}
