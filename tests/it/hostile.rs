//! Hostile models: no model ends the server, delays other models, or reads foreign files, whatever
//! its content (PI-4, MM-18).
//!
//! This program writes the corpus: good models with changed bytes, and models made by hand for
//! each known or conceivable failure of ONNX Runtime or of a server around it. One server loads,
//! invokes and unloads each of them, while a control model has to keep answering.
//!
//! `HOSTILE="loop;weights"` tries only the models with one of these words in their names,
//! `HOSTILE="-loop"` all except those.

mod artifact;
mod bombs;
mod external;
mod files;
mod graphs;
mod mutations;
mod operators;
pub mod watch;

use std::env;
use std::path::Path;
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use crate::harness::{Builder, Request, Response, Server, eventually, try_send};
use crate::support::random::Random;
use artifact::{Expected, Hostile};
use watch::Watch;

/// Number of artifacts that are tried in parallel.
const AT_ONCE: usize = 8;

/// Number of problems that are printed. If the server dies, all later artifacts are problems.
const SHOWN: usize = 20;

/// Content of the secret file, which no model may read, as four floats.
const SECRET: [f32; 4] = [31415.5, 27182.25, 16180.125, 14142.0625];

#[test]
fn no_hostile_artifact_ends_the_server_or_reads_foreign_files() {
    let server = Builder::multi()
        .with_caught_panics()
        .arguments(["--memory-limit", "512MiB", "--request-timeout", "4s"])
        .environment("LONGSHORE_PREPARE_TIMEOUT", "5s")
        .start();
    // The path `../..` of an artifact leads here.
    let secret = server.models().path("secret.bin");
    std::fs::write(&secret, SECRET.map(f32::to_le_bytes).concat()).unwrap();
    let corpus = corpus(&secret);
    let control = server.models().place_scale("control", 2.0);
    server.load("control", &control).expect(200);
    let process = server.process();
    let watch = Watch::on(&secret);

    let (next, turns) = (AtomicUsize::new(0), RwLock::new(()));
    let work = || {
        let mut problems = Vec::new();
        while let Some((number, hostile)) = corpus.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(problem) = attempt(&server, *number, hostile, &turns) {
                problems.push(format!("{}: {problem}", hostile.name));
            }
        }
        problems
    };
    let problems = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert!(
        problems.is_empty(),
        "{} of {}:\n{}",
        problems.len(),
        corpus.len(),
        problems[..problems.len().min(SHOWN)].join("\n")
    );

    watch.assert_unopened(&secret);
    server.assert_scales("control", 2.0);
    assert_eq!(server.list("")["models"].as_array().unwrap().len(), 1);
    server.unload("control").expect(200);
    server.wait_for_running(0);
    assert_eq!(server.reserved(), 0);
    assert_eq!(server.process(), process);
    assert_eq!(server.metric("longshore_worker_restarts_total"), 0);
    assert!(!process.maps_files_below(server.models().root()));
    eventually("no file of an artifact is open", || {
        !process.opens_files_below(server.models().root())
    });
}

#[test]
fn the_corpus_is_large_and_its_names_are_unique() {
    let corpus = everything(Path::new("/models/secret.bin"));
    assert!(corpus.len() >= 300, "{}", corpus.len());
    let mut names: Vec<&str> = corpus.iter().map(|hostile| &*hostile.name).collect();
    names.sort_unstable();
    for pair in names.windows(2) {
        assert_ne!(pair[0], pair[1]);
    }
}

fn everything(secret: &Path) -> Vec<Hostile> {
    [
        bombs::all(),
        external::all(secret),
        files::all(secret),
        graphs::all(),
        mutations::all(),
        operators::all(),
    ]
    .concat()
}

/// Returns the chosen artifacts with numbers, shuffled so that slow and fast ones mix.
fn corpus(secret: &Path) -> Vec<(usize, Hostile)> {
    let wanted = env::var("HOSTILE").unwrap_or_default();
    let words: Vec<&str> = wanted.split(';').filter(|word| !word.is_empty()).collect();
    let (without, with): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.starts_with('-'));
    let mut corpus: Vec<_> = everything(secret)
        .into_iter()
        .filter(|hostile| with.is_empty() || with.iter().any(|word| hostile.name.contains(word)))
        .filter(|hostile| !without.iter().any(|word| hostile.name.contains(&word[1..])))
        .enumerate()
        .collect();
    let mut random = Random::new(0);
    for last in (1..corpus.len()).rev() {
        corpus.swap(last, random.below(last + 1));
    }
    corpus
}

