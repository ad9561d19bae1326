//! `longshore plan`: the command, its inputs and its errors.

mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Finished, fixture, longshore, scale};

/// A plan of equal models that need no measurement.
fn equal(arguments: &[&str]) -> Finished {
    let models = "plan --models 2000 --model-memory 2MiB --load-time 2ms --run-time 1ms --requests 20000 --json";
    longshore(models.split(' ').chain(arguments.iter().copied()))
}

fn plan(arguments: &str) -> Finished {
    longshore(arguments.split(' '))
}

fn rows(plan: &Value) -> Vec<&Value> {
    plan["rows"].as_array().unwrap().iter().collect()
}

/// A folder with models of which two are equal.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, factor) in [("a.onnx", 2.0), ("b.onnx", 3.0), ("c.onnx", 3.0)] {
        fs::write(folder.path().join(name), scale(factor)).unwrap();
    }
    let iris = folder.path().join("iris");
    fs::create_dir(&iris).unwrap();
    for file in fs::read_dir(fixture("iris_zipmap")).unwrap() {
        let file = file.unwrap().path();
        fs::copy(&file, iris.join(file.file_name().unwrap())).unwrap();
    }
    folder
}

fn log(folder: &Path, lines: &[&str]) -> PathBuf {
    let file = folder.join("access.jsonl");
    fs::write(&file, lines.join("\n") + "\n").unwrap();
    file
}

#[test]
fn more_servers_hold_more_models_and_the_cheapest_fleet_that_meets_the_target_is_named() {
    let arguments = "--rate 300/s --skew 0.8 --instance m6i.large,m5.large --price m6i.large=0.2,m5.large=0.1 --usable-memory \
                     10% --servers 8 --cold 1% --p99 100ms --balance-factor 0";
    let plan = equal(&arguments.split(' ').collect::<Vec<_>>()).json();
    let rows = rows(&plan);
    for pair in rows
        .windows(2)
        .filter(|pair| pair[0]["instance"] == pair[1]["instance"])
    {
        let value = |row: &Value, key: &str| row[key].as_f64().unwrap();
        assert!(value(pair[0], "cold_share") >= value(pair[1], "cold_share"), "{pair:?}");
        assert!(
            value(pair[0], "resident_models") <= value(pair[1], "resident_models"),
            "{pair:?}"
        );
    }
    let met: Vec<&&Value> = rows.iter().filter(|row| row["meets_target"] == true).collect();
    let least = met
        .iter()
        .map(|row| row["price_per_hour"].as_f64().unwrap())
        .fold(f64::MAX, f64::min);
    assert_eq!(plan["choice"]["price_per_hour"], least);
    assert_eq!(plan["choice"]["instance"], "m5.large");
    assert_eq!(plan["models"], 2000);
}

#[test]
fn consistent_hashing_needs_less_memory_than_round_robin() {
    let cold = |balance: &str| {
        let arguments = [
            "--rate",
            "300/s",
            "--memory-limit",
            "1GiB",
            "--cpus",
            "2",
            "--servers",
            "4",
            "--only",
        ];
        let plan = equal(&[&arguments[..], &["--balance", balance]].concat()).json();
        plan["rows"][0]["cold_share"].as_f64().unwrap()
    };
    let (consistent, robin) = (cold("consistent"), cold("round-robin"));
    assert!(consistent * 2.0 < robin, "{consistent} {robin}");
}

