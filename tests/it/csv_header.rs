//! CSV headers: the server recognises a header by the names of the inputs, and never treats it as
//! a record.

use crate::harness::{Builder, Response, Server};
use crate::support::onnx::{Graph, Info, Model, Node, element};

/// A model whose output `both` joins the string columns `name` and `city`.
fn words() -> Vec<u8> {
    let column = |name: &str| Info::tensor(name, element::STRING, ["batch".into(), 1.into()]);
    let graph = Graph::new()
        .input(column("name"))
        .input(column("city"))
        .node(Node::new("Concat", ["name", "city"], ["both"]).attribute("axis", 1i64))
        .output(Info::tensor("both", element::STRING, ["batch".into(), 2.into()]));
    Model::new(graph).into_bytes()
}

fn serving() -> Server {
    let server = Builder::multi().start();
    let url = server.models().place_model("words", &words());
    server.load("words", &url).expect(200);
    let url = server.models().place("columns", "columns");
    server.load("columns", &url).expect(200);
    server
}

fn ask(server: &Server, model: &str, content_type: &str, body: &str) -> Response {
    let request = Server::invocation(model)
        .header("Content-Type", content_type)
        .header("Accept", "text/csv");
    server.send(&request.body(body))
}

#[test]
fn a_csv_header_is_not_a_record_for_a_model_of_strings() {
    let server = serving();
    for body in [
        "Ann,Rome\nBo,Oslo\n",
        "name,city\nAnn,Rome\nBo,Oslo\n",
        "city,name\r\nRome,Ann\r\nOslo,Bo\r\n",
        "\u{feff}\"name\", \"city\"\nAnn,Rome\nBo,Oslo",
        "\u{feff}name,city\nAnn,Rome\nBo,Oslo",
        "\n name , city \nAnn,Rome\n\nBo,Oslo",
    ] {
        let answer = ask(&server, "words", "text/csv", body);
        assert_eq!(answer.expect(200).text(), "Ann,Rome\nBo,Oslo\n", "{body:?}");
    }
    let refusal = ask(&server, "words", "text/csv", "name,city\n").expect(400).message();
    assert!(refusal.contains("it has no rows"), "{refusal}");
}

#[test]
fn a_request_may_say_whether_it_has_a_header() {
    let server = serving();
    let absent = ask(&server, "words", "text/csv; header=absent", "name,city\nAnn,Rome\n").expect(200);
    assert_eq!(absent.text(), "name,city\nAnn,Rome\n");
    let present = ask(&server, "words", "text/csv; header=present", "city,name\nRome,Ann\n").expect(200);
    assert_eq!(present.text(), "Ann,Rome\n");
    let refusal = ask(&server, "words", "text/csv; header=present", "Ann,Rome\n")
        .expect(400)
        .message();
    assert!(
        refusal.contains("the header names \"Ann\", \"Rome\", which the model does not take"),
        "{refusal}"
    );
}

#[test]
fn csv_columns_are_assigned_to_inputs_by_the_names_in_the_header() {
    let server = serving();
    let plain = ask(&server, "columns", "text/csv", "41,52000,Oslo\n23,18000,Rome\n").expect(200);
    for body in [
        "age,income,city\n41,52000,Oslo\n23,18000,Rome\n",
        "city,age,income\nOslo,41,52000\nRome,23,18000\n",
    ] {
        assert_eq!(
            ask(&server, "columns", "text/csv", body).expect(200).text(),
            plain.text()
        );
    }
    let refusal = ask(&server, "columns", "text/csv", "age,income,town\n41,52000,Oslo\n").expect(400);
    assert!(
        refusal.message().contains("the names of the inputs"),
        "{}",
        refusal.message()
    );
}
