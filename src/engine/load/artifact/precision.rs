//! Chooses between several precisions of one model.
//!
//! Optimum, Transformers.js and sentence-transformers write `model.onnx`, `model_fp16.onnx`,
//! `model_quantized.onnx` and the like. The part after the common stem names the precision of the
//! weights. All of these files answer the same requests with about the same numbers, so the
//! server can choose one. Files with other differences in their names are different models.

/// The processor that the model will run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processor {
    Cpu,
    Gpu,
}

/// The precision of a file's weights, according to its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Precision {
    /// The precision of the training, possibly optimised with numbers of the same width.
    Plain,
    Half,
    /// Eight bits.
    Quantized,
    /// Fewer bits.
    Narrow,
}

/// Words that name a precision, in lower case. If a name has several of them, the narrowest
/// counts.
const WORDS: [(&str, Precision); 31] = [
    ("fp32", Precision::Plain),
    ("f32", Precision::Plain),
    ("float32", Precision::Plain),
    ("o1", Precision::Plain),
    ("o2", Precision::Plain),
    ("o3", Precision::Plain),
    ("opt", Precision::Plain),
    ("optimized", Precision::Plain),
    // Optimum's level 4 is level 3 at half precision, for GPUs.
    ("o4", Precision::Half),
    ("fp16", Precision::Half),
    ("f16", Precision::Half),
    ("float16", Precision::Half),
    ("half", Precision::Half),
    ("bf16", Precision::Half),
    ("bfloat16", Precision::Half),
    ("int8", Precision::Quantized),
    ("i8", Precision::Quantized),
    ("uint8", Precision::Quantized),
    ("qint8", Precision::Quantized),
    ("quint8", Precision::Quantized),
    ("q8", Precision::Quantized),
    ("quant", Precision::Quantized),
    ("quantized", Precision::Quantized),
    ("dynamic", Precision::Quantized),
    ("static", Precision::Quantized),
    ("qdq", Precision::Quantized),
    ("q4", Precision::Narrow),
    ("q4f16", Precision::Narrow),
    ("int4", Precision::Narrow),
    ("uint4", Precision::Narrow),
    ("bnb4", Precision::Narrow),
];

/// Words for the processor that a quantised file was made for. On processors of another family
/// the file runs slowly.
const PROCESSORS: [(&str, &str); 6] = [
    ("avx2", "x86_64"),
    ("avx512", "x86_64"),
    ("vnni", "x86_64"),
    ("amd64", "x86_64"),
    ("arm64", "aarch64"),
    ("ppc64le", "powerpc64"),
];

/// A file's name and its parts.
#[derive(Debug, Clone, Copy)]
struct Named<'a> {
    name: &'a str,
    stem: &'a str,
    precision: Precision,
    /// Whether the file was made for a processor of another family.
    is_foreign: bool,
}

/// Chooses one of the ONNX files `names` for `processor`. Also returns the reason. `None` if they
/// are not precisions of one model.
pub(super) fn choose<'a>(names: &[&'a str], processor: Processor) -> Option<(&'a str, &'static str)> {
    let files: Vec<Named<'_>> = names.iter().map(|name| taken_apart(name)).collect::<Option<_>>()?;
    let stem = files.first()?.stem;
    if files.iter().any(|file| file.stem != stem) {
        return None;
    }
    // Of two equal files, the one with the shorter name is the more general.
    let best = files.iter().min_by_key(|file| {
        let rank = rank(file.precision, processor);
        (rank, file.is_foreign, file.name.len(), file.name)
    })?;
    Some((best.name, why(best.precision, processor)))
}

/// Returns the name without its extension and without the words for precisions and processors. A
/// name without the extension `.onnx` is returned unchanged.
pub(super) fn stem(name: &str) -> &str {
    taken_apart(name).map_or(name, |file| file.stem)
}

/// The order of preference; the lowest rank is the best. The plain file gives the outputs that
/// the model was trained for. A CPU computes faster with eight bits than with float32, and has to
/// widen float16 first. A GPU is made for float16.
fn rank(precision: Precision, processor: Processor) -> u8 {
    match (precision, processor) {
        (Precision::Plain, _) => 0,
        (Precision::Quantized, Processor::Cpu) | (Precision::Half, Processor::Gpu) => 1,
        (Precision::Half, Processor::Cpu) | (Precision::Quantized, Processor::Gpu) => 2,
        (Precision::Narrow, _) => 3,
    }
}

