//! The models that tests and benchmarks generate work like those of exporters.

use serde_json::{Value, json};

use crate::harness::{Builder, Server};
use crate::support::networks;

#[track_caller]
fn serve(server: &Server, name: &str, model: &[u8], request: &Value, width: usize) -> Value {
    let url = server.models().place_model(name, model);
    server.load(name, &url).expect(200);
    let answer = server.invoke(name, request).expect(200).json();
    let rows = answer["predictions"].as_array().unwrap().clone();
    assert_eq!(rows.len(), 2, "{answer}");
    for row in &rows {
        let row = row.as_array().unwrap();
        assert_eq!(row.len(), width, "{answer}");
        // Not NaN or infinity, which JSON cannot represent as numbers.
        assert!(row.iter().all(Value::is_number), "{answer}");
    }
    answer
}

#[test]
fn generated_networks_give_finite_results() {
    let server = Builder::multi().start();
    let request = json!({"instances": [vec![0.5; 32], vec![-1.0; 32]]});
    let one = serve(&server, "one", &networks::mlp(&[32, 64, 8], 1), &request, 8);
    let two = serve(&server, "two", &networks::mlp(&[32, 64, 8], 2), &request, 8);
    assert_ne!(one, two, "different seeds must give different models");
    let request = json!({"instances": [{"item": 7, "x": [0.1, 0.2]}, {"item": 99, "x": [1.0, -1.0]}]});
    serve(&server, "rank", &networks::recommender(100, 16, 2, 3), &request, 1);
    let image = vec![vec![vec![0.25; 64]; 64]; 3];
    let request = json!({"instances": [image, image]});
    let network = networks::convolutions(1 << 20, 4);
    assert!((1 << 19..3 << 19).contains(&network.len()), "{}", network.len());
    serve(&server, "image", &network, &request, 10);
}
