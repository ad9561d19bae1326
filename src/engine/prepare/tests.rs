use std::cell::Cell;
use std::fs;
use std::process::Command;
use std::sync::LazyLock;

use tempfile::TempDir;

use super::home::Home;
use super::protocol::Report;
use super::*;
use crate::engine::axes::Axes;

const LONG: Duration = Duration::from_secs(60);

/// Where the files of jobs and the folders of children lie.
static PLACE: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

/// A job with files of its own.
fn job() -> Job {
    let folder = TempDir::new_in(PLACE.path()).unwrap().keep();
    let (model, prepared) = (folder.join("m.onnx"), folder.with_extension("new"));
    fs::write(&model, "").unwrap();
    fs::write(&prepared, "").unwrap();
    Job {
        model,
        weights: 1,
        is_ort_format: false,
        prepared: Some(prepared),
        memory: 1,
        widened: 0,
        fold: true,
        most: 1,
        probe: true,
    }
}

fn findings() -> Findings {
    Findings {
        prepared: true,
        private: 1,
        mapped: 0,
        load_peak: 2,
        run_peak: None,
        axes: Axes::unknown("a test"),
        independent_rows: Some(true),
        rows: Vec::new(),
    }
}

fn line(report: &Report) -> String {
    serde_json::to_string(report).unwrap()
}

/// A child that does as `script` says; `$DONE` is the report of success.
fn child(script: &str) -> Process {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script])
        .env("STARTED", line(&Report::Started))
        .env("LOADED", line(&Report::Loaded))
        .env("DONE", line(&Report::Done(findings())))
        .env("NO_MEMORY", line(&Report::OutOfMemory));
    Process::spawn(&mut shell, Home::new(PLACE.path()).unwrap()).unwrap()
}

const GOOD: &str = r#"while read job; do echo "$STARTED"; echo "$LOADED"; echo "$DONE"; done"#;

/// What comes of a job when the first child, which is new, and the ones after it do as they are told; and whether one is
/// left for the next job.
fn outcome(scripts: &[&str], timeout: Duration) -> (Result<Findings, String>, usize, bool) {
    let (started, mut left) = (Cell::new(0), None);
    let start = || {
        started.set(started.get() + 1);
        Ok(child(scripts[started.get() - 1]))
    };
    let result = prepare(&mut left, &job(), timeout, start);
    (result.map_err(|error| error.to_string()), started.get(), left.is_some())
}

#[test]
fn a_child_that_says_what_it_found_is_used_again() {
    let mut kept = None;
    for _ in 0..3 {
        let start = || Ok(child(GOOD));
        assert_eq!(prepare(&mut kept, &job(), LONG, start).unwrap(), findings());
        let id = kept.as_ref().unwrap().child.id();
        prepare(&mut kept, &job(), LONG, || panic!("there is one")).unwrap();
        assert_eq!(kept.as_ref().unwrap().child.id(), id);
    }
}

#[test]
fn reports_may_come_in_pieces_and_together() {
    let script = r#"read job; printf "%.5s" "$STARTED"; sleep 0.05; printf "%s\n" "${STARTED#?????}"
        printf "%s\n%s\n" "$LOADED" "$DONE"; read more"#;
    assert_eq!(outcome(&[script], LONG), (Ok(findings()), 1, true));
}

#[test]
fn what_a_new_child_dies_of_is_the_models_fault_once_it_has_begun() {
    let table = [
        (
            r#"read job; echo "$STARTED"; kill -SEGV $$"#,
            "loading the model ends ONNX Runtime with signal: 11",
        ),
        (
            r#"read job; echo "$STARTED"; echo "$LOADED"; kill -ABRT $$"#,
            "running the model ends ONNX Runtime with signal: 6",
        ),
        (
            r#"read job; echo "$STARTED"; exit 3"#,
            "loading the model ends ONNX Runtime with exit status: 3",
        ),
        (
            r#"read job; echo "$STARTED"; echo nonsense; read more"#,
            "loading the model ends ONNX Runtime with an answer without sense",
        ),
        (
            r#"read job; echo "$STARTED"; head -c 5000000 /dev/zero; read more"#,
            "loading the model ends ONNX Runtime with an answer without sense",
        ),
        (
            r#"read job; echo "$STARTED"; echo "$NO_MEMORY"; read more"#,
            "there was no memory left to load the model",
        ),
        ("exit 1", "no process to prepare models in could be started"),
        ("read job; exit 1", "no process to prepare models in could be started"),
    ];
    for (script, expected) in table {
        let (result, started, left) = outcome(&[script], LONG);
        let reason = result.unwrap_err();
        assert!(reason.starts_with(expected), "{script}: {reason}");
        assert_eq!((started, left), (1, false), "{script}");
    }
}