#[test]
fn the_models_of_a_folder_are_measured_and_equal_ones_count_once() {
    let folder = folder();
    let path = folder.path().to_str().unwrap();
    let plan = plan(&format!(
        "plan {path} --rate 10/s --servers 1 --requests 1000 --measure 2 --json"
    ))
    .json();
    assert_eq!((&plan["models"], &plan["contents"]), (&4.into(), &3.into()), "{plan:#}");
    let source = |name: &str| plan["sources"][name].as_str().unwrap().to_owned();
    assert!(source("memory").contains("2 models of different sizes that were measured here"));
    assert!(source("run").contains("measured here") && source("load").contains("measured here"));
    let row = &plan["rows"][0];
    assert_eq!(
        (&row["resident_models"], &row["cold_share"]),
        (&4.0.into(), &0.0.into())
    );
    assert!(row["p50_seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_requests_of_an_access_log_are_simulated_one_by_one() {
    let folder = folder();
    let line = |second: u32, model: &str| {
        format!("{{\"timestamp\": \"2026-01-31T12:00:{second:02}Z\", \"target_model\": \"{model}\"}}")
    };
    let mut lines: Vec<String> = (0..40)
        .map(|second| line(second, ["a.onnx", "iris"][second as usize % 2]))
        .collect();
    lines.push("{\"timestamp\": \"2026-01-31T12:00:50Z\", \"route\": \"health\"}".to_owned());
    let log = log(folder.path(), &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let (path, log) = (folder.path().display(), log.display());
    let times = "--load-time 2ms --run-time 1ms --measure 0 --memory-limit 1GiB --cpus 1 --servers 1 --warm-up 0";
    let plan = plan(&format!("plan {path} --access-log {log} {times} --json")).json();
    let row = &plan["rows"][0];
    assert_eq!(
        (&row["counted_requests"], &row["cold_share"]),
        (&40.into(), &0.05.into()),
        "{plan:#}"
    );
    let traffic = plan["sources"]["traffic"].as_str().unwrap();
    assert!(
        traffic.contains("40 requests") && traffic.contains("1 line about other things"),
        "{traffic}"
    );
}

#[test]
fn the_table_names_the_origin_of_each_number_and_the_drawing_is_svg() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plan.svg");
    let arguments = format!(
        "plan --models 50 --model-size 5MB --load-time 3ms --run-time 2ms --rate 100/s --servers 2 --requests 2000 --cold 1% \
         --instance m6i.large --svg {}",
        file.display()
    );
    let text = plan(&arguments).output();
    for part in [
        "models      50, 4.8 MiB each, as given",
        "estimated from the size of the files",
        "load        3.00 ms on average, as given",
        "m6i.large: 2 cores, a memory limit of 7.2 GiB each",
        "Smallest that meets the target: 1 server m6i.large.",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let drawing = fs::read_to_string(&file).unwrap();
    assert!(drawing.starts_with("<svg") && drawing.contains("m6i.large"));
    plan(&format!("plan --access-log none --svg {}", file.display())).refusal();
    assert_eq!(
        fs::read_to_string(file).unwrap(),
        drawing,
        "a plan that fails keeps the older drawing"
    );
}

#[test]
fn a_single_number_of_servers_is_judged_by_itself_and_round_robin_by_each_number() {
    let servers = |arguments: &str| {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let plan = equal(
            &[
                &["--rate", "50/s", "--memory-limit", "1GiB", "--cpus", "2", "--cold"],
                &*arguments,
            ]
            .concat(),
        )
        .json();
        let numbers: Vec<u64> = rows(&plan).iter().map(|row| row["servers"].as_u64().unwrap()).collect();
        numbers
    };
    assert_eq!(servers("99% --servers 12 --only"), [12]);
    assert_eq!(servers("0% --servers 10"), [1, 2, 3, 4, 5, 6, 7, 8, 10]);
    let all: Vec<u64> = (1..=10).collect();
    assert_eq!(servers("0% --servers 10 --balance round-robin"), all);
}

#[test]
fn a_plan_without_answers_has_no_latency_and_meets_no_target() {
    let arguments = "plan --models 3 --model-size 4GiB --load-time 3ms --run-time 2ms --memory-limit 1GiB --cpus 2 --servers 1 \
                     --rate 10/s --requests 1000 --p99 1h";
    let row = &plan(&format!("{arguments} --json")).json()["rows"][0];
    assert_eq!(
        (&row["p99_seconds"], &row["meets_target"]),
        (&Value::Null, &false.into()),
        "{row:#}"
    );
    assert_eq!(
        (&row["refused_requests"], &row["cold_share"]),
        (&800.into(), &1.0.into()),
        "{row:#}"
    );
    let text = plan(arguments).output();
    for part in ["With 1 server, 800 requests got no memory", "more do not help"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn models_that_cannot_be_measured_are_named() {
    let folder = folder();
    fs::write(folder.path().join("broken.onnx"), "no model").unwrap();
    let path = folder.path().display();
    let plan = plan(&format!(
        "plan {path} --rate 10/s --servers 1 --requests 100 --measure 9 --json"
    ))
    .json();
    let source = plan["sources"]["unmeasured"].as_str().unwrap();
    assert!(
        source.starts_with("1 of 5 chosen models failed") && source.contains("broken.onnx"),
        "{source}"
    );
}

#[test]
fn options_that_would_change_nothing_are_refused() {
    let table = [
        "plan --models 5 --access-log x --model-size 1MB",
        "plan --models 5 --model-size 1MB --measure 3",
        "plan --access-log x --model-size 1MB --measure 3",
        "plan --access-log x --model-size 1MB --skew 1",
        "plan store --model-size 1MB",
        "plan store --server localhost:8080 --measure 3",
        "plan --instances --json",
        "plan --models 5 --memory-limit 1GiB --cpus 1 --usable-memory 50%",
    ];
    for arguments in table {
        let misuse = plan(arguments).misuse();
        assert!(
            misuse.contains("cannot be used with") || misuse.contains("not provided"),
            "{arguments}: {misuse}"
        );
    }
}

#[test]
fn a_plan_without_a_number_that_it_needs_says_which_option_gives_it() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().display();
    let bad = log(folder.path(), &["{\"model\": \"a\"}"]);
    let table = [
        ("plan --models 5 --rate 1".to_owned(), "--model-size"),
        ("plan --models 5 --model-size 1MB --rate 1".to_owned(), "--load-time"),
        (
            "plan --models 5 --model-size 1MB --rate 1 --load-time 1ms".to_owned(),
            "the time of a run is unknown; give --run-time,",
        ),
        (
            "plan --models 5 --model-size 1MB --rate 1 --price m6i.large=1".to_owned(),
            "the price of m6i.xlarge, r6i.large, r6i.xlarge is unknown",
        ),
        (
            format!("plan --models 5 --model-size 1MB --rate 1 --svg {empty}/none/plan.svg"),
            "create ",
        ),
        (
            "plan --models 5 --model-size 1MB --load-time 1ms --run-time 1ms".to_owned(),
            "--rate",
        ),
        (format!("plan {empty} --rate 1"), "has no model"),
        (
            "plan --models 5 --model-size 1MB --rate 1 --instance m99.large".to_owned(),
            "--instances lists",
        ),
        (
            "plan --models 5 --model-size 1MB --rate 1 --price c5.large=1".to_owned(),
            "add --instance c5.large",
        ),
        (
            "plan --models 5 --model-size 1MB --rate 1 --instance m5.large,m6i.large,m5.large".to_owned(),
            "--instance names m5.large twice",
        ),
        (
            "plan --models 5 --model-size 1MB --rate 1 --instance m5.large --price m5.large=1,m5.large=2".to_owned(),
            "--price gives m5.large twice",
        ),
        (
            "plan --models 5 --model-size 1MB --rate 1 --memory-limit 100MiB --cpus 1 --memory-reserve 200MiB"
                .to_owned(),
            "leaves no memory for models",
        ),
        (
            format!("plan --access-log {} --model-size 1MB", bad.display()),
            "has no time",
        ),
        (
            "plan --models 5 --model-size 1MB --rate 1 --server http://127.0.0.1:1".to_owned(),
            "no answer",
        ),
        (
            "plan http://127.0.0.1:1/models?sig=secret --rate 1".to_owned(),
            "http://127.0.0.1:1/models has no list of its models",
        ),
    ];
    for (arguments, expected) in table {
        let refusal = plan(&arguments).refusal();
        assert!(refusal.contains(expected), "{arguments}: {refusal}");
    }
}
