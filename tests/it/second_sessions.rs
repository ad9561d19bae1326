//! The second sessions of a large model: one is created when requests overlap, and one when a
//! single client asks. Their answers are those of the first one, and their memory is counted and
//! given back (MM-4, MM-17, MM-18).

use serde_json::{Value, json};

use crate::harness::{Builder, Server, eventually, in_parallel};
use crate::support::networks;

const CREATED: &str = "created a second session for busy cores";
const CREATED_ALONE: &str = "created a second session for runs that are alone";
const DROPPED: &str = "dropped second sessions";

/// A server with two compute threads, whose runs answer one request each.
fn server(arguments: &[&str]) -> Server {
    let builder = Builder::multi().arguments(["--threads", "2", "--max-batch", "1", "--log-level", "debug"]);
    builder.arguments(arguments).start()
}

/// A perceptron of 17 MB, whose kernels read packed copies of the weights.
fn perceptron(seed: u64) -> Vec<u8> {
    networks::mlp(&[256, 2_048, 2_048, 16], seed)
}

/// A request of so many rows that it is not answered inline.
fn perceptron_request() -> Value {
    let row: Vec<f64> = (0..256).map(|index| f64::from(index % 17) / 17.0 - 0.5).collect();
    json!({"instances": vec![row; 32]})
}

/// Sends `body` from four clients at a time until the server has created a second session.
fn overlap(server: &Server, name: &str, body: &Value) {
    let before = server.count_in_log(CREATED);
    eventually("requests that overlap lead to a second session", || {
        in_parallel(4, &[(); 4], |()| {
            for _ in 0..4 {
                server.invoke(name, body).expect(200);
            }
        });
        server.count_in_log(CREATED) > before
    });
}

fn numbers(answer: &Value) -> Vec<f64> {
    let rows = answer["predictions"].as_array().into_iter().flatten();
    let numbers = rows.flat_map(|row| row.as_array().into_iter().flatten());
    numbers.filter_map(Value::as_f64).collect()
}

#[track_caller]
fn assert_near(found: &Value, expected: &Value) {
    let (found, expected) = (numbers(found), numbers(expected));
    assert!(!expected.is_empty());
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");
    }
}

#[test]
fn requests_that_overlap_share_the_weights_of_a_large_model_in_a_second_session() {
    type Make = fn() -> (Vec<u8>, Value);
    let kinds: [Make; 2] = [
        || (perceptron(1), perceptron_request()),
        || {
            let picture = vec![vec![vec![0.25; 64]; 64]; 3];
            (networks::convolutions(20 << 20, 1), json!({"instances": [picture]}))
        },
    ];
    for make in kinds {
        let (model, body) = make();
        let server = server(&[]);
        let url = server.models().place_model("large", &model);
        server.load("large", &url).expect(200);
        let expected = server.invoke("large", &body).expect(200).json();
        let alone = server.reserved();
        overlap(&server, "large", &body);
        // The second session has the weights, and their copies, of the first one.
        let second = server.reserved() - alone;
        assert!(second > 0 && second < 4 << 20, "{second} of {alone}");
        let answers = in_parallel(4, &[(); 4], |()| server.invoke("large", &body).expect(200).json());
        for answer in answers {
            assert_near(&answer, &expected);
        }
        server.unload("large").expect(200);
        assert_eq!(server.reserved(), 0);
        assert!(!server.process().maps_files_below(server.models().cache()));
    }
}

/// Sends `body` from one client until the server has created a second session for that.
fn ask_alone(server: &Server, name: &str, body: &Value) {
    let before = server.count_in_log(CREATED_ALONE);
    eventually("runs that are alone lead to a second session", || {
        server.invoke(name, body).expect(200);
        server.count_in_log(CREATED_ALONE) > before
    });
}

