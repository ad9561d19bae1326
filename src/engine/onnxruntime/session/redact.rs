//! Reduces ONNX Runtime's messages to what callers and the log may see: text about the model,
//! without this machine's paths, locations in the library's source, and long names.

use std::borrow::Cow;
use std::path::Path;

/// Removes the folders of `model` from `message`: callers must not learn this machine's paths.
pub(super) fn without_folders(message: String, model: &Path) -> String {
    model
        .ancestors()
        .skip(1)
        .map(|folder| folder.to_string_lossy())
        .filter(|folder| folder.len() > 1)
        .fold(message, |message, folder| message.replace(&*folder, "..."))
}

/// Maximum number of words. A longer message keeps its two ends, because names are in the middle
/// and may have any number of words.
const MOST_WORDS: usize = 1000;

/// The part of a message that is about the model, on one line. Removes locations in the library's
/// source (`/onnxruntime_src/.../file.cc:123 function(...) [with T = ...]` or `file.cc:123
/// function`), the path of the model, the name of this machine (which follows a message of CUDA),
/// and the middle of very long names. The rest is short enough for the searches below, whose time
/// grows with the square of its length.
pub fn without_places(message: &str) -> String {
    let mut words: Vec<_> = message.split_whitespace().map(brief_word).collect();
    if words.len() > MOST_WORDS {
        words.splice(MOST_WORDS / 2..words.len() - MOST_WORDS / 2, [Cow::Borrowed("...")]);
    }
    let mut message = words.join(" ");
    if let Some(end) = message.find(" ; GPU=") {
        message.truncate(end);
    }
    while let Some(start) = message.find("/onnxruntime_src/")
        && let Some(end) = message[start..].find(") ")
    {
        message.replace_range(start..start + end + 2, "");
        if message[start..].starts_with("[with ")
            && let Some(end) = message[start..].find("] ")
        {
            message.replace_range(start..start + end + 2, "");
        }
    }
    if message.starts_with("Load model from ")
        && let Some((_, rest)) = message.split_once(" failed:")
    {
        message = rest.to_owned();
    }
    let mut words = message.split_whitespace();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if is_place(word) {
            // Skip the function's name.
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}

/// `file.cc:123`
fn is_place(word: &str) -> bool {
    let Some((file, line)) = word.rsplit_once(':') else {
        return false;
    };
    [".cc", ".h"].iter().any(|ending| file.ends_with(ending)) && line.parse::<u32>().is_ok()
}

/// Shortens a word that is too long for a message.
fn brief_word(word: &str) -> Cow<'_, str> {
    const LONGEST: usize = 200;
    if word.len() <= LONGEST {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(format!("{}...", &word[..word.floor_char_boundary(LONGEST)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_removed_from_messages() {
        let message = "path: \"/opt/ml/models/secret.bin\" allowed: \"/opt/ml/models/a/model\"".to_owned();
        assert_eq!(
            without_folders(message, Path::new("/opt/ml/models/a/model/model.onnx")),
            "path: \".../secret.bin\" allowed: \"...\""
        );
    }

    #[test]
    fn long_names_are_cut_and_the_text_after_them_is_kept() {
        let message = format!(
            "No Op registered for {} with domain_version of 17",
            "\u{e9}".repeat(1 << 20)
        );
        let brief = without_places(&message);
        assert!(brief.len() < 300, "{}", brief.len());
        assert!(brief.ends_with("... with domain_version of 17"), "{brief}");
    }

    #[test]
    fn names_of_many_words_are_cut_and_the_text_after_them_is_kept() {
        for name in [
            "all work and no play ",
            "/onnxruntime_src/ ",
            "/onnxruntime_src/) [with ",
        ] {
            let message = format!(
                "Non-zero status code returned while running Add node. Name:'{}' Status Message: std::bad_alloc",
                name.repeat(1 << 18)
            );
            let brief = without_places(&message);
            assert!(brief.len() < 30_000, "{}", brief.len());
            assert!(
                brief.starts_with("Non-zero status code returned while running Add node."),
                "{brief}"
            );
            assert!(brief.ends_with("Status Message: std::bad_alloc"), "{brief}");
        }
    }

    #[test]
    fn source_locations_are_removed_from_messages() {
        let table = [
            (
                "/onnxruntime_src/core/graph/model.cc:180 onnxruntime::Model::Model(ModelProto&&) Unsupported IR version: 99",
                "Unsupported IR version: 99",
            ),
            (
                "Load model from /opt/ml/models/x/model.onnx failed:Protobuf parsing failed.",
                "Protobuf parsing failed.",
            ),
            (
                "Load model from /m.onnx failed:/onnxruntime_src/a.cc:1 f(int) Type Error: no",
                "Type Error: no",
            ),
            (
                "Exception during initialization: /onnxruntime_src/b.cc:2 g(const T&, int) [ONNXRuntimeError] : 1 :\n no\n",
                "Exception during initialization: [ONNXRuntimeError] : 1 : no",
            ),
            (
                "/onnxruntime_src/core/providers/cuda/cuda_call.cc:129 std::conditional_t<THRW, void, Status> \
                 onnxruntime::CudaCall(ERRTYPE, const char*, int) [with ERRTYPE = cudaError; bool THRW = true] \
                 /onnxruntime_src/core/providers/cuda/cuda_call.cc:121 std::conditional_t<THRW, void, Status> \
                 onnxruntime::CudaCall(ERRTYPE, const char*, int) [with ERRTYPE = cudaError; bool THRW = true] CUDA failure \
                 2: out of memory ; GPU=0 ; hostname=ip-10-0-0-1 ; file=/onnxruntime_src/a.cc ; line=1 ; \
                 expr=cudaMalloc((void**)&p, size);",
                "CUDA failure 2: out of memory",
            ),
            ("/onnxruntime_src/oddly cut", "/onnxruntime_src/oddly cut"),
            (
                "[ONNXRuntimeError] : 1 : FAIL : inference_session.cc:2226 operator() ORT model verification failed.",
                "[ONNXRuntimeError] : 1 : FAIL : ORT model verification failed.",
            ),
            ("tensor.h:7", ""),
            ("input:0 tensor.cc: x.cc:y", "input:0 tensor.cc: x.cc:y"),
        ];
        for (message, expected) in table {
            assert_eq!(without_places(message), expected);
        }
    }
}
