use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use tempfile::TempDir;

use super::home::ChildFolder;
use super::protocol::ChildReport;
use super::*;
use crate::engine::load::axes::Axes;

const LONG: Duration = Duration::from_secs(60);

/// Folder of the jobs' files and of the children's folders.
static PLACE: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

/// Creates a job with its own files.
fn job() -> PrepareJob {
    let folder = TempDir::new_in(PLACE.path()).unwrap().keep();
    let (model, prepared) = (folder.join("m.onnx"), folder.with_extension("new"));
    fs::write(&model, "").unwrap();
    fs::write(&prepared, "").unwrap();
    PrepareJob {
        model,
        weights: 1,
        is_ort_format: false,
        prepared: Some(prepared),
        constants: None,
        large: 0,
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
        constants: None,
        copies: 0,
        private: 1,
        growth: 0,
        mapped: 0,
        load_peak: 2,
        run_peak: None,
        axes: Axes::unknown("a test"),
        independent_rows: Some(true),
        rows: Vec::new(),
    }
}

fn line(report: &ChildReport) -> String {
    serde_json::to_string(report).unwrap()
}

/// Starts a child that runs `script`; `$DONE` is the report of success.
fn child(script: &str) -> ChildProcess {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script])
        .env("STARTED", line(&ChildReport::Started))
        .env("LOADED", line(&ChildReport::Loaded))
        .env("DONE", line(&ChildReport::Done(findings())))
        .env("NO_MEMORY", line(&ChildReport::OutOfMemory));
    ChildProcess::spawn(&mut shell, ChildFolder::new(PLACE.path()).unwrap()).unwrap()
}

const GOOD: &str = r#"while read job; do echo "$STARTED"; echo "$LOADED"; echo "$DONE"; done"#;

/// Runs a job with children that run these scripts, the first one first. Returns the result, the
/// number of children, and whether one is left for the next job.
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
fn a_child_is_reused_after_a_success() {
    let mut kept = None;
    for _ in 0..3 {
        let start = || Ok(child(GOOD));
        assert_eq!(prepare(&mut kept, &job(), LONG, start).unwrap(), findings());
        let id = kept.as_ref().unwrap().child.id();
        prepare(&mut kept, &job(), LONG, || panic!("the child is reused")).unwrap();
        assert_eq!(kept.as_ref().unwrap().child.id(), id);
    }
}

#[test]
fn reports_may_arrive_in_pieces_or_together() {
    let script = r#"read job; printf "%.5s" "$STARTED"; sleep 0.05; printf "%s\n" "${STARTED#?????}"
        printf "%s\n%s\n" "$LOADED" "$DONE"; read more"#;
    assert_eq!(outcome(&[script], LONG), (Ok(findings()), 1, true));
}

#[test]
fn a_failure_of_a_new_child_is_the_models_fault_once_the_job_has_started() {
    let table = [
        (
            r#"read job; echo "$STARTED"; kill -SEGV $$"#,
            "loading the model crashed ONNX Runtime with signal: 11",
        ),
        (
            r#"read job; echo "$STARTED"; echo "$LOADED"; kill -ABRT $$"#,
            "running the model crashed ONNX Runtime with signal: 6",
        ),
        (
            r#"read job; echo "$STARTED"; exit 3"#,
            "loading the model crashed ONNX Runtime with exit status: 3",
        ),
        (
            r#"read job; echo "$STARTED"; echo nonsense; read more"#,
            "loading the model crashed ONNX Runtime with an invalid report",
        ),
        (
            r#"read job; echo "$STARTED"; head -c 5000000 /dev/zero; read more"#,
            "loading the model crashed ONNX Runtime with an invalid report",
        ),
        (
            r#"read job; echo "$STARTED"; echo "$NO_MEMORY"; read more"#,
            "there was no memory left to load the model",
        ),
        ("exit 1", "failed to start a process that prepares models"),
        ("read job; exit 1", "failed to start a process that prepares models"),
    ];
    for (script, expected) in table {
        let (result, started, left) = outcome(&[script], LONG);
        let reason = result.unwrap_err();
        assert!(reason.starts_with(expected), "{script}: {reason}");
        assert_eq!((started, left), (1, false), "{script}");
    }
}

#[test]
fn a_failure_of_a_used_child_is_retried_in_a_new_one() {
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
fn a_load_is_ended_at_its_deadline_and_a_run_that_exceeds_it_is_skipped() {
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
fn a_model_whose_prepared_form_is_too_large_is_not_folded_or_has_no_form() {
    let too_large = r#"read job; echo "$STARTED"; kill -XFSZ $$"#;
    let unfolded = r#"read job; case "$job" in *'"fold":false'*) echo "$DONE";; esac; read more"#;
    assert_eq!(outcome(&[too_large, unfolded], LONG), (Ok(findings()), 2, true));
    let not_written = r#"read job; case "$job" in *'"prepared":null'*) echo "$DONE";; esac; read more"#;
    let scripts = [too_large, too_large, not_written];
    assert_eq!(outcome(&scripts, LONG), (Ok(findings()), 3, true));
}

#[test]
fn a_child_killed_by_the_system_is_not_the_models_fault() {
    let killed = r#"read job; echo "$STARTED"; kill -KILL $$"#;
    assert_eq!(outcome(&[killed, GOOD], LONG), (Ok(findings()), 2, true));
    let (result, started, left) = outcome(&[killed, killed], LONG);
    assert!(result.unwrap_err().contains("memory is short"));
    assert_eq!((started, left), (2, false));
}

#[test]
fn a_job_beyond_the_limits_of_a_childs_first_job_gets_another_child() {
    let mut kept = Some(child(GOOD));
    let small = job();
    prepare(&mut kept, &small, LONG, || panic!("the child is reused")).unwrap();
    let first = kept.as_ref().unwrap().child.id();
    for (most, weights, is_another) in [(1, 1, false), (2, 1, true), (2, 1, false), (1, 2, true), (1, 1, false)] {
        let larger = PrepareJob {
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
fn a_job_gets_its_files_back_however_its_child_ends() {
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

#[test]
fn a_job_needs_as_much_memory_in_all_whether_or_not_a_child_is_idle() {
    const MEMORY: u64 = 7 << 20;
    let table = [
        (None, CHILD + MEMORY),
        (Some(9 << 20), CHILD + MEMORY - (9 << 20)),
        (Some(CHILD + SLACK), MEMORY - SLACK),
        // A large child is not taken for free memory.
        (Some(100 << 20), MEMORY - SLACK),
    ];
    for (idle, needed) in table {
        assert_eq!(job_beside(idle, MEMORY), needed, "{idle:?}");
    }
}
