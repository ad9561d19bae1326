//! Models on a GPU: ONNX Runtime's CUDA and TensorRT execution providers.
//!
//! The library, which is loaded at run time, determines which providers exist; the operator
//! chooses one. If the chosen provider is missing, the server does not start and explains why
//! ([`explanation`]). A silent fallback to the CPU would only show up on the bill. With
//! `--provider auto` the server logs a warning and uses the CPU. Single operators that the
//! provider does not implement run on the CPU.
//!
//! Invariants:
//! - All sessions allocate from one arena of the device, which the environment owns. A limit on
//!   each session (`gpu_mem_limit`) would not bound their sum: a thousand models, a thousand
//!   limits. Memory of an unloaded model stays in the arena for the next one.
//! - Runs of one session are serialised (`session.rs`).
//! - Forms that were prepared for the CPU are not served: which operators are fused depends on the
//!   processor.

use std::path::Path;

use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{CUDA, ExecutionProviderDispatch, TensorRT};

/// A GPU and the options for its use.
#[derive(Debug, Clone)]
pub struct Gpu {
    pub provider: GpuProvider,
    /// Whether the server refuses to start without it.
    pub required: bool,
    /// The index of the device among those visible to CUDA.
    pub device: u16,
    /// Bytes of the device's memory for all models together; `None` for all of it.
    pub memory_limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuProvider {
    Cuda,
    /// TensorRT; operators that it does not implement run with CUDA.
    TensorRt,
}

impl GpuProvider {
    pub fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }
}

impl Gpu {
    /// Returns the execution providers for a session, in order of preference. TensorRT caches the
    /// engines that it builds in the folder `engines`, because building one takes minutes.
    pub fn providers(&self, engines: Option<&Path>) -> Vec<ExecutionProviderDispatch> {
        let cuda = self.cuda().build().error_on_failure();
        match self.provider {
            GpuProvider::Cuda => vec![cuda],
            GpuProvider::TensorRt => vec![self.tensorrt(engines).build().error_on_failure(), cuda],
        }
    }

    fn cuda(&self) -> CUDA {
        let cuda = CUDA::default()
            .with_device_id(self.device.into())
            // The default tries all algorithms for every new shape, without a limit on memory.
            // That would cost the first request of each size several seconds.
            .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic);
        match self.limit() {
            Some(limit) => cuda.with_memory_limit(limit),
            None => cuda,
        }
    }

    fn tensorrt(&self, engines: Option<&Path>) -> TensorRT {
        let mut tensorrt = TensorRT::default().with_device_id(self.device.into());
        if let Some(limit) = self.limit() {
            tensorrt = tensorrt.with_max_workspace_size(limit);
        }
        if let Some(folder) = engines {
            let folder = folder.display();
            tensorrt = tensorrt
                .with_engine_cache(true)
                .with_engine_cache_path(&folder)
                .with_timing_cache(true)
                .with_timing_cache_path(&folder);
        }
        tensorrt
    }

    /// The memory limit in the type that the library takes.
    pub fn limit(&self) -> Option<usize> {
        self.memory_limit
            .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
    }
}

