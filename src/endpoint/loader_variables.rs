//! Environment variables that a model must not set when its containers run as processes of this
//! user.
//!
//! On SageMaker a container's environment affects only the container. Here the process that
//! replaces the container runs as the endpoint's user. A variable that makes it load code, trust
//! other files or write to arbitrary paths would act with that user's rights. Containers from
//! images keep all variables, which refer to files inside the image.
//!
//! The names for the C library are those that it ignores itself in set-user-ID programs. Variables
//! that choose certificates, proxies or credentials stay allowed: they load no code, and such a
//! process downloads nothing.

use std::fmt;

/// Refused names with the reason.
#[derive(Debug)]
struct RefusedGroup {
    /// A name that ends in `*` is a prefix.
    names: &'static [&'static str],
    effect: &'static str,
}

const REFUSED: [RefusedGroup; 6] = [
    RefusedGroup {
        names: &["LD_*", "GLIBC_TUNABLES"],
        effect: "it makes the dynamic loader load other code",
    },
    RefusedGroup {
        names: &["GCONV_PATH", "LOCPATH", "NLSPATH", "I18NPATH", "TZDIR", "GETCONF_DIR"],
        effect: "it makes the C library load modules or data from elsewhere",
    },
    RefusedGroup {
        names: &["HOSTALIASES", "LOCALDOMAIN", "NIS_PATH", "RESOLV_*", "RES_OPTIONS"],
        effect: "it makes the C library look up names elsewhere",
    },
    RefusedGroup {
        names: &["MALLOC_*", "_RJEM_MALLOC_CONF", "JE_MALLOC_CONF", "TMPDIR"],
        effect: "it makes the process write or trust files elsewhere",
    },
    RefusedGroup {
        names: &[
            "ORT_*",
            "CUDA_INJECTION*",
            "NVTX_INJECTION*",
            "CUDA_CACHE_PATH",
            "CUDA_COREDUMP_*",
            "CUDNN_LOG*",
            "CUBLAS_LOG*",
            "CUBLASLT_LOG*",
            "OPENSSL_*",
            "SSLKEYLOGFILE",
            "LONGSHORE_OPERATORS",
        ],
        effect: "it makes a library load or write files elsewhere",
    },
    RefusedGroup {
        names: &[
            "LONGSHORE_BIND",
            "LONGSHORE_CACHE_DIR",
            "LONGSHORE_MODEL_DIR",
            "LONGSHORE_MODELS_ROOT",
            "LONGSHORE_MODEL_STORE",
            "LONGSHORE_ONLY_THIS_USER",
            "SAGEMAKER_BASE_DIR",
        ],
        effect: "the endpoint decides who reaches its process and which files it has",
    },
];

/// A variable that a model must not set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedVariable {
    name: String,
    effect: &'static str,
}

impl fmt::Display for RefusedVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the variable {} is not allowed for a container that runs as a process: {}. Remove it, or run images with \
             --runner docker.",
            self.name, self.effect
        )
    }
}

/// Finds the first refused name.
pub fn first_refused<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<RefusedVariable> {
    names.find_map(|name| {
        let group = REFUSED
            .iter()
            .find(|group| group.names.iter().any(|pattern| covers(pattern, name)))?;
        Some(RefusedVariable {
            name: name.to_owned(),
            effect: group.effect,
        })
    })
}

fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use std::any::TypeId;
    use std::net::IpAddr;
    use std::path::PathBuf;

    use clap::CommandFactory;

    use super::*;
    use crate::config::Cli;

    #[test]
    fn every_variable_of_serve_that_names_a_file_or_an_address_is_refused() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        let leads_elsewhere = |argument: &&clap::Arg| {
            let kind = argument.get_value_parser().type_id();
            kind == TypeId::of::<PathBuf>() || kind == TypeId::of::<IpAddr>()
        };
        let variables = serve
            .get_arguments()
            .filter(leads_elsewhere)
            .filter_map(clap::Arg::get_env);
        let variables = Vec::from_iter(variables.map(|name| name.to_str().unwrap()));
        assert!(variables.len() >= 6, "{variables:?}");
        for name in variables {
            assert!(first_refused([name].into_iter()).is_some(), "{name}");
        }
    }

    #[test]
    fn variables_that_load_code_or_redirect_files_are_refused_and_no_others() {
        let refused = [
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "LD_AUDIT",
            "LD_DEBUG_OUTPUT",
            "GLIBC_TUNABLES",
            "GCONV_PATH",
            "LOCPATH",
            "MALLOC_CONF",
            "MALLOC_TRACE",
            "_RJEM_MALLOC_CONF",
            "TMPDIR",
            "HOSTALIASES",
            "RESOLV_HOST_CONF",
            "ORT_DYLIB_PATH",
            "ORT_TENSORRT_EXTRA_PLUGIN_LIB_PATHS",
            "CUDA_INJECTION64_PATH",
            "NVTX_INJECTION64_PATH",
            "OPENSSL_CONF",
            "SSLKEYLOGFILE",
            "LONGSHORE_BIND",
            "LONGSHORE_CACHE_DIR",
            "LONGSHORE_MODELS_ROOT",
            "LONGSHORE_MODEL_STORE",
            "SAGEMAKER_BASE_DIR",
        ];
        for name in refused {
            let found = first_refused(["A", name].into_iter()).map(|refused| refused.to_string());
            assert!(found.is_some_and(|text| text.contains(&format!(" {name} "))), "{name}");
        }
        let allowed = [
            "LONGSHORE_THREADS",
            "LONGSHORE_MEMORY_LIMIT",
            "LONGSHORE_MODEL_NAME",
            "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT",
            "SAGEMAKER_PROGRAM",
            "PATH",
            "PYTHONPATH",
            "HTTPS_PROXY",
            "SSL_CERT_FILE",
            "AWS_REGION",
            "LANG",
            "OLD_LD_PRELOAD",
            "CUDA_VISIBLE_DEVICES",
            "ld_preload",
        ];
        assert_eq!(first_refused(allowed.into_iter()), None);
    }
}