#[test]
fn what_goes_wrong_in_a_child_that_has_seen_another_model_is_tried_again_in_a_new_one() {
    for script in [
        r#"read job; echo "$STARTED"; kill -SEGV $$"#,
        r#"read job; echo "$STARTED"; echo "$NO_MEMORY"; read more"#,
        r#"read job; echo nonsense; read more"#,
        "exit 1",
    ] {
        let mut used = Some(child(script));
        let result = prepare(&mut used, &job(), LONG, || Ok(child(GOOD)));
        assert_eq!(result.unwrap(), findings(), "{script}");
        assert!(used.is_some());
    }
}

#[test]
fn a_load_without_end_is_ended_and_a_run_without_end_only_means_that_less_is_known() {
    let short = Duration::from_millis(300);
    let forever = r#"read job; echo "$STARTED"; exec sleep 1000"#;
    let (result, started, left) = outcome(&[forever], short);
    assert!(result.unwrap_err().contains("--prepare-timeout"));
    assert_eq!((started, left), (1, false));

    let runs = r#"read job; echo "$STARTED"; echo "$LOADED"; exec sleep 1000"#;
    let not_asked = r#"read job; case "$job" in *'"probe":false'*) echo "$DONE";; esac; read more"#;
    let started = Cell::new(0);
    let start = || {
        started.set(started.get() + 1);
        Ok(child(if started.get() == 1 { runs } else { not_asked }))
    };
    // Long enough for a shell to start on a busy machine.
    let result = prepare(&mut None, &job(), Duration::from_secs(3), start);
    assert_eq!((result.unwrap(), started.get()), (findings(), 2));
}

#[test]
fn a_model_whose_prepared_form_is_too_large_is_left_unfolded_or_has_none() {
    let too_large = r#"read job; echo "$STARTED"; kill -XFSZ $$"#;
    let unfolded = r#"read job; case "$job" in *'"fold":false'*) echo "$DONE";; esac; read more"#;
    assert_eq!(outcome(&[too_large, unfolded], LONG), (Ok(findings()), 2, true));
    let not_written = r#"read job; case "$job" in *'"prepared":null'*) echo "$DONE";; esac; read more"#;
    let scripts = [too_large, too_large, not_written];
    assert_eq!(outcome(&scripts, LONG), (Ok(findings()), 3, true));
}

#[test]
fn a_child_that_the_system_kills_says_nothing_of_the_model() {
    let killed = r#"read job; echo "$STARTED"; kill -KILL $$"#;
    assert_eq!(outcome(&[killed, GOOD], LONG), (Ok(findings()), 2, true));
    let (result, started, left) = outcome(&[killed, killed], LONG);
    assert!(result.unwrap_err().contains("memory is short"));
    assert_eq!((started, left), (2, false));
}

#[test]
fn a_job_that_needs_more_than_the_first_one_of_a_child_gets_another_child() {
    let mut kept = Some(child(GOOD));
    let small = job();
    prepare(&mut kept, &small, LONG, || panic!("there is one")).unwrap();
    let first = kept.as_ref().unwrap().child.id();
    for (most, weights, is_another) in [(1, 1, false), (2, 1, true), (2, 1, false), (1, 2, true), (1, 1, false)] {
        let larger = Job {
            most,
            weights,
            ..small.clone()
        };
        let before = kept.as_ref().unwrap().child.id();
        prepare(&mut kept, &larger, LONG, || Ok(child(GOOD))).unwrap();
        assert_eq!(
            kept.as_ref().unwrap().child.id() != before,
            is_another,
            "{most} {weights}"
        );
    }
    assert_ne!(kept.unwrap().child.id(), first);
}

#[test]
fn a_job_has_its_files_again_however_its_child_ends() {
    for script in [
        GOOD,
        r#"read job; echo "$STARTED"; kill -SEGV $$"#,
        r#"read job; echo "$STARTED"; exec sleep 1000"#,
        "exit 1",
    ] {
        let job = job();
        let _ = prepare(&mut None, &job, Duration::from_secs(1), || Ok(child(script)));
        assert!(job.model.exists() && job.prepared.unwrap().exists(), "{script}");
    }
}

#[test]
fn a_child_does_not_outlive_its_owner() {
    let child = child(GOOD);
    let process = format!("/proc/{}", child.child.id());
    assert!(Path::new(&process).exists());
    drop(child);
    assert!(!Path::new(&process).exists());
}
