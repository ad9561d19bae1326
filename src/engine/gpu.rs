//! Models on a GPU: ONNX Runtime's CUDA and TensorRT execution providers.
//!
//! Which providers there are is the library's affair, which is loaded at run time; that one is used is the operator's
//! decision. So what is asked for and missing ends the start ([`explanation`]): a server that falls back to the CPU in
//! silence is found out by its bill. Who leaves it open (`--provider auto`) is told by a warning. Single operators that the provider does not implement do run on the CPU.
//!
//! What always holds:
//! - All sessions allocate from one arena of the device, which the environment owns. A limit given to each session
//!   (`gpu_mem_limit`) would bound each of them alone: a thousand models, a thousand limits. What an unloaded model had
//!   stays in the arena, for the next one.
//! - Runs of one session are one after another (`session.rs`).
//! - Nothing that was prepared for the CPU is served: which operators are fused depends on where they run.

use std::path::Path;

use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{CUDA, ExecutionProviderDispatch, TensorRT};

/// A GPU and how it is used.
#[derive(Debug, Clone)]
pub struct Gpu {
    pub provider: GpuProvider,
    /// Whether there is no start without it.
    pub required: bool,
    /// As CUDA counts the devices that it may see.
    pub device: u16,
    /// Bytes of the device's memory for all models together; `None` for what there is.
    pub memory_limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuProvider {
    Cuda,
    /// What TensorRT does not implement runs with CUDA.
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
    /// What a session is registered with, the most preferred first. TensorRT keeps the engines that it builds in
    /// `engines`: building one takes minutes.
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
            // The default tries all algorithms for every new shape, in whatever memory they ask for: seconds, in the
            // request that happens to be the first of its size.
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

/// What to do about `message`, with which ONNX Runtime refuses the provider.
pub fn explanation(message: &str) -> &'static str {
    let says = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
    // Whatever is missing, the library's message names it.
    if says(&["not enabled in this build", "not supported in this build"]) {
        "the library is built without it: set ORT_DYLIB_PATH to libonnxruntime.so of a GPU build, as in the wheel \
         onnxruntime-gpu of the same release"
    } else if says(&["libonnxruntime_providers_"]) && says(&["libcuda.so"]) {
        "the driver's library is missing: is there a GPU, and was the container started with it (docker run --gpus all)?"
    } else if says(&["libonnxruntime_providers_"]) && says(&["libcu", "libnv", "libnpp"]) {
        "a library of CUDA, cuDNN or TensorRT is missing: install the release that ONNX Runtime was built for, or name its \
         folder in LD_LIBRARY_PATH"
    } else if says(&["libonnxruntime_providers_"]) {
        "the provider's library must lie beside libonnxruntime.so, and so must libonnxruntime_providers_shared.so"
    } else if says(&[
        "no CUDA-capable device",
        "driver version is insufficient",
        "invalid device ordinal",
    ]) {
        "there is no such device: see nvidia-smi, --device, and how the container was started (docker run --gpus all)"
    } else if says(&["out of memory"]) {
        "the device has no memory left: other processes may use it"
    } else {
        "see nvidia-smi whether the device works"
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
    fn options_say_which_device_and_how_much_of_it() {
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
    fn tensorrt_leaves_to_cuda_what_it_does_not_implement() {
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
    fn what_is_missing_is_told_apart() {
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
                "beside libonnxruntime.so",
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
