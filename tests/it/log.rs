//! The log (ST-11) and whoever reads it, or does not.

use serde_json::json;

use crate::harness::{Builder, Request, eventually};

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    // A test that keeps standard error in a pipe, a log driver that hangs: the pipe is full after 64 KiB.
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
    eventually("the log says what is missing", || {
        server.unload(&name).expect(200);
        server.load(&name, &model).expect(200);
        server.count_in_log("lines of the log that nobody has read are lost: ") == 1
    });
}
