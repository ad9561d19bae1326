//! Google Cloud Storage, configured by Google's environment variables.
//!
//! object_store searches for credentials in the order of Google's own tools: a service account, the
//! file in `GOOGLE_APPLICATION_CREDENTIALS`, the file that `gcloud auth application-default login`
//! wrote to the home folder, the instance's. It does not reveal the address in a credentials file,
//! nor the type of a file that it does not understand, so this module reads both.

use object_store::ClientOptions;
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use serde::Deserialize;

use super::clouds::{check_endpoint, configured, is_plain, never, reason};
use super::environment::Environment;
use super::exchange::ObservingConnector;

/// Variables with the path or the text of a service account's key file.
const PATHS: [&str; 3] = [
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "SERVICE_ACCOUNT",
];
const TEXT: &str = "GOOGLE_SERVICE_ACCOUNT_KEY";
const ANY_KIND: &str = "GOOGLE_APPLICATION_CREDENTIALS";

const BASE: &str = "GOOGLE_BASE_URL";

/// The variable of Google's client libraries for a server without credentials, as `host:port` or
/// URL.
const EMULATOR: &str = "STORAGE_EMULATOR_HOST";

/// The fields of a credentials file that are not secrets.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
struct CredentialFields {
    #[serde(rename = "type")]
    kind: Option<String>,
    gcs_base_url: Option<String>,
}

/// The variable with credentials, and their fields. The fields are empty where they cannot be read,
/// which object_store reports.
fn credentials(environment: &Environment) -> Option<(&'static str, CredentialFields)> {
    let set = |name: &&str| environment.get(name).is_some();
    let (name, text) = match PATHS.into_iter().chain([TEXT, ANY_KIND]).find(set)? {
        TEXT => (TEXT, environment.get(TEXT)?.to_owned()),
        name => (
            name,
            std::fs::read_to_string(environment.get(name)?).unwrap_or_default(),
        ),
    };
    Some((name, serde_json::from_str(&text).unwrap_or_default()))
}

/// Builds a client of `bucket`. `options` takes whether plain HTTP is allowed.
pub(super) fn build(
    bucket: &str,
    environment: &Environment,
    options: impl Fn(bool) -> ClientOptions,
) -> Result<GoogleCloudStorage, String> {
    let credentials = credentials(environment);
    let result = builder(environment, credentials.as_ref(), options)?
        .with_url(bucket)
        .build();
    result.map_err(|error| match credentials {
        Some((name, _)) => format!("{name}: {}", reason(&error)),
        None => reason(&error),
    })
}

