use super::*;

fn serve(arguments: &[&str]) -> ServeArgs {
    Cli::try_parse_from(std::iter::once("longshore").chain(arguments.iter().copied()))
        .map(|cli| match cli.command {
            Some(Command::Serve(serve) | Command::Worker(serve)) => *serve,
            Some(_) => panic!("{arguments:?}"),
            None => cli.serve,
        })
        .unwrap()
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn serve_is_the_command_with_and_without_its_name() {
    // ST-1: the platform passes `serve`; a person may omit it.
    for arguments in [&["serve", "--port", "9000"][..], &["--port", "9000"]] {
        assert_eq!(serve(arguments).http.port, 9000);
    }
    assert!(!serve(&[]).multi_model);
    assert!(serve(&["serve", "--multi-model"]).multi_model);
    assert!(!serve(&["--multi-model=false"]).multi_model);
}

#[test]
fn max_body_comes_from_the_most_specific_setting() {
    let table: [(&[&str], usize); 7] = [
        (&[], 25 << 20),
        (&["--sagemaker-batch", "true"], 100 << 20),
        (
            &["--sagemaker-batch", "true", "--sagemaker-max-payload-in-mb", "0"],
            1 << 30,
        ),
        (&["--sagemaker-max-payload-in-mb", "7"], 7 << 20),
        (
            &[
                "--sagemaker-max-payload-in-mb",
                "7",
                "--sagemaker-max-request-size",
                "1000",
            ],
            1000,
        ),
        (&["--sagemaker-max-payload-in-mb", "7", "--max-body", "1KiB"], 1024),
        (&["--max-body", "12"], 12),
    ];
    for (arguments, bytes) in table {
        assert_eq!(serve(arguments).max_body(), bytes, "{arguments:?}");
    }
}

#[test]
fn the_memory_limit_comes_from_the_flag_or_the_system_and_part_of_it_is_reserved() {
    type Case<'a> = (&'a [&'a str], Option<u64>, Option<(u64, u64)>);
    let table: [Case<'_>; 5] = [
        (&["--memory-limit", "100MiB"], Some(1 << 40), Some((100 << 20, 8 << 20))),
        (
            &["--memory-limit", "100MiB", "--memory-reserve", "0"],
            None,
            Some((100 << 20, 0)),
        ),
        (&[], Some(1000 << 20), Some((1000 << 20, 20 << 20))),
        (&["--memory-limit", "1TiB"], None, Some((1 << 40, 256 << 20))),
        (&[], None, None),
    ];
    for (arguments, system, expected) in table {
        let serve = serve(arguments);
        let limit = serve.memory_limit(system);
        let found = limit.map(|limit| (limit, serve.memory_reserve(limit)));
        assert_eq!(found, expected, "{arguments:?}");
    }
}

#[test]
fn the_default_connection_limit_leaves_open_files_to_models() {
    let table: [(&[&str], Option<u64>, usize); 6] = [
        (&[], Some(65536), 65408),
        (&[], Some(256), 128),
        (&[], Some(64), 32),
        (&[], Some(1), 1),
        (&[], None, usize::MAX - 128),
        (&["--max-connections", "7"], Some(64), 7),
    ];
    for (arguments, open_files, connections) in table {
        assert_eq!(
            serve(arguments).max_connections(open_files),
            connections,
            "{open_files:?}"
        );
    }
}

#[test]
fn transform_jobs_have_at_most_100_mb_in_flight() {
    let table: [(&[&str], (usize, usize)); 7] = [
        (&["--threads", "4"], (4, 6)),
        (&["--threads", "64"], (16, 6)),
        (&["--threads", "4", "--sagemaker-max-payload-in-mb", "40"], (2, 40)),
        (&["--threads", "4", "--sagemaker-max-payload-in-mb", "1000"], (1, 100)),
        (&["--threads", "4", "--sagemaker-max-payload-in-mb", "0"], (4, 0)),
        (&["--threads", "4", "--max-body", "2MiB"], (4, 2)),
        (&["--threads", "4", "--max-body", "1KiB"], (4, 1)),
    ];
    for (arguments, expected) in table {
        assert_eq!(serve(arguments).transform_parameters(), expected, "{arguments:?}");
    }
}

#[test]
fn a_time_without_a_unit_is_in_seconds() {
    assert_eq!(duration("60"), Ok(Duration::from_secs(60)));
    assert_eq!(duration("60.0"), Ok(Duration::from_secs(60)));
    assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    for text in ["0", "18446744073709551615", "-1", "NaN", "8days"] {
        assert!(duration(text).is_err(), "{text}");
    }
    assert!(duration("soon").unwrap_err().contains("expected a time such as"));
}

#[test]
fn the_request_timeout_is_58_s_or_an_hour_in_batch_transform_unless_it_is_set() {
    // BT-5
    let table: [(&[&str], u64); 7] = [
        (&[], 58),
        (&["--sagemaker-batch", "false"], 58),
        (&["--sagemaker-batch", "true"], 3598),
        (&["--sagemaker-batch", "true", "--request-timeout", "10s"], 10),
        (
            &["--sagemaker-batch", "true", "--sagemaker-model-server-timeout", "900"],
            900,
        ),
        (
            &["--sagemaker-model-server-timeout", "900", "--request-timeout", "10s"],
            10,
        ),
        (&["--request-timeout", "2h"], 7200),
    ];
    for (arguments, seconds) in table {
        let expected = Duration::from_secs(seconds);
        assert_eq!(serve(arguments).request_timeout(), expected, "{arguments:?}");
    }
}

#[test]
fn some_times_can_be_switched_off() {
    assert_eq!(duration_or_off("off"), Ok(DurationOrOff(None)));
    assert_eq!(duration_or_off("0"), Ok(DurationOrOff(None)));
    assert_eq!(
        duration_or_off("2min"),
        Ok(DurationOrOff(Some(Duration::from_secs(120))))
    );
    assert!(duration_or_off("never").unwrap_err().contains("or `off`"));
}

#[test]
fn max_stuck_is_twice_the_number_of_threads_by_default() {
    for (arguments, runs) in [
        (&["--threads", "3"][..], 6),
        (&["--threads", "3", "--max-stuck", "1"], 1),
    ] {
        assert_eq!(serve(arguments).max_stuck(), runs, "{arguments:?}");
    }
}

#[test]
fn model_directories_lie_below_the_base_directory() {
    let args = serve(&["--sagemaker-base-dir", "/data"]);
    assert_eq!(args.model_dir(), PathBuf::from("/data/model"));
    assert_eq!(
        args.models_roots(),
        [PathBuf::from("/data/models"), PathBuf::from("/data/model")]
    );
}

#[test]
fn an_error_about_a_number_names_the_valid_range() {
    assert_eq!((threads("1"), threads("1024")), (Ok(1), Ok(1024)));
    for text in ["0", "1025", "-1", "many", ""] {
        assert_eq!(
            threads(text),
            Err("expected a number from 1 to 1024".to_owned()),
            "{text}"
        );
    }
    assert_eq!(at_least_one("0"), Err("expected a number from 1 to 1048576".to_owned()));
}

#[test]
fn an_error_names_the_environment_variable_of_a_refused_value() {
    let refused = |variable: &'static str, value: &'static str| {
        let mut command = Cli::command();
        let error = command
            .try_get_matches_from_mut(["longshore", "serve", "--queue", "zero"])
            .unwrap_err();
        with_variable(error, command, |name| (name == variable).then(|| value.into())).to_string()
    };
    let tip = "tip: the value comes from the environment variable LONGSHORE_QUEUE";
    assert!(refused("LONGSHORE_QUEUE", "zero").contains(tip));
    assert!(!refused("LONGSHORE_QUEUE", "7").contains("tip:"));
    assert!(!refused("LONGSHORE_THREADS", "zero").contains("tip:"));
}

#[test]
fn help_pages_show_default_sizes_without_quotes() {
    for name in ["serve", "endpoint", "pack", "inspect"] {
        let mut command = Cli::command();
        let help = command
            .find_subcommand_mut(name)
            .unwrap()
            .render_long_help()
            .to_string();
        assert!(!help.contains("[default: \""), "{name}: {help}");
    }
}

#[test]
fn allow_origin_accepts_an_origin_or_a_star() {
    for text in [
        "*",
        "null",
        "https://app.example.com",
        "http://localhost:3000",
        "http://[::1]:3000",
    ] {
        assert_eq!(origin(text).as_deref(), Ok(text));
    }
    assert_eq!(origin("HTTPS://App.Example").as_deref(), Ok("https://app.example"));
    for text in [
        "",
        "app.example",
        "https://",
        "https://a/",
        "https://a/b",
        "://a",
        "https://a b",
        "https://u@a",
    ] {
        assert!(origin(text).is_err(), "{text}");
    }
}

#[test]
fn some_connections_are_reserved_for_health_checks() {
    let table = [
        (None, 1, 0),
        (None, 2, 1),
        (None, 100, 6),
        (None, 65_408, 16),
        (Some(0), 100, 0),
        (Some(50), 100, 50),
        (Some(500), 100, 99),
    ];
    for (given, connections, reserved) in table {
        assert_eq!(
            reserved_connections(given, connections),
            reserved,
            "{given:?} of {connections}"
        );
    }
}
