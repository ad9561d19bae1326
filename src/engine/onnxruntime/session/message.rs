//! Classifies ONNX Runtime's messages when it has no error code for the cause.
//!
//! A message repeats names that the uploader chose, and a name may contain any text. So a phrase
//! counts only at the position where the library writes it.

use rustix::io::Errno;

/// Whether the message ends with the library's text for `EMFILE` or `ENFILE`.
pub(super) fn is_out_of_descriptors(message: &str) -> bool {
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| {
        message
            .trim_end()
            .ends_with(&format!("system error number {}", errno.raw_os_error()))
    })
}

/// Whether an allocation failed. ONNX Runtime has no error code for that, only the text of its C++
/// exception. Names of nodes and operators could contain that text, so it counts only if it is the
/// whole message, or all that follows an introduction of the library or the description of a node.
pub(super) fn is_out_of_memory(message: &str) -> bool {
    let text = library_text(message);
    let out_of_device_memory = text.starts_with("CUDA failure 2: ")
        || (is_device_failure(message) && (text.contains("_ALLOC_FAILED") || text.contains("_ALLOCATION_FAILED")));
    out_of_device_memory
        || [Some(text), text_after_node(message)]
            .into_iter()
            .flatten()
            .any(|text| ["std::bad_alloc", "bad allocation", "std::bad_array_new_length"].contains(&text))
        || is_cut_short(message)
        // The system's text, for a prepared model.
        || (text.starts_with("mmap file ") && text.ends_with(" failed: Cannot allocate memory"))
        // The texts of an arena, at its own limit and at the system's.
        || text.starts_with("Failed to allocate memory for requested buffer of size ")
        || (text.starts_with("Available memory of ") && text.contains(" is smaller than requested bytes of "))
}

/// Whether `message` was cut off because there was no memory for the rest. The library's string
/// type stores a short text without an allocation.
fn is_cut_short(message: &str) -> bool {
    const KEPT: usize = 15;
    const BEGINNINGS: [&str; 5] = [
        "Non-zero status code returned while running",
        "Load model from ",
        "Exception during loading: ",
        "Exception during initialization: ",
        "Failed to load model with error: ",
    ];
    BEGINNINGS.iter().any(|whole| whole[..KEPT].trim_end() == message)
}

/// The part of `message` after the description of a node at its beginning. A description consists
/// of the uploader's names between phrases of the library. The match ends at the first possible
/// position, so a name that imitates the end leaves more text than the library writes, never less.
fn text_after_node(message: &str) -> Option<&str> {
    const DESCRIPTIONS: [&[&str]; 3] = [
        &["Exception while pre-packing node '", "': "],
        &["This is an invalid model. In Node, (", ", Error "],
        &["Node (", ") Op (", ") "],
    ];
    let message = without_introduction(message);
    DESCRIPTIONS.iter().find_map(|words| {
        let (first, others) = words.split_first()?;
        let rest = message.strip_prefix(first)?;
        others
            .iter()
            .try_fold(rest, |rest, word| rest.split_once(word).map(|(_, rest)| rest))
    })
}

/// Whether CUDA or one of its libraries has failed, which is neither the model's nor the request's
/// fault.
pub(super) fn is_device_failure(message: &str) -> bool {
    let text = library_text(message);
    ["CUDA", "CUBLAS", "CUDNN", "CUFFT", "CURAND"].iter().any(|library| {
        text.strip_prefix(library)
            .is_some_and(|rest| rest.starts_with(" failure "))
    })
}

/// The locale that the library could not create for an operator. Both errors that this decides
/// between are about the model's content, so a name that imitates the phrase misleads only its
/// author.
pub(super) fn missing_locale(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("Failed to construct locale with name:")?;
    rest.rsplit_once(":locale::facet::").map(|(name, _)| name)
}

/// The domain of the operators of ONNX Runtime Extensions.
const EXTENSIONS: &str = "ai.onnx.contrib";

/// Maximum number of characters of a domain's name in a remedy.
const LONGEST_DOMAIN: usize = 64;