#[test]
fn a_single_client_gets_the_answers_of_the_first_session_from_one_with_threads_of_its_own() {
    let server = server(&[]);
    let body = perceptron_request();
    let url = server.models().place_model("large", &perceptron(1));
    let before = server.process().threads();
    server.load("large", &url).expect(200);
    let expected = server.invoke("large", &body).expect(200).json();
    let first = server.reserved();
    ask_alone(&server, "large", &body);
    let second = server.reserved() - first;
    assert!(second > 0 && second < 4 << 20, "{second} of {first}");
    // Of the two threads of a run, one belongs to the session.
    assert_eq!(server.process().threads(), before + 1);
    for _ in 0..20 {
        assert_near(&server.invoke("large", &body).expect(200).json(), &expected);
    }
    server.unload("large").expect(200);
    assert_eq!(server.reserved(), 0);
    eventually("the system has removed the thread", || {
        server.process().threads() == before
    });
}

#[test]
fn four_models_have_sessions_with_own_threads_and_others_answer_with_their_first_ones() {
    let server = server(&[]);
    let body = perceptron_request();
    let before = server.process().threads();
    for (seed, name) in (1..).zip(["a", "b", "c", "d", "e"]) {
        let url = server.models().place_model(name, &perceptron(seed));
        server.load(name, &url).expect(200);
    }
    let expected = server.invoke("e", &body).expect(200).json();
    for name in ["a", "b", "c", "d"] {
        ask_alone(&server, name, &body);
    }
    for _ in 0..20 {
        assert_near(&server.invoke("e", &body).expect(200).json(), &expected);
    }
    assert_eq!(server.count_in_log(CREATED_ALONE), 4);
    assert_eq!(server.process().threads(), before + 4);
}

#[test]
fn a_second_session_makes_room_before_a_load_is_refused() {
    let server = server(&["--memory-limit", "200MiB"]);
    let body = perceptron_request();
    let url = server.models().place_model("large", &perceptron(1));
    server.load("large", &url).expect(200);
    let expected = server.invoke("large", &body).expect(200).json();
    overlap(&server, "large", &body);
    let mut loaded = 0;
    for seed in 2..64 {
        let name = format!("m{seed}");
        let url = server
            .models()
            .place_model(&name, &networks::mlp(&[256, 700, 700, 16], seed));
        match server.load(&name, &url).status {
            200 => loaded += 1,
            507 => break,
            status => panic!("{status}"),
        }
    }
    assert!(loaded > 4 && loaded < 60, "{loaded}");
    assert_eq!(server.count_in_log(DROPPED), 1, "{:?}", server.log());
    // The model answers with its first session as before.
    let answers = in_parallel(4, &[(); 4], |()| server.invoke("large", &body).expect(200).json());
    for answer in answers {
        assert_near(&answer, &expected);
    }
}

#[test]
fn an_unload_during_the_creation_of_a_second_session_frees_everything() {
    let server = server(&[]);
    let body = perceptron_request();
    let url = server.models().place_model("large", &perceptron(1));
    for _ in 0..12 {
        server.load("large", &url).expect(200);
        // The last requests end while the session is being created, or shortly before.
        in_parallel(4, &[(); 4], |()| {
            for _ in 0..4 {
                server.invoke("large", &body).expect(200);
            }
        });
        server.unload("large").expect(200);
        assert_eq!(server.reserved(), 0);
        assert!(!server.process().maps_files_below(server.models().cache()));
    }
}

#[test]
fn models_without_shared_constants_have_no_second_session() {
    for arguments in [["--shared-constants", "0"], ["--prepare", "off"]] {
        let server = server(&arguments);
        let url = server.models().place_model("large", &perceptron(1));
        server.load("large", &url).expect(200);
        let before = server.reserved();
        in_parallel(4, &[(); 4], |()| {
            for _ in 0..20 {
                server.invoke("large", &perceptron_request()).expect(200);
            }
        });
        for _ in 0..20 {
            server.invoke("large", &perceptron_request()).expect(200);
        }
        assert_eq!(server.count_in_log(CREATED) + server.count_in_log(CREATED_ALONE), 0);
        assert_eq!(server.reserved(), before);
    }
}
