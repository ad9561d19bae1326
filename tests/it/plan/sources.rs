//! The models and the traffic of a plan: a bucket, a running server and its log, and metrics of
//! CloudWatch.

use std::fs;

use serde_json::{Value, json};

use super::{log, plan};
use crate::harness::{Builder, Fault, Finished, Proxy, Request, Rule, S3, Server, longshore_with, scale};
use crate::support::archive::archive_of;

/// A plan with the models in the S3 at `proxy`.
fn plan_of_bucket(proxy: &Proxy, arguments: &str) -> Finished {
    longshore_with(arguments.split(' '), S3::environment(proxy.address()))
}

/// A server whose store is a folder with three models. Two requests were for one of them, and one
/// for another.
fn server(store: &str) -> Server {
    for factor in [2.0, 3.0, 4.0] {
        fs::write(format!("{store}/scale-{factor}.onnx"), scale(factor)).unwrap();
    }
    let server = Builder::store(store, [])
        .arguments(["--log-format", "json", "--access-log", "100%"])
        .start();
    for factor in [2.0, 2.0, 3.0] {
        server.assert_scales(&format!("scale-{factor}.onnx"), factor);
    }
    server
}

#[test]
fn the_models_of_a_bucket_are_listed_and_measured() {
    let (bucket, proxy) = (S3::start().bucket(), Proxy::before(S3::start().address()));
    bucket.put("models/team/a.tar.gz", &archive_of(&scale(2.0)));
    bucket.put("models/folder/model.onnx", &scale(3.0));
    bucket.put("models/copy/model.onnx", &scale(3.0));
    bucket.put("models/single.onnx", &scale(4.0));
    bucket.put("models/notes.txt", b"no model");
    bucket.put("other/b.tar.gz", &archive_of(&scale(5.0)));
    // The first answer of the store is an error, after which the command asks again.
    proxy.rule(Rule::new(Fault::SLOW_DOWN).times(1));
    let arguments = "--rate 10/s --servers 1 --instance m6i.large --requests 1000 --json";
    let plan = plan_of_bucket(&proxy, &format!("plan {}/models/ {arguments}", bucket.url())).json();
    assert_eq!((&plan["models"], &plan["contents"]), (&4.into(), &3.into()), "{plan:#}");
    let source = |name: &str| plan["sources"][name].as_str().unwrap().to_owned();
    assert!(source("models").starts_with(&format!("4 in {}/models, ", bucket.url())));
    assert!(source("memory").contains("from 4 models of different sizes that were measured here"));
    assert!(source("memory").contains("without 1 duplicate"));
    assert!(source("first_load").contains("measured here"), "{plan:#}");
    let row = &plan["rows"][0];
    assert_eq!(
        (&row["resident_models"], &row["cold_share"]),
        (&4.0.into(), &0.0.into())
    );

    for (url, expected) in [
        (
            format!("{}/nothing", bucket.url()),
            format!("{}/nothing has no model", bucket.url()),
        ),
        ("s3://no-such-bucket".to_owned(), "there is no bucket".to_owned()),
    ] {
        let refusal = plan_of_bucket(&proxy, &format!("plan {url} --rate 10/s")).refusal();
        assert!(refusal.contains(&expected), "{refusal}");
    }
}

#[test]
fn a_running_server_gives_its_mean_times() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path().to_str().unwrap());
    let text = server.send(&Request::get("/metrics")).expect(200).text();
    let mean = |metric: &str, labels: &str| {
        let value = |part: &str| -> f64 {
            let prefix = format!("{metric}_{part}{labels} ");
            text.lines()
                .find_map(|line| line.strip_prefix(&prefix))
                .unwrap()
                .parse()
                .unwrap()
        };
        value("sum") / value("count")
    };
    let run: f64 = ["parse", "run", "write"]
        .map(|phase| mean("longshore_phase_seconds", &format!("{{phase=\"{phase}\"}}")))
        .iter()
        .sum();
    let load = mean("longshore_load_seconds", "");
    // The only request waits for a first load, for a load and for its run.
    let plan = plan(&format!(
        "plan --models 3 --model-size 1kB --server http://{} --rate 1/s --requests 1 --warm-up 0 --start empty --servers 1 \
         --instance m6i.large --json",
        server.address()
    ))
    .json();
    let (found, expected) = (plan["rows"][0]["p50_seconds"].as_f64().unwrap(), 2.0 * load + run);
    assert!((found / expected - 1.0).abs() < 1e-3, "{found} {expected}: {text}");
    assert!(
        plan["sources"]["run"]
            .as_str()
            .unwrap()
            .ends_with("the mean of the server's metrics")
    );
    assert!(
        plan["sources"]["memory"]
            .as_str()
            .unwrap()
            .ends_with("the mean of the server's loaded models")
    );
}

