//! Containers through the docker command. A script in its place records its command lines, and
//! runs processes without isolation.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use longshore::endpoint::fleet::{FleetError, Runner};
use longshore::endpoint::spec::Container;
use serde_json::json;

use super::setup::{TestFleets, container, in_multi_model_mode, invoke, variant};
use crate::harness::eventually;

/// A substitute for the docker command. `run` starts this binary in place of the image's, on a
/// free port.
const DOCKER: &str = r#"#!/bin/bash
here=$(dirname "$0")
echo "$@" >> "$here/calls"
command=$1; shift
case $command in
version)
    [ -e "$here/no-daemon" ] && { echo "Cannot connect to the Docker daemon" >&2; exit 1; }
    echo 28.0 ;;
run)
    while true; do
        case $1 in
        --name) name=$2; shift 2 ;;
        --env) case $2 in *=*) export "$2" ;; esac; shift 2 ;;
        --volume)
            case $2 in
            *:/opt/ml) export SAGEMAKER_BASE_DIR=${2%:*} ;;
            *:/opt/ml/model:ro) export LONGSHORE_MODEL_DIR=${2%:/opt/ml/model:ro} ;;
            esac
            shift 2 ;;
        --publish|--memory) shift 2 ;;
        --rm) shift ;;
        *) break ;;
        esac
    done
    if [ "$*" = "missing serve" ]; then
        echo "docker: Error response from daemon: No such image: missing" >&2
        echo "Run 'docker run --help' for more information" >&2
        exit 125
    fi
    export SAGEMAKER_BIND_TO_PORT=0 LONGSHORE_LOG_FORMAT=text LONGSHORE_BIND=127.0.0.1 LONGSHORE_CACHE_DIR=$here/cache
    "@LONGSHORE@" serve 2> >(tee "$here/$name.log" >&2) &
    pid=$!
    echo $pid > "$here/$name.pid"
    trap 'kill -TERM $pid' TERM
    wait $pid
    wait $pid ;;
port)
    sed -n 's/.*listening address=\([^ ]*\).*/\1/p' "$here/$1.log" | grep . ;;
stop) kill -TERM "$(cat "$here/$3.pid")" ;;
kill) kill -KILL "$(cat "$here/$1.pid")" ;;
esac
"#;

/// Fleets whose containers the script runs, and the folder of the script.
fn test() -> (TestFleets, PathBuf) {
    let folder = tempfile::Builder::new().prefix("longshore-docker-").tempdir().unwrap();
    let folder = folder.keep();
    let command = folder.join("docker");
    let script = DOCKER.replace("@LONGSHORE@", env!("CARGO_BIN_EXE_longshore"));
    fs::write(&command, script).unwrap();
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).unwrap();
    let test = TestFleets::with(|settings| {
        settings.runner = Runner::Docker { command };
        settings.memory = Some(1 << 30);
    });
    (test, folder)
}

/// The recorded command lines that start with `start`.
fn calls(folder: &Path, start: &str) -> Vec<String> {
    let calls = fs::read_to_string(folder.join("calls")).unwrap();
    let calls = calls.lines().filter(|call| call.starts_with(start));
    calls.map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn an_image_runs_with_sagemakers_environment_mounts_and_memory() {
    let (test, folder) = test();
    let mut one = container("one", test.scale(2.0));
    one.image = Some("repository/image:1".to_owned());
    one.environment.insert("COLOR".to_owned(), "light blue".to_owned());
    let mut many = in_multi_model_mode("many");
    many.image = Some("other".to_owned());
    test.deploy("e", [variant("a", 1)], [one, many]).await.unwrap();

    let fleet = test.fleets.get("e").unwrap();
    let instance = fleet.variants()[0].choose().unwrap();
    let answer = invoke(instance.container("one").unwrap(), &json!({"instances": [1]}));
    assert_eq!(answer.expect(200).json(), json!({"predictions": [2.0]}));
    let many = instance.container("many").unwrap();
    assert_eq!(many.models_root_inside().to_str(), Some("/opt/ml/models"));
    assert!(many.models_root().starts_with(instance.folder()));

    let runs = calls(&folder, "run ");
    let run_of = |end: &str| runs.iter().find(|run| run.ends_with(end)).unwrap();
    let run = run_of(" repository/image:1 serve");
    for expected in [
        "run --rm --name longshore-",
        "-e-a-instance-1-one-1 ",
        " --env AWS_REGION ",
        " --env COLOR=light blue ",
        " --env SAGEMAKER_BIND_TO_PORT=8080 ",
        " --env SAGEMAKER_SAFE_PORT_RANGE=25000-25999 ",
        "/one/opt/ml:/opt/ml ",
        ":/opt/ml/model:ro ",
        " --publish 127.0.0.1::8080 ",
        " --memory 1073741824b ",
    ] {
        assert!(run.contains(expected), "{expected}: {run}");
    }
    assert!(!run.contains("MULTI_MODEL") && !run.contains("LONGSHORE_"), "{run}");
    let run = run_of(" other serve");
    assert!(run.contains(" --env SAGEMAKER_MULTI_MODEL=true "), "{run}");

    many.kill();
    many.lost(1).await;
    assert_eq!(many.wait_up().await.unwrap().generation, 2);
    drop((instance, fleet));
    test.close().await;
    assert_eq!(calls(&folder, "stop -t 20 longshore-").len(), 2);
    assert_eq!(calls(&folder, "rm --force longshore-").len(), 3);
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn errors_of_docker_are_reported_in_its_own_words() {
    let (test, folder) = test();
    let failure = async |container: Container| match test.deploy("e", [variant("a", 1)], [container]).await {
        Err(FleetError::Failed(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let reason = failure(container("one", test.scale(1.0))).await;
    let expected = "The container one has no Image, and --runner docker runs images.";
    assert_eq!(reason, expected);

    let mut missing = container("one", test.scale(1.0));
    missing.image = Some("missing".to_owned());
    let reason = failure(missing.clone()).await;
    let expected = "its last log line: docker: Error response from daemon: No such image: missing";
    assert!(reason.ends_with(expected), "{reason}");
    assert_eq!(calls(&folder, "run ").len(), 1, "a retry would fail in the same way");

    fs::write(folder.join("no-daemon"), "").unwrap();
    let reason = failure(missing.clone()).await;
    assert!(reason.contains("Cannot connect to the Docker daemon"), "{reason}");
    fs::remove_file(folder.join("docker")).unwrap();
    let reason = failure(missing).await;
    assert!(
        reason.contains("No such file") && reason.contains("--runner process"),
        "{reason}"
    );
    assert_eq!(calls(&folder, "run ").len(), 1);
    eventually("nothing runs", || test.processes().is_empty());
    test.close().await;
    fs::remove_dir_all(folder).unwrap();
}