/// Suggests a change to the model or to the server when an operator is missing or the format is too
/// new. The suggestion goes to the author of the model, so a name that imitates the phrase misleads
/// only its author.
pub(super) fn remedy(message: &str) -> Option<String> {
    if let Some((_, rest)) = message.split_once("max supported IR version: ") {
        let most = number(rest)?;
        return Some(format!("export the model with IR version {most} at most"));
    }
    if message.contains(" is under development and support for this is limited") {
        let (_, rest) = message.rsplit_once("Current official support for domain ")?;
        let (domain, rest) = rest.split_once(" is till opset ")?;
        let domain = domain.chars().take(LONGEST_DOMAIN).collect::<String>();
        return Some(format!(
            "export the model with opset {} of {domain} at most",
            number(rest)?
        ));
    }
    let (operator, _) = message
        .strip_prefix("Fatal error: ")?
        .split_once(" is not a registered function/op")?;
    let (domain, _) = operator.rsplit_once(':')?;
    Some(match domain {
        "" | "ai.onnx" | "ai.onnx.ml" => return None,
        EXTENSIONS => format!(
            "{EXTENSIONS} is the domain of ONNX Runtime Extensions: export the model without it, or start the server with \
             --operators LIBRARY, where LIBRARY is libortextensions.so"
        ),
        domain => format!(
            "this ONNX Runtime has no operators of the domain {:?}: export the model without them, or start the server with \
             --operators LIBRARY, where LIBRARY is the library of these operators",
            domain.chars().take(LONGEST_DOMAIN).collect::<String>()
        ),
    })
}

