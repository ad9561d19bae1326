//! The platform for which a model is prepared.
//!
//! ONNX Runtime chooses the layout of weights and folds constants for the processor that it runs
//! on, and writes operators that only the same build is sure to know. So a prepared model is valid
//! only on the same platform; on another one it is slower at best, and wrong at worst.

use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

/// A build of ONNX Runtime on a kind of processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// ONNX Runtime's description of its build.
    pub onnxruntime: String,
    /// The execution provider, if it is not the CPU's.
    pub provider: Option<String>,
    /// Hashes of the libraries of custom operators, in their order, separated by spaces.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub operators: String,
    /// `x86_64` or `aarch64`.
    pub architecture: String,
    /// The processor's numeric instruction sets, sorted and separated by spaces.
    pub features: String,
}

impl Platform {
    /// The platform of this machine, with the loaded `library` (`ort::info()`), an execution
    /// provider other than the CPU's, and custom `operators`.
    pub fn here(library: &str, provider: Option<&str>, operators: String) -> Self {
        let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let architecture = std::env::consts::ARCH;
        Self {
            onnxruntime: library.to_owned(),
            provider: provider.map(ToOwned::to_owned),
            operators,
            architecture: architecture.to_owned(),
            features: features(architecture, &text),
        }
    }

    /// Names the first difference, for a message.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        if self.architecture != other.architecture {
            Some("another architecture")
        } else if self.onnxruntime != other.onnxruntime {
            Some("another build of ONNX Runtime")
        } else if self.provider != other.provider {
            Some("another execution provider")
        } else if self.operators != other.operators {
            Some("other libraries of custom operators (--operators)")
        } else if self.features != other.features {
            Some("a processor with other instruction sets")
        } else {
            None
        }
    }
}

/// Writes all fields as one text, which is part of a key.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let provider = self.provider.as_deref().unwrap_or_default();
        let Self {
            onnxruntime,
            operators,
            architecture,
            features,
            ..
        } = self;
        write!(f, "{onnxruntime}\n{provider}\n{architecture}\n{features}")?;
        if operators.is_empty() {
            Ok(())
        } else {
            write!(f, "\n{operators}")
        }
    }
}

/// Selects those of the first processor's features by which ONNX Runtime chooses kernels and
/// layouts. On x86-64, the others concern memory, virtual machines and hardware bugs, and kernels
/// differ in which of them they list.
fn features(architecture: &str, cpuinfo: &str) -> String {
    const NUMERIC: [&str; 6] = ["amx", "avx", "f16c", "fma", "sse", "ssse3"];
    let mut features: Vec<&str> = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags") || line.starts_with("Features"))
        .and_then(|line| line.split_once(':'))
        .map(|(_, features)| features.split_whitespace().collect())
        .unwrap_or_default();
    if architecture == "x86_64" {
        features.retain(|feature| NUMERIC.iter().any(|numeric| feature.starts_with(numeric)));
    }
    features.sort_unstable();
    features.dedup();
    features.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numeric_instruction_sets_count() {
        let table = [
            (
                "x86_64",
                "processor\t: 0\nflags\t\t: fpu sse2 ssse3 md_clear avx2 fma avx512f ibrs\nflags\t\t: none",
                "avx2 avx512f fma sse2 ssse3",
            ),
            ("aarch64", "Features\t: fp asimd sve i8mm", "asimd fp i8mm sve"),
            ("x86_64", "no features here", ""),
        ];
        for (architecture, cpuinfo, expected) in table {
            assert_eq!(features(architecture, cpuinfo), expected);
        }
    }

    #[test]
    fn the_first_difference_is_named() {
        let here = Platform::here("1.31", None, String::new());
        assert_eq!(here.difference(&here), None);
        let table = [
            (
                Platform {
                    onnxruntime: "1.32".to_owned(),
                    ..here.clone()
                },
                "another build of ONNX Runtime",
            ),
            (
                Platform {
                    provider: Some("CUDA".to_owned()),
                    ..here.clone()
                },
                "another execution provider",
            ),
            (
                Platform {
                    operators: "0123".to_owned(),
                    ..here.clone()
                },
                "other libraries of custom operators (--operators)",
            ),
            (
                Platform {
                    architecture: "riscv64".to_owned(),
                    ..here.clone()
                },
                "another architecture",
            ),
            (
                Platform {
                    features: "mmx".to_owned(),
                    ..here.clone()
                },
                "a processor with other instruction sets",
            ),
        ];
        for (other, expected) in table {
            assert_eq!(here.difference(&other), Some(expected));
            assert_ne!(here.to_string(), other.to_string(), "{expected}");
        }
    }
}