/// Loads, invokes and unloads one artifact, and then checks the server. The error describes the
/// first problem.
///
/// An artifact that does not fit next to the others is tried once more, as the platform does
/// (MM-18), after these have ended, so that only the artifact itself can be the cause.
fn attempt(server: &Server, number: usize, hostile: &Hostile, turns: &RwLock<()>) -> Result<(), String> {
    let name = format!("hostile{number}");
    let folder = server.models().path(&name).join("model");
    hostile.write(&folder);
    let url = folder.display().to_string();
    let load = Request::post("/models").json(&json!({"model_name": name, "url": url}));
    let mut among_others = Some(turns.read().unwrap());
    let mut alone = None;
    let mut loaded = send(server, &load)?;
    if loaded.status == 507 && matches!(hostile.expected, Expected::Refused(_) | Expected::Serves) {
        drop(among_others.take());
        alone = Some(turns.write().unwrap());
        loaded = send(server, &load)?;
    }
    judge_load(hostile, &name, &loaded)?;
    if loaded.status == 200 {
        let answer = send(server, &Server::invocation(&name).json(&hostile.body))?;
        judge_answer(hostile, &answer)?;
        let unloaded = send(server, &Request::delete(format!("/models/{name}")))?;
        expect(&unloaded, unloaded.status == 200, "the unload failed")?;
    }
    drop((among_others, alone));
    let ping = send(server, &Request::get("/ping"))?;
    expect(&ping, ping.status == 200, "the server is not healthy")?;
    let control = send(
        server,
        &Server::invocation("control").json(&json!({"instances": [4, -0.5]})),
    )?;
    let right = control.status == 200 && control.json() == json!({"predictions": [8.0, -1.0]});
    expect(&control, right, "the control model does not answer")
}

fn judge_load(hostile: &Hostile, name: &str, loaded: &Response) -> Result<(), String> {
    let right = match hostile.expected {
        Expected::Refused(_) => loaded.status == 400,
        Expected::Serves => loaded.status == 200,
        Expected::Endless | Expected::RequestRefused | Expected::Harmless => [200, 400, 507].contains(&loaded.status),
    };
    expect(loaded, right, "the load has an unexpected status")?;
    if loaded.status == 200 {
        return Ok(());
    }
    let message = loaded.message();
    // The platform shows the message without the request.
    expect(loaded, message.contains(name), "the refusal does not name the model")?;
    // On a busy machine the preparation may time out before it finds the reason.
    if message.contains("--prepare-timeout") {
        return Ok(());
    }
    if let Expected::Refused(words) = hostile.expected {
        let missing = words.iter().find(|word| !message.contains(*word));
        expect(
            loaded,
            missing.is_none(),
            &format!("the refusal does not say {missing:?}"),
        )?;
    }
    let reason = message
        .rsplit_once("ONNX Runtime refuses the model:")
        .map_or(&*message, |(_, reason)| reason);
    expect(loaded, reason.trim().len() > 12, "the refusal does not give a reason")
}

fn judge_answer(hostile: &Hostile, answer: &Response) -> Result<(), String> {
    let right = match hostile.expected {
        Expected::Endless => answer.status == 504,
        Expected::Serves => [200, 400, 507].contains(&answer.status),
        Expected::Harmless => [200, 400, 406, 500, 504, 507].contains(&answer.status),
        Expected::RequestRefused => [400, 507].contains(&answer.status),
        Expected::Refused(_) => false,
    };
    expect(answer, right, "the response has an unexpected status")?;
    let text = answer.text();
    let is_leaked = SECRET.iter().any(|number| text.contains(&number.to_string()));
    expect(answer, !is_leaked, "the response contains the secret")
}

fn send(server: &Server, request: &Request) -> Result<Response, String> {
    try_send(server.address(), request).map_err(|error| format!("no response: {error}"))
}

fn expect(response: &Response, right: bool, otherwise: &str) -> Result<(), String> {
    if right {
        return Ok(());
    }
    Err(format!("{otherwise}: {} {}", response.status, response.text()))
}