fn why(precision: Precision, processor: Processor) -> &'static str {
    match (precision, processor) {
        (Precision::Plain, _) => "of several precisions of one model, the one it was trained in",
        (Precision::Quantized, Processor::Cpu) => "of several precisions of one model, 8 bits are preferred on a CPU",
        (Precision::Half, Processor::Cpu) => "of several precisions of one model, the widest",
        (Precision::Half, Processor::Gpu) => "of several precisions of one model, float16 is preferred on a GPU",
        (Precision::Quantized, Processor::Gpu) => "of several precisions of one model, the widest",
        (Precision::Narrow, _) => "of several precisions of one model, all of few bits, the most general",
    }
}

/// Splits `name` into a stem and the words after it that name a precision or a processor. `None`
/// for a name without the extension `.onnx`.
fn taken_apart(name: &str) -> Option<Named<'_>> {
    let whole = name.strip_suffix(".onnx")?;
    let (mut stem, mut precision, mut is_foreign) = (whole, Precision::Plain, false);
    while let Some((before, word)) = stem.rsplit_once(['_', '-', '.']) {
        if before.is_empty() {
            break;
        }
        let word = word.to_ascii_lowercase();
        if let Some((_, named)) = WORDS.iter().find(|(known, _)| *known == word) {
            precision = narrower(precision, *named);
        } else if let Some((_, family)) = PROCESSORS.iter().find(|(known, _)| *known == word) {
            is_foreign |= *family != std::env::consts::ARCH;
        } else {
            break;
        }
        stem = before;
    }
    Some(Named {
        name,
        stem,
        precision,
        is_foreign,
    })
}

fn narrower(one: Precision, other: Precision) -> Precision {
    let width = |precision| match precision {
        Precision::Plain => 3,
        Precision::Half => 2,
        Precision::Quantized => 1,
        Precision::Narrow => 0,
    };
    if width(other) < width(one) { other } else { one }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_decides_which_precision_is_chosen() {
        let table: [(&[&str], Option<&str>, Option<&str>); 11] = [
            (
                &["net.onnx", "net_fp16.onnx", "net_int8.onnx"],
                Some("net.onnx"),
                Some("net.onnx"),
            ),
            (
                &["model_fp16.onnx", "model_quantized.onnx", "model_q4.onnx"],
                Some("model_quantized.onnx"),
                Some("model_fp16.onnx"),
            ),
            (
                &[
                    "model_uint8.onnx",
                    "model_int8.onnx",
                    "model_bnb4.onnx",
                    "model_q4f16.onnx",
                ],
                Some("model_int8.onnx"),
                Some("model_int8.onnx"),
            ),
            (
                &["model_O4.onnx", "model_O2.onnx", "model_O3.onnx"],
                Some("model_O2.onnx"),
                Some("model_O2.onnx"),
            ),
            (
                &["model_O4.onnx", "model_qint8_avx512_vnni.onnx"],
                Some("model_qint8_avx512_vnni.onnx"),
                Some("model_O4.onnx"),
            ),
            (
                &["resnet50-fp16.onnx", "resnet50.int8.onnx"],
                Some("resnet50.int8.onnx"),
                Some("resnet50-fp16.onnx"),
            ),
            (
                &["model_fp16.onnx", "model_q4.onnx"],
                Some("model_fp16.onnx"),
                Some("model_fp16.onnx"),
            ),
            // Different models.
            (&["a.onnx", "b.onnx"], None, None),
            (&["a_int8.onnx", "b_int8.onnx"], None, None),
            (&["model_int8.onnx", "model_large.onnx"], None, None),
            (&["model_v1.onnx", "model_v2.onnx"], None, None),
        ];
        for (names, on_cpu, on_gpu) in table {
            for (processor, expected) in [(Processor::Cpu, on_cpu), (Processor::Gpu, on_gpu)] {
                let chosen = choose(names, processor).map(|(name, _)| name);
                assert_eq!(chosen, expected, "{names:?} {processor:?}");
                let reversed: Vec<&str> = names.iter().rev().copied().collect();
                assert_eq!(
                    choose(&reversed, processor).map(|(name, _)| name),
                    expected,
                    "the order of the names must not matter"
                );
            }
        }
    }

    #[test]
    fn a_file_for_this_processor_is_preferred_to_one_for_another() {
        let names = ["model_qint8_arm64.onnx", "model_quint8_avx2.onnx"];
        let expected = match std::env::consts::ARCH {
            "aarch64" => names[0],
            _ => names[1],
        };
        if ["aarch64", "x86_64"].contains(&std::env::consts::ARCH) {
            assert_eq!(choose(&names, Processor::Cpu).unwrap().0, expected);
        }
    }

    #[test]
    fn a_name_that_is_only_a_precision_is_its_own_stem() {
        assert_eq!(stem("int8.onnx"), "int8");
        assert_eq!(stem("_int8.onnx"), "_int8");
        assert_eq!(stem("decoder_model_q4.onnx"), "decoder_model");
        assert_eq!(stem("model.ort"), "model.ort");
    }
}