/// Advice for `message`, with which ONNX Runtime rejects the provider.
pub fn explanation(message: &str) -> &'static str {
    let says = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
    // The library's message names the missing part.
    if says(&["not enabled in this build", "not supported in this build"]) {
        "the library was built without it: set ORT_DYLIB_PATH to the libonnxruntime.so of a GPU build, such as the one \
         in the wheel onnxruntime-gpu of the same release"
    } else if says(&["libonnxruntime_providers_"]) && says(&["libcuda.so"]) {
        "the driver's library is missing: check that there is a GPU and that the container was started with it \
         (docker run --gpus all)"
    } else if says(&["libonnxruntime_providers_"]) && says(&["libcu", "libnv", "libnpp"]) {
        "a library of CUDA, cuDNN or TensorRT is missing: install the release that ONNX Runtime was built for, or add its \
         folder to LD_LIBRARY_PATH"
    } else if says(&["libonnxruntime_providers_"]) {
        "the provider's library and libonnxruntime_providers_shared.so must be in the same folder as libonnxruntime.so"
    } else if says(&[
        "no CUDA-capable device",
        "driver version is insufficient",
        "invalid device ordinal",
    ]) {
        "there is no such device: compare --device with the output of nvidia-smi, and check that the container was \
         started with the device (docker run --gpus all)"
    } else if says(&["out of memory"]) {
        "the device is out of memory: other processes may be using it"
    } else {
        "check with nvidia-smi that the device works"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(memory_limit: Option<u64>) -> Gpu {
        Gpu {
            provider: GpuProvider::TensorRt,
            required: true,
            device: 3,
            memory_limit,
        }
    }

    #[test]
    fn provider_options_name_the_device_and_its_memory_limit() {
        let table = [
            (
                format!("{:?}", gpu(None).cuda()),
                vec![r#""device_id": "3""#, r#""cudnn_conv_algo_search": "HEURISTIC""#],
                vec!["gpu_mem_limit"],
            ),
            (
                format!("{:?}", gpu(Some(1 << 33)).cuda()),
                vec![r#""gpu_mem_limit": "8589934592""#],
                vec![],
            ),
            (
                format!("{:?}", gpu(None).tensorrt(None)),
                vec![r#""device_id": "3""#],
                vec!["workspace", "cache"],
            ),
            (
                format!("{:?}", gpu(Some(1 << 33)).tensorrt(Some(Path::new("/cache/key")))),
                vec![
                    r#""trt_max_workspace_size": "8589934592""#,
                    r#""trt_engine_cache_enable": "true""#,
                    r#""trt_engine_cache_path": "/cache/key""#,
                    r#""trt_timing_cache_enable": "true""#,
                    r#""trt_timing_cache_path": "/cache/key""#,
                ],
                vec![],
            ),
        ];
        for (options, present, absent) in table {
            for part in present {
                assert!(options.contains(part), "{part} is not in {options}");
            }
            for part in absent {
                assert!(!options.contains(part), "{part} is in {options}");
            }
        }
    }

    #[test]
    fn tensorrt_is_registered_with_cuda_behind_it() {
        let names = |provider| -> Vec<&str> {
            let gpu = Gpu { provider, ..gpu(None) };
            gpu.providers(None)
                .iter()
                .map(ExecutionProviderDispatch::name)
                .collect()
        };
        assert_eq!(names(GpuProvider::Cuda), ["CUDAExecutionProvider"]);
        assert_eq!(
            names(GpuProvider::TensorRt),
            ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
        );
    }

    #[test]
    fn each_failure_of_a_provider_has_its_own_advice() {
        let table = [
            (
                "CUDA execution provider is not enabled in this build. ",
                "ORT_DYLIB_PATH",
            ),
            (
                "Failed to load library libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared \
                 object file: No such file or directory",
                "LD_LIBRARY_PATH",
            ),
            (
                "Failed to load library libonnxruntime_providers_tensorrt.so with error: libnvinfer.so.10: cannot open \
                 shared object file: No such file or directory",
                "LD_LIBRARY_PATH",
            ),
            (
                "Failed to load library libonnxruntime_providers_cuda.so with error: libcuda.so.1: cannot open shared object \
                 file: No such file or directory",
                "--gpus",
            ),
            (
                "Failed to load library libonnxruntime_providers_shared.so with error: libonnxruntime_providers_shared.so: \
                 cannot open shared object file: No such file or directory",
                "same folder as libonnxruntime.so",
            ),
            (
                "CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=a ; expr=cudaSetDevice(id);",
                "--device",
            ),
            ("CUDA failure 101: invalid device ordinal ; GPU=0", "--device"),
            ("CUDA failure 2: out of memory ; GPU=0", "other processes"),
            (
                "CUDA failure 46: all CUDA-capable devices are busy or unavailable",
                "nvidia-smi",
            ),
        ];
        for (message, part) in table {
            assert!(
                explanation(message).contains(part),
                "{message}: {}",
                explanation(message)
            );
        }
    }
}