#[test]
fn a_server_without_metrics_cannot_be_planned_with() {
    let server = Builder::multi().arguments(["--metrics", "off"]).start();
    for address in [server.address(), S3::start().address()] {
        let refusal = plan(&format!(
            "plan --models 3 --model-size 1kB --rate 1/s --server {address}"
        ))
        .refusal();
        let expected =
            format!("http://{address}/metrics is missing (404): it is not `longshore serve`, or it was started with");
        assert!(refusal.contains(&expected), "{refusal}");
    }
    let idle = Builder::multi().start();
    let refusal = plan(&format!(
        "plan --models 3 --model-size 1kB --rate 1/s --server {}",
        idle.address()
    ))
    .refusal();
    assert!(
        refusal.contains("has neither loaded a model nor answered a request"),
        "{refusal}"
    );
}

#[test]
fn files_that_are_too_large_to_compare_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.onnx", "b.onnx"] {
        // The files have holes, which take no space.
        let file = fs::File::create(folder.path().join(name)).unwrap();
        file.set_len(3 << 30).unwrap();
    }
    let path = folder.path().display();
    let plan = plan(&format!(
        "plan {path} --measure 0 --load-time 1s --run-time 1ms --rate 1/s --servers 1 --requests 100 --json"
    ))
    .json();
    let models = plan["sources"]["models"].as_str().unwrap();
    assert!(
        models.ends_with("6.0 GiB of files; 2 of them were not compared with others, and count as different"),
        "{models}"
    );
    assert_eq!(plan["contents"], 2);
}

#[test]
fn a_servers_log_gives_the_runs_of_its_models() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path().to_str().unwrap());
    server.send(&Request::get("/v2/models/scale-2.onnx/ready")).expect(200);
    server.invoke("unknown.onnx", &json!({"instances": [1]})).expect(404);
    server
        .invoke("scale-4.onnx", &json!({"instances": ["text"]}))
        .expect(400);
    server.wait_for_log("\"status\":400");
    let lines = server.log();
    let log = log(folder.path(), &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let traffic = |share: &str| -> (Value, String) {
        let plan = plan(&format!(
            "plan --access-log {} --model-size 1kB --load-time 1ms --run-time 1ms --warm-up 0 --servers 1 --instance m6i.large \
             --json --log-share {share}",
            log.display()
        ))
        .json();
        (plan.clone(), plan["sources"]["traffic"].as_str().unwrap().to_owned())
    };
    let (plan, text) = traffic("100%");
    assert_eq!(
        (&plan["models"], &plan["rows"][0]["counted_requests"]),
        (&3.into(), &4.into())
    );
    assert!(
        text.starts_with("4 requests of the access log, at their times"),
        "{text}"
    );

    // Each of the three answers stands for a hundred, and the failed request for itself.
    let rate = |text: &str| -> f64 { text.split(' ').next().unwrap().parse().unwrap() };
    let shares = [traffic("1%").1, traffic("50%").1].map(|text| rate(&text));
    assert!((shares[0] / shares[1] / (301.0 / 7.0) - 1.0).abs() < 0.01, "{shares:?}");
}

#[test]
fn metrics_of_cloudwatch_give_the_rate_and_the_share_of_each_model() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metrics.json");
    let plan_of = |periods: usize, rest: &str| {
        let times = &["2026-01-31T12:00:00Z", "2026-01-31T12:05:00+00:00"][..periods];
        let metric =
            |label: &str, value: u32| json!({"Label": label, "Timestamps": times, "Values": vec![value; periods]});
        let metrics = json!({"MetricDataResults": [metric("a Invocations", 2700), metric("b", 300)]});
        fs::write(&file, metrics.to_string()).unwrap();
        let file = file.display();
        plan(&format!(
            "plan --cloudwatch {file} --model-size 1MB --load-time 1ms --run-time 1ms --servers 1 --instance m6i.large \
             --requests 1000 --json{rest}"
        ))
    };
    let traffic = |plan: &Value| plan["sources"]["traffic"].as_str().unwrap().to_owned();
    let two = plan_of(2, "").json();
    assert_eq!(two["models"], 2);
    assert_eq!(traffic(&two), "10.0 requests a second, over the models as recorded");
    // The length of a single period is unknown.
    let refusal = plan_of(1, "").refusal();
    assert!(
        refusal.contains("give --rate, or for metrics at least two periods"),
        "{refusal}"
    );
    assert_eq!(
        traffic(&plan_of(1, " --rate 5/s").json()),
        "5.0 requests a second, over the models as recorded"
    );
}
