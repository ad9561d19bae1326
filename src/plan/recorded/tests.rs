use super::*;

fn requests(log: &str) -> Result<(Vec<(u64, String)>, usize), String> {
    match access_log(log.as_bytes()).map_err(|error| error.to_string())? {
        Recorded::Requests {
            models,
            requests,
            others,
        } => {
            let start = requests[0].time;
            let request = |request: LogRequest| {
                let model = models[request.model as usize].clone();
                ((request.time - start + 500_000) / 1_000_000, model)
            };
            Ok((requests.into_iter().map(request).collect(), others))
        }
        counts @ Recorded::Counts { .. } => panic!("{counts:?}"),
    }
}

#[test]
fn logs_are_read_in_the_order_of_their_times() {
    let log = r#"{"timestamp": "2026-01-31T12:00:01.500Z", "target_model": "b.tar.gz", "model": "17", "status": 200}
{"timestamp": "2026-01-31T12:00:01Z", "fields": {"message": "request", "model": "a"}}

{"timestamp": "2026-01-31T12:00:02Z", "message": "ready"}
{"timestamp": "2026-01-31T10:30:03-01:30", "model": "d"}
{"timestamp": "2026-01-31T13:00:04.500+01:00", "model": "d", "duration_ms": 1000.0}
{"timestamp": 1769860802.25, "model": "a"}
{"time": 1769860801250, "target_model": null, "model": "c"}
{"timestamp": "2026-01-31T12:00:0"#;
    let expected = [
        (0, "a"),
        (250, "c"),
        (500, "b.tar.gz"),
        (1250, "a"),
        (2000, "d"),
        (2500, "d"),
    ];
    let expected: Vec<(u64, String)> = expected.map(|(time, model)| (time, model.to_owned())).into();
    assert_eq!(requests(log), Ok((expected, 1)));
}

#[test]
fn lines_of_the_servers_log_that_are_not_requests_to_models_are_left_out() {
    let log = r#"{"timestamp":"2026-01-31T12:00:00Z","level":"INFO","message":"model loaded","model":"a"}
{"timestamp":"2026-01-31T12:00:00Z","level":"INFO","message":"request","status":200,"method":"POST","path":"/models","model":"a"}
{"timestamp":"2026-01-31T12:00:01Z","level":"INFO","message":"request","status":200,"method":"POST","path":"/models/a/invoke","model":"a"}
{"timestamp":"2026-01-31T12:00:02Z","level":"WARN","message":"the deadline passed","status":504,"method":"POST","path":"/invocations","model":"b"}
{"timestamp":"2026-01-31T12:00:03Z","level":"INFO","message":"request","status":200,"method":"DELETE","path":"/models/a","model":"a"}
"#;
    let expected: Vec<(u64, String)> = vec![(0, "a".to_owned()), (1000, "b".to_owned())];
    assert_eq!(requests(log), Ok((expected, 3)));
}

#[test]
fn only_requests_that_run_a_model_count() {
    let table = [
        ("/invocations", 200, true),
        ("/endpoints/shop/invocations", 200, true),
        ("/models/a/invoke", 429, true),
        ("/v2/models/a/infer", 200, true),
        ("/v2/models/team/a/versions/1/infer", 200, true),
        ("/embed", 200, true),
        ("/v1/embeddings", 200, true),
        ("/v2/models/a/ready", 200, false),
        ("/v2/models/a", 200, false),
        ("/v2/repository/models/a/load", 200, false),
        ("/models/a", 200, false),
        ("/debug/profile/a", 200, false),
        ("/models/a/invoke", 404, false),
        ("/invocations", 404, false),
    ];
    for (path, status, expected) in table {
        let line = format!(
            "{{\"timestamp\": 1, \"model\": \"a\", \"level\": \"INFO\", \"path\": \"{path}\", \"status\": {status}}}\n"
        );
        assert_eq!(requests(&line).is_ok(), expected, "{path} {status}");
    }
}

#[test]
fn only_answered_requests_of_the_servers_log_are_a_sample() {
    let table = [
        (r#""level": "INFO", "status": 200, "duration_ms": 1.5"#, true),
        (r#""level": "INFO", "status": 400"#, false),
        (r#""status": 400"#, true),
    ];
    for (rest, expected) in table {
        let log = format!("{{\"timestamp\": 1, \"model\": \"a\", {rest}}}\n");
        let Recorded::Requests { requests, .. } = access_log(log.as_bytes()).unwrap() else {
            panic!("{log}");
        };
        assert_eq!(requests[0].is_sampled, expected, "{rest}");
    }
}

#[test]
fn an_unreadable_log_is_refused_with_its_line() {
    let table = [
        ("{\"timestamp\": \"2026-01-31T12:00:00Z\"}\n", "no line is about"),
        ("127.0.0.1 - - GET /\n{}\n", "line 1 is not a JSON object; expected"),
        ("[1]\n", "line 1 is not a JSON object; expected"),
        (
            "{\"model\": \"a\", \"timestamp\": 1e30}\n",
            "line 1 names a model but has no time",
        ),
        ("{\"model\": \"a\"}\n", "line 1 names a model but has no time"),
        (
            "\n{\"model\": \"a\", \"timestamp\": \"noon\"}\n",
            "line 2 names a model",
        ),
        ("", "no line is about"),
    ];
    for (log, expected) in table {
        let error = requests(log).unwrap_err();
        assert!(error.contains(expected), "{log}: {error}");
    }
    let long = format!("{{\"model\": \"{}\"}}\n", "a".repeat(MOST_LINE));
    assert!(requests(&long).unwrap_err().contains("line 1 is longer"));
}

#[test]
fn cloudwatch_exports_give_counts_and_a_time() {
    let text = br#"{"MetricDataResults": [
        {"Id": "a", "Label": "a.tar.gz Invocations", "StatusCode": "Complete",
         "Timestamps": ["2026-01-31T12:10:00+00:00", "2026-01-31T12:00:00+00:00"], "Values": [30.0, 10.0]},
        {"Id": "b", "Label": "b", "Timestamps": ["2026-01-31T12:05:00Z"], "Values": [2]},
        {"Id": "a", "Label": "a.tar.gz Invocations", "Timestamps": [], "Values": []},
        {"Id": "c", "Label": "c"}
    ], "Messages": []}"#;
    let expected = [("a.tar.gz", 40.0), ("b", 2.0), ("c", 0.0)];
    let counts = Recorded::Counts {
        models: expected.map(|(name, count)| (name.to_owned(), count)).into(),
        seconds: Some(900.0),
    };
    assert_eq!(cloudwatch(text).unwrap(), counts);
    let one = br#"{"MetricDataResults": [{"Label": "a", "Timestamps": [60], "Values": [1]}]}"#;
    let counts = Recorded::Counts {
        models: vec![("a".to_owned(), 1.0)],
        seconds: None,
    };
    assert_eq!(cloudwatch(one).unwrap(), counts);
}

#[test]
fn other_exports_are_refused() {
    let table = [
        ("{\"Datapoints\": []}", "not the output of"),
        ("{\"MetricDataResults\": []}", "no requests"),
        (
            "{\"MetricDataResults\": [{\"Label\": \"a\", \"Timestamps\": [1], \"Values\": [1, 2]}]}",
            "1 timestamps and 2 values",
        ),
        (
            "{\"MetricDataResults\": [{\"Label\": \"a\", \"Timestamps\": [\"x\"], \"Values\": [1]}]}",
            "not a time",
        ),
    ];
    for (text, expected) in table {
        let error = cloudwatch(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
