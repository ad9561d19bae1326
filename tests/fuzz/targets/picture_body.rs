#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(
    // The hook of the fuzzer ends the process at every panic, also at those that a reader turns
    // into an error.
    init: drop(std::panic::take_hook()),
    |bytes: &[u8]| targets::run("picture_body", bytes)
);
