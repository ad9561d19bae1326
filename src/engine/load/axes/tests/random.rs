//! Runs random graphs with ONNX Runtime. If the analysis proves that a graph keeps records apart,
//! a batch must give the same outputs as each record alone.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

mod graph;
#[path = "../../../../../tests/support/onnx.rs"]
#[allow(dead_code, reason = "the contract tests use the rest")]
mod onnx;
#[path = "../../../../../tests/support/protobuf.rs"]
#[allow(dead_code, reason = "the contract tests use the rest")]
mod protobuf;

use graph::{Step, model, steps};

use crate::engine::load::axes::{OutputAxis, analyse};
use crate::engine::onnxruntime::runtime;
use crate::engine::onnxruntime::session::{Cancel, Session};
use crate::tensor::{Tensor, Value};

fn row(seed: u64) -> Vec<f32> {
    let scale = [1.0, 1000.0, 0.001][(seed % 3) as usize];
    (0..12u64)
        .map(|index| ((seed * 131 + index * 7919) % 1009) as f32 / 504.0 - 1.0)
        .map(|value| value * scale)
        .collect()
}

fn floats(value: &Value) -> (Vec<usize>, Vec<f32>) {
    let Value::Tensor(tensor) = value else {
        panic!("{value:?}")
    };
    (tensor.shape().to_vec(), tensor.as_slice::<f32>().unwrap().to_vec())
}

fn near(one: &[f32], other: &[f32]) -> bool {
    let largest = other
        .iter()
        .filter(|value| value.is_finite())
        .fold(0f32, |largest, value| largest.max(value.abs()));
    let near = |(one, other): (&f32, &f32)| {
        one == other || (one - other).abs() <= 1e-4 * largest || !(one.is_finite() && other.is_finite())
    };
    one.len() == other.len() && one.iter().zip(other).all(near)
}

#[test]
fn graphs_that_are_proven_to_keep_records_apart_give_the_same_outputs_in_batches() {
    let (environment, _) = runtime::start(&runtime::Libraries::default(), 1, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let (proven, mixed) = (Cell::new(0), Cell::new(0));
    let config = Config {
        failure_persistence: None,
        cases: std::env::var("PROPTEST_CASES")
            .ok()
            .and_then(|cases| cases.parse().ok())
            .unwrap_or(600),
        ..Config::default()
    };
    let check = |steps: Vec<Step>| {
        let bytes = model(&steps);
        std::fs::write(&path, &bytes).unwrap();
        let axis = analyse(&path).axes.outputs[0].1.clone();
        let Ok(session) = Session::open_bytes(&environment, &bytes, bytes.len() as u64) else {
            return Ok(());
        };
        let cancel = Cancel::new().unwrap();
        let run = |seeds: &[u64]| {
            let data: Vec<f32> = seeds.iter().flat_map(|&seed| row(seed)).collect();
            let input = Tensor::from_vec(vec![seeds.len(), 3, 4], data).unwrap();
            session
                .run(&[input], None, &cancel)
                .ok()
                .map(|outputs| floats(&outputs[0]))
        };
        let batches: [&[u64]; 4] = [&[3, 4, 5], &[5, 3], &[6, 7, 8, 3, 3], &[4]];
        match axis {
            OutputAxis::Records => proven.set(proven.get() + 1),
            OutputAxis::Mixed(_) => mixed.set(mixed.get() + 1),
            OutputAxis::Elsewhere | OutputAxis::Whole => {}
        }
        for batch in batches {
            let alone: Option<Vec<_>> = batch.iter().map(|&seed| run(&[seed])).collect();
            // Requests to a model that fails on single rows fail in any case.
            let (Some(alone), Some((shape, together))) = (alone, run(batch)) else {
                continue;
            };
            match &axis {
                OutputAxis::Records => {
                    prop_assert_eq!(shape.first(), Some(&batch.len()), "{:?}", shape);
                    let expected: Vec<f32> = alone.iter().flat_map(|(_, values)| values.clone()).collect();
                    let each = expected.len() / batch.len();
                    for (index, (_, alone)) in alone.iter().enumerate() {
                        let part = together.get(index * each..(index + 1) * each).unwrap_or_default();
                        prop_assert!(near(part, alone), "{:?} {:?}", part, alone);
                    }
                }
                OutputAxis::Whole => {
                    for alone in &alone {
                        prop_assert_eq!(alone, &(shape.clone(), together.clone()));
                    }
                }
                OutputAxis::Elsewhere | OutputAxis::Mixed(_) => {}
            }
        }
        Ok(())
    };
    // The same graphs every time: a graph that makes ONNX Runtime end the process would end the
    // tests.
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, random).run(&steps(), check).unwrap();
    // The generator must produce both kinds.
    let (proven, mixed) = (proven.get(), mixed.get());
    println!("{proven} proven, {mixed} mixed");
    assert!(proven > 100 && mixed > 50, "{proven} proven, {mixed} mixed");
}
