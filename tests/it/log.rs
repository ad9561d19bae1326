//! The log (ST-11), with readers that stop reading and with hostile names.

use serde_json::{Value, json};

use crate::harness::{Builder, Request, eventually};

#[test]
fn a_log_that_is_not_read_does_not_block_requests() {
    // For example a log driver that hangs: the pipe is full after 64 KiB.
    let server = Builder::multi().start();
    let model = server.models().place("iris_zipmap", "iris");
    let name = "n".repeat(1000);
    server.read_log(false);
    for _ in 0..100 {
        server.load(&name, &model).expect(200);
        server.unload(&name).expect(200);
    }
    server.load(&name, &model).expect(200);
    server.send(&Request::get("/ping")).expect(200);
    server.invoke(&name, &json!([[5.1, 3.5, 1.4, 0.2]])).expect(200);

    server.read_log(true);
    eventually("the log reports the lost lines", || {
        server.unload(&name).expect(200);
        server.load(&name, &model).expect(200);
        server.count_in_log("log lines lost because they were not read: ") == 1
    });
}

#[test]
fn a_name_cannot_end_a_log_record_or_reverse_its_text() {
    // ST-11: every record is one line for every reader.
    let name = "a\u{2028}b\u{2029}c\u{202e}d\u{2066}e\u{200f}f\u{61c}g\u{85}h\n\u{1b}[2Ji";
    for format in ["text", "json"] {
        let server = Builder::multi().arguments(["--log-format", format]).start();
        let refusal = server.load(name, "/outside").expect(400);
        assert!(refusal.status == 400);
        server.invoke(name, &json!([1])).expect(404);
        server.wait_for_log("404");
        let log = server.log();
        for line in &log {
            assert!(!line.contains([
                '\u{2028}', '\u{2029}', '\u{202e}', '\u{2066}', '\u{200f}', '\u{61c}', '\u{85}', '\u{1b}'
            ]));
        }
        let refusal = log.iter().find(|line| line.contains("404")).unwrap();
        assert!(refusal.contains("u{2028}") || refusal.contains("u2028"), "{refusal}");
        if format == "json" {
            let record: Value = serde_json::from_str(refusal).unwrap();
            assert!(
                record.to_string().contains('\u{202e}'),
                "the JSON must decode to the original name: {refusal}"
            );
        }
    }
}
