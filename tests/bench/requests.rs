//! Compares serving with the bare model: requests per second, latency, and the server's CPU time
//! per request, against the same model in a loop in this process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use longshore::engine::{ArtifactPath, Engine, EngineConfig, LIBRARY_VARIABLE, Libraries, StuckLimits};
use longshore::telemetry::recorder::Recorder;
use longshore::tensor::Tensor;

use crate::server::{Models, Server};
use crate::support::networks;
use crate::table::{head, ratio, row, time};
use crate::{bodies, process};

/// The duration of the measurement of each row.
const MEASURE: Duration = Duration::from_secs(3);
/// The width of the model's input.
const FEATURES: usize = 32;

pub fn run() {
    let models = Models::new();
    let model = models.write("mlp", &networks::mlp(&[FEATURES, 64, 8], 1));
    let engine = Engine::start(&EngineConfig {
        libraries: Libraries {
            onnxruntime: std::env::var_os(LIBRARY_VARIABLE).map(Into::into),
            ..Libraries::default()
        },
        gpu: None,
        threads: 1,
        load_threads: 1,
        queue: 1,
        memory: None,
        memory_reserve: 0,
        mapped_percent: 100,
        load_patience: Duration::from_secs(5),
        http_threads: 1,
        prepare: None,
        workplace: models.work(),
        bad_model_ttl: Duration::ZERO,
        stuck: StuckLimits {
            after: Duration::from_secs(1),
            most: 1,
        },
        manifest: None,
        max_batch: 1,
        recorder: Arc::new(Recorder::new(false)),
    })
    .expect("start the engine");
    let bare: Vec<(usize, Duration)> = [1, 32]
        .into_iter()
        .map(|rows| (rows, bare_run(&engine, &model, rows)))
        .collect();
    let server = Server::start(&models, &[]);
    server.load("mlp", &model);

    println!(
        "Model: {FEATURES}-64-8 perceptron, 11 KB. CPU time is the server's, per request. The bare run is ONNX Runtime \
         in a loop, on one thread.\n"
    );
    head(&[
        "request",
        "connections",
        "requests/s",
        "p50",
        "p99",
        "server CPU",
        "over /ping",
        "bare run",
        "CPU over bare",
    ]);
    let mut ping = [Duration::ZERO; 2];
    let mut measure = |what: &str, request: Vec<u8>, bare: Option<Duration>| {
        eprintln!("  {what}");
        for (connections, ping) in [1, 16].into_iter().zip(&mut ping) {
            let measured = server.measure(std::slice::from_ref(&request), connections, MEASURE);
            let cpu = measured.cpu_each();
            let (bare, over_bare) = match bare {
                None => {
                    *ping = cpu;
                    Default::default()
                }
                Some(bare) => (time(bare), ratio(cpu.as_secs_f64(), bare.as_secs_f64())),
            };
            row(&[
                &what,
                &connections,
                &format!("{:.0}", measured.per_second()),
                &time(measured.percentile(50)),
                &time(measured.percentile(99)),
                &time(cpu),
                &time(cpu.saturating_sub(*ping)),
                &bare,
                &over_bare,
            ]);
        }
    };
    measure("`GET /ping`, no model", bodies::bare("GET", "/ping"), None);
    for (rows, bare) in bare {
        let what = if rows == 1 { "1 row" } else { "32 rows" };
        measure(
            &format!("JSON, {what}"),
            bodies::json("mlp", rows, FEATURES),
            Some(bare),
        );
        measure(
            &format!("npy, {what}"),
            bodies::npy("mlp", &[rows, FEATURES]),
            Some(bare),
        );
    }
}

/// The CPU time of one run of the model, on one thread.
fn bare_run(engine: &Engine, model: &Path, rows: usize) -> Duration {
    const RUNS: u32 = 50_000;
    let model = actix_web::rt::System::new().block_on(async {
        engine
            .load(&ArtifactPath::trusted(model))
            .await
            .expect("load the model")
    });
    let values = vec![0.5f32; rows * FEATURES];
    let inputs = [Tensor::from_vec(vec![rows, FEATURES], values).expect("a tensor")];
    let run = || model.run(&inputs, None).expect("run");
    for _ in 0..RUNS / 10 {
        run();
    }
    let before = process::thread_cpu();
    for _ in 0..RUNS {
        run();
    }
    (process::thread_cpu() - before) / RUNS
}