/// The number at the beginning of `text`.
fn number(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

/// The introductions that the library writes before the actual text.
const INTRODUCTIONS: [&str; 5] = [
    "Status Message: ",
    "Exception during loading: ",
    "Exception during initialization: ",
    "Exception caught: ",
    "Failed to load model with error: ",
];

/// Removes an introduction from the beginning of `message`.
fn without_introduction(message: &str) -> &str {
    INTRODUCTIONS
        .iter()
        .find_map(|introduction| message.strip_prefix(introduction))
        .unwrap_or(message)
}

/// The part of `message` after the library's last introduction.
fn library_text(message: &str) -> &str {
    let text = INTRODUCTIONS
        .iter()
        .filter_map(|introduction| Some(message.rfind(introduction)? + introduction.len()))
        .max()
        .map_or(message, |start| &message[start..]);
    // A status can contain another one: "[ONNXRuntimeError] : 1 : FAIL : ...".
    text.strip_prefix("[ONNXRuntimeError] : ")
        .and_then(|status| status.splitn(3, " : ").nth(2))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_memory_is_found_in_the_librarys_text_and_not_in_names() {
        let table = [
            ("std::bad_alloc", true),
            ("Exception during loading: std::bad_alloc", true),
            ("Exception while pre-packing node 'a': std::bad_alloc", true),
            ("Exception during initialization: std::bad_alloc", true),
            ("Failed to load model with error: std::bad_alloc", true),
            (
                "Non-zero status code returned while running ConstantOfShape node. Name:'' Status Message: std::bad_alloc",
                true,
            ),
            (
                "Non-zero status code returned while running Add node. Name:'a' Status Message: Failed to allocate \
                 memory for requested buffer of size 17592186044416",
                true,
            ),
            (
                "Exception during initialization: Available memory of 1024 is smaller than requested bytes of 4096",
                true,
            ),
            // Cut off for lack of memory.
            ("Non-zero status", true),
            ("Load model from", true),
            ("Failed to load", true),
            ("Load model", false),
            ("CUDA failure 2: out of memory", true),
            ("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory", true),
            (
                "Non-zero status code returned while running Conv node. Name:'c' Status Message: CUDA failure 2: out of \
                 memory",
                true,
            ),
            (
                "Non-zero status code returned while running Gemm node. Name:'g' Status Message: CUBLAS failure 3: \
                 CUBLAS_STATUS_ALLOC_FAILED",
                true,
            ),
            (
                "Exception during initialization: CUDNN failure 5003: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
                true,
            ),
            ("CUDA failure 700: an illegal memory access was encountered", false),
            ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED", false),
            (
                "This is an invalid model. Error in Node:CUDA failure 2: out of memory",
                false,
            ),
            (
                "This is an invalid model. In Node, (\"\", Abs, \"\", -1) : (\"x\": tensor(float),) -> (\"z\",) , Error \
                 std::bad_alloc",
                true,
            ),
            ("Node (a) Op (Abs) std::bad_alloc", true),
            (
                "Exception during initialization: Node (a) Op (Abs) std::bad_alloc",
                true,
            ),
            // Names that end or begin like messages.
            (
                "This is an invalid model. In Node, (\"\", f, \"\", -1) : (\"x\": tensor(float),) -> (\"z\",) , Error \
                 Unrecognized attribute: a for operator , Error std::bad_alloc",
                false,
            ),
            (
                "This is an invalid model. In Node, (\", Error std::bad_alloc\", Abs, \"\", -1) : (\"x\",) -> (\"z\",) , Error \
                 Unrecognized attribute: a for operator Abs",
                false,
            ),
            (
                "Node (a) Op (Abs) std::bad_alloc) Op (Abs) [ShapeInferenceError] Incompatible dimensions",
                false,
            ),
            (
                "Node (a) Op (Abs) [TypeInferenceError] no type for ) std::bad_alloc",
                false,
            ),
            ("Exception while pre-packing node 'a': std::bad_alloc': no", false),
            (
                "This is an invalid model. Error: two nodes with same node name (, Error std::bad_alloc",
                false,
            ),
            ("No Op registered for bad_alloc with domain_version of 17", false),
            (
                "Non-zero status code returned while running Gather node. Name:'std::bad_alloc' Status Message: \
                 indices element out of data bounds",
                false,
            ),
        ];
        for (message, expected) in table {
            assert_eq!(is_out_of_memory(message), expected, "{message}");
        }
    }

    #[test]
    fn finds_the_name_of_a_missing_locale() {
        let text = "Failed to construct locale with name:tr_TR.UTF-8:locale::facet::_S_create_c_locale name not \
                    valid:Please, install necessary language-pack-XX and configure locales";
        let table = [
            (format!("Exception during initialization: {text}"), Some("tr_TR.UTF-8")),
            (
                format!("Exception during initialization: std::string&)::<lambda()> {text}"),
                Some("tr_TR.UTF-8"),
            ),
            ("Protobuf parsing failed.".to_owned(), None),
        ];
        for (message, expected) in table {
            assert_eq!(missing_locale(&message), expected, "{message}");
        }
    }

    #[test]
    fn a_rejected_model_gets_a_suggestion_what_to_export() {
        let table = [
            (
                "Unsupported model IR version: 99, max supported IR version: 13",
                Some("export the model with IR version 13 at most"),
            ),
            (
                "ONNX Runtime only *guarantees* support for models stamped with official released onnx opset versions. Opset \
                 999 is under development and support for this is limited. The operator schemas and or other functionality \
                 may change before next ONNX release and in this case ONNX Runtime will not guarantee backward \
                 compatibility. Current official support for domain ai.onnx is till opset 26.",
                Some("export the model with opset 26 of ai.onnx at most"),
            ),
            (
                "Fatal error: ai.onnx.contrib:BertTokenizer(-1) is not a registered function/op",
                Some(
                    "ai.onnx.contrib is the domain of ONNX Runtime Extensions: export the model without it, or start the \
                     server with --operators LIBRARY, where LIBRARY is libortextensions.so",
                ),
            ),
            (
                "Fatal error: com.example:Frob(-1) is not a registered function/op",
                Some(
                    "this ONNX Runtime has no operators of the domain \"com.example\": export the model without them, or \
                     start the server with --operators LIBRARY, where LIBRARY is the library of these operators",
                ),
            ),
            ("Fatal error: ai.onnx.ml:Frob(-1) is not a registered function/op", None),
            ("This is an invalid model. Error No Op registered for Frob", None),
            ("Unsupported model IR version: 99, max supported IR version: many", None),
        ];
        for (message, expected) in table {
            assert_eq!(remedy(message).as_deref(), expected, "{message}");
        }
    }

    #[test]
    fn a_failed_device_differs_from_a_rejected_model() {
        let table = [
            ("CUDA failure 700: an illegal memory access was encountered", true),
            (
                "Non-zero status code returned while running Conv node. Name:'c' Status Message: CUDNN failure 4: \
                 CUDNN_STATUS_INTERNAL_ERROR",
                true,
            ),
            (
                "Exception during initialization: CUBLAS failure 1: CUBLAS_STATUS_NOT_INITIALIZED",
                true,
            ),
            (
                "Non-zero status code returned while running Gather node. Name:'CUDA failure 1' Status Message: indices \
                 element out of data bounds",
                false,
            ),
            ("Protobuf parsing failed.", false),
        ];
        for (message, expected) in table {
            assert_eq!(is_device_failure(message), expected, "{message}");
        }
    }
}
