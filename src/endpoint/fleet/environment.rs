//! The environment of a container.
//!
//! The model's variables replace ours, and SageMaker's replace the model's, as on the platform.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::endpoint::spec::Container;

/// The ports that the platform assigns to a container.
pub(super) struct Ports {
    pub main: u16,
    /// An inclusive range of further ports that the container may use.
    pub safe: (u16, u16),
}

/// Prefixes of variables that configure this process, or this process as a container. Containers
/// do not inherit them.
const OWN: [&str; 2] = ["LONGSHORE_", "SAGEMAKER_"];

/// The credentials, which come from a role on SageMaker, and the region.
const CREDENTIALS: [&str; 5] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
];

/// The variables that a process inherits: all except those that configure this program. They
/// include library paths, GPU settings, credentials and proxies.
pub(super) fn inherited<'a>(
    variables: impl Iterator<Item = (&'a str, &'a str)>,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    variables.filter(|(name, _)| !OWN.iter().any(|own| name.starts_with(own)))
}

/// The names of the variables that are passed to an image, which has its own environment.
pub(super) fn credentials<'a>(variables: impl Iterator<Item = (&'a str, &'a str)>) -> impl Iterator<Item = &'a str> {
    variables
        .map(|(name, _)| name)
        .filter(|name| CREDENTIALS.contains(name))
}

/// Limits of one invocation of a container: the size of the body and the time for the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvocationBounds {
    pub bytes: u64,
    pub time: Duration,
}

/// The variables that set `bounds`, unless the model sets the same limit itself. The container
/// gives our variables precedence over those of AWS's images, so ours must not override the
/// model's.
pub(super) fn bounds(
    container: &Container,
    bounds: InvocationBounds,
) -> impl Iterator<Item = (&'static str, String)> + use<> {
    const BODY: [&str; 3] = [
        "LONGSHORE_MAX_BODY",
        "SAGEMAKER_MAX_REQUEST_SIZE",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB",
    ];
    const TIME: [&str; 2] = ["LONGSHORE_REQUEST_TIMEOUT", "SAGEMAKER_MODEL_SERVER_TIMEOUT"];
    let unsaid = |names: &[&str]| !names.iter().any(|name| container.environment.contains_key(*name));
    let body = unsaid(&BODY).then(|| (BODY[0], bounds.bytes.to_string()));
    let time = unsaid(&TIME).then(|| (TIME[0], format!("{}ms", bounds.time.as_millis())));
    body.into_iter().chain(time)
}

/// The variables that are set for `container` in addition to the inherited ones.
pub(super) fn set<'a>(
    container: &'a Container,
    ours: impl IntoIterator<Item = (&'a str, String)>,
    ports: &Ports,
) -> BTreeMap<&'a str, String> {
    let mut variables: BTreeMap<&str, String> = ours.into_iter().collect();
    let given = container.environment.iter();
    variables.extend(given.map(|(name, value)| (name.as_str(), value.clone())));
    variables.insert("SAGEMAKER_BIND_TO_PORT", ports.main.to_string());
    let (first, last) = ports.safe;
    variables.insert("SAGEMAKER_SAFE_PORT_RANGE", format!("{first}-{last}"));
    if container.is_multi_model() {
        variables.insert("SAGEMAKER_MULTI_MODEL", "true".to_owned());
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::spec::Mode;

    #[test]
    fn the_models_variables_override_ours_and_sagemakers_override_the_models() {
        let mut container = Container::new("a");
        container.mode = Mode::MultiModel { cache: true };
        for (name, value) in [("LONGSHORE_THREADS", "7"), ("SAGEMAKER_BIND_TO_PORT", "1"), ("X", "y")] {
            container.environment.insert(name.to_owned(), value.to_owned());
        }
        let ours = [
            ("LONGSHORE_THREADS", "2".to_owned()),
            ("LONGSHORE_BIND", "::1".to_owned()),
        ];
        let ports = Ports {
            main: 4000,
            safe: (4000, 4001),
        };
        let expected = [
            ("LONGSHORE_BIND", "::1"),
            ("LONGSHORE_THREADS", "7"),
            ("SAGEMAKER_BIND_TO_PORT", "4000"),
            ("SAGEMAKER_MULTI_MODEL", "true"),
            ("SAGEMAKER_SAFE_PORT_RANGE", "4000-4001"),
            ("X", "y"),
        ];
        let set = set(&container, ours, &ports);
        assert_eq!(set, expected.map(|(name, value)| (name, value.to_owned())).into());
    }

    #[test]
    fn wider_limits_are_set_unless_the_model_sets_its_own() {
        let table: &[(&[&str], &[&str])] = &[
            (&[], &["LONGSHORE_MAX_BODY=1024", "LONGSHORE_REQUEST_TIMEOUT=3600000ms"]),
            (&["LONGSHORE_MAX_BODY"], &["LONGSHORE_REQUEST_TIMEOUT=3600000ms"]),
            (
                &["SAGEMAKER_MAX_PAYLOAD_IN_MB"],
                &["LONGSHORE_REQUEST_TIMEOUT=3600000ms"],
            ),
            (
                &["SAGEMAKER_MAX_REQUEST_SIZE"],
                &["LONGSHORE_REQUEST_TIMEOUT=3600000ms"],
            ),
            (&["SAGEMAKER_MODEL_SERVER_TIMEOUT"], &["LONGSHORE_MAX_BODY=1024"]),
            (&["LONGSHORE_REQUEST_TIMEOUT", "LONGSHORE_MAX_BODY"], &[]),
        ];
        for (given, expected) in table {
            let mut container = Container::new("a");
            let given = given.iter().map(|name| ((*name).to_owned(), "7".to_owned()));
            container.environment.extend(given);
            let wide = InvocationBounds {
                bytes: 1024,
                time: Duration::from_secs(3600),
            };
            let set = bounds(&container, wide).map(|(name, value)| format!("{name}={value}"));
            assert_eq!(Vec::from_iter(set), *expected, "{:?}", container.environment);
        }
    }

    #[test]
    fn variables_of_this_program_are_not_inherited() {
        let variables = [
            ("PATH", "/bin"),
            ("LONGSHORE_STATE", "s"),
            ("SAGEMAKER_MULTI_MODEL", "true"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("ORT_DYLIB_PATH", "/lib"),
        ];
        let kept: Vec<&str> = inherited(variables.into_iter()).map(|(name, _)| name).collect();
        assert_eq!(kept, ["PATH", "AWS_SECRET_ACCESS_KEY", "ORT_DYLIB_PATH"]);
        let passed: Vec<&str> = credentials(variables.into_iter()).collect();
        assert_eq!(passed, ["AWS_SECRET_ACCESS_KEY"]);
    }
}