fn builder(
    environment: &Environment,
    credentials: Option<&(&'static str, CredentialFields)>,
    options: impl Fn(bool) -> ClientOptions,
) -> Result<GoogleCloudStorageBuilder, String> {
    let (name, facts) = credentials.map_or(("", None), |(name, facts)| (*name, Some(facts)));
    let kind = facts.and_then(|facts| facts.kind.as_deref());
    if let Some(kind) = kind
        && !matches!(kind, "service_account" | "authorized_user")
    {
        return Err(format!(
            "{name} has credentials of the type {kind:?}, which is not supported; give the key file of a service account, or \
             a token in GOOGLE_BEARER_TOKEN"
        ));
    }
    let emulator = environment.get(EMULATOR).map(|host| match host.contains("://") {
        true => host.to_owned(),
        false => format!("http://{host}"),
    });
    let of_facts = facts.and_then(|facts| facts.gcs_base_url.as_deref());
    let named = match (environment.get(BASE), of_facts) {
        (Some(url), _) => Some((BASE, url)),
        (None, Some(url)) => Some((name, url)),
        (None, None) => None,
    };
    let base = named.or(emulator.as_deref().map(|url| (EMULATOR, url)));
    if let Some((name, url)) = base {
        check_endpoint(name, url)?;
    }
    let base = base.map(|(_, url)| url.trim_end_matches('/'));
    let builder = GoogleCloudStorageBuilder::new().with_client_options(options(base.is_some_and(is_plain)));
    let builder = configured(environment, "GOOGLE_", builder, |builder, key, value| {
        match key.parse() {
            Ok(key) => builder.with_config(key, value),
            Err(_) => builder,
        }
    });
    let mut builder = builder.with_retry(never()).with_http_connector(ObservingConnector);
    match environment.get(name) {
        // Passed as a service account, so that it can disable itself, as those for local servers
        // do.
        Some(path) if name == "SERVICE_ACCOUNT" || (name == ANY_KIND && kind == Some("service_account")) => {
            builder = builder.with_service_account_path(path);
        }
        Some(_) | None => {}
    }
    if let Some(base) = base {
        builder = builder.with_base_url(base);
    }
    if environment.is_set("GOOGLE_SKIP_SIGNATURE") || (named.is_none() && emulator.is_some()) {
        // An empty token as well: without a token, object_store searches for credentials when it
        // writes.
        builder = builder.with_skip_signature(true).with_bearer_token("");
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use object_store::gcp::GoogleConfigKey;

    use super::*;
    use crate::tls;

    type Variables<'a> = [(&'a str, &'a str)];

    fn options(http: bool) -> ClientOptions {
        tls::provide();
        ClientOptions::new().with_allow_http(http)
    }

    fn built(variables: &Variables<'_>) -> GoogleCloudStorageBuilder {
        let environment = Environment::from_iter(variables.iter().copied());
        let credentials = credentials(&environment);
        builder(&environment, credentials.as_ref(), options).unwrap()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    const LOCAL: &str = r#"{"type": "service_account", "gcs_base_url": "http://127.0.0.1:9/", "disable_oauth": true,
        "private_key": "", "private_key_id": "", "client_email": ""}"#;

    #[test]
    fn the_address_comes_from_the_environment_then_the_credentials_then_an_emulator() {
        let file = file(LOCAL);
        let path = file.path().to_str().unwrap();
        let own = ("GOOGLE_BASE_URL", "https://own/");
        let emulator = ("STORAGE_EMULATOR_HOST", "localhost:1");
        let table: [(&Variables<'_>, Option<&str>, &str, &str); 7] = [
            (&[], None, "false", "false"),
            (&[own], Some("https://own"), "false", "false"),
            (&[own, emulator], Some("https://own"), "false", "false"),
            (
                &[(PATHS[0], path), emulator],
                Some("http://127.0.0.1:9"),
                "true",
                "false",
            ),
            (&[(ANY_KIND, path)], Some("http://127.0.0.1:9"), "true", "false"),
            (&[emulator], Some("http://localhost:1"), "true", "true"),
            (
                &[("STORAGE_EMULATOR_HOST", "https://localhost:1")],
                Some("https://localhost:1"),
                "false",
                "true",
            ),
        ];
        for (variables, base, plain, unsigned) in table {
            let builder = built(variables);
            let value = |key: &str| builder.get_config_value(&key.parse().unwrap());
            assert_eq!(value("google_base_url").as_deref(), base, "{variables:?}");
            assert_eq!(value("allow_http").as_deref(), Some(plain), "{variables:?}");
            assert_eq!(value("skip_signature").as_deref(), Some(unsigned), "{variables:?}");
        }
    }

    #[test]
    fn an_invalid_address_is_refused() {
        let file = file(r#"{"gcs_base_url": "localhost"}"#);
        let path = file.path().to_str().unwrap();
        for (name, value) in [
            (BASE, "localhost:1"),
            (BASE, "http://"),
            (EMULATOR, ":"),
            (PATHS[0], path),
        ] {
            let environment = Environment::from_iter([(name, value)]);
            let message = build("gs://bucket", &environment, options).unwrap_err();
            assert!(
                message.contains(&format!("the address in {name} is invalid")),
                "{message}"
            );
        }
    }

    #[test]
    fn a_service_account_is_accepted_in_each_variable() {
        let file = file(LOCAL);
        let path = file.path().to_str().unwrap();
        for name in PATHS.into_iter().chain([ANY_KIND]) {
            let builder = built(&[(name, path)]);
            let found = builder.get_config_value(&GoogleConfigKey::ServiceAccount);
            assert_eq!(found.as_deref(), Some(path), "{name}");
        }
    }

    #[test]
    fn errors_in_credentials_name_the_variable() {
        let kind = file(r#"{"type": "external_account"}"#);
        let key = file(r#"{"type": "service_account", "private_key": "", "private_key_id": "", "client_email": ""}"#);
        let missing = std::path::Path::new("/nonexistent");
        let table = [
            (kind.path(), "has credentials of the type \"external_account\""),
            (key.path(), "GOOGLE_APPLICATION_CREDENTIALS: Error reading pem file"),
            (missing, "GOOGLE_APPLICATION_CREDENTIALS: Unable to open"),
        ];
        for (path, expected) in table {
            let environment = Environment::from_iter([(ANY_KIND, path.to_str().unwrap())]);
            let message = build("gs://bucket", &environment, options).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
