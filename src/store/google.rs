//! Google Cloud Storage as Google's environment describes it.
//!
//! object_store looks for credentials in the order of Google's own tools: a service account, the file of
//! `GOOGLE_APPLICATION_CREDENTIALS`, what `gcloud auth application-default login` left in the home folder, the instance's.
//! What it does not tell is which address a file of credentials names, and of which kind such a file is when it is none that
//! it knows, so that is read here.

use object_store::ClientOptions;
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use serde::Deserialize;

use super::clouds::{check_endpoint, configured, is_plain, never, reason};
use super::environment::Environment;
use super::exchange::Observing;

/// Where the file or the text of a service account is looked for.
const PATHS: [&str; 3] = [
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "SERVICE_ACCOUNT",
];
const TEXT: &str = "GOOGLE_SERVICE_ACCOUNT_KEY";
const ANY_KIND: &str = "GOOGLE_APPLICATION_CREDENTIALS";

const BASE: &str = "GOOGLE_BASE_URL";

/// Of Google's client libraries: a server without credentials, as `host:port` or as a URL.
const EMULATOR: &str = "STORAGE_EMULATOR_HOST";

/// What credentials say beside secrets.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
struct Facts {
    #[serde(rename = "type")]
    kind: Option<String>,
    gcs_base_url: Option<String>,
}

/// The variable that has credentials, and what they say; nothing where they cannot be read, which object_store reports.
fn credentials(environment: &Environment) -> Option<(&'static str, Facts)> {
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

/// A client of `bucket`, or what is wrong; `options` are those for TLS or, if true is passed, without.
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
    credentials: Option<&(&'static str, Facts)>,
    options: impl Fn(bool) -> ClientOptions,
) -> Result<GoogleCloudStorageBuilder, String> {
    let (name, facts) = credentials.map_or(("", None), |(name, facts)| (*name, Some(facts)));
    let kind = facts.and_then(|facts| facts.kind.as_deref());
    if let Some(kind) = kind
        && !matches!(kind, "service_account" | "authorized_user")
    {
        return Err(format!(
            "{name} has credentials of the type {kind:?}, which is not understood; give the key file of a service account, or \
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
    let mut builder = builder.with_retry(never()).with_http_connector(Observing);
    match environment.get(name) {
        // As such, so that it may say that it is not to be used, which is for servers on this machine.
        Some(path) if name == "SERVICE_ACCOUNT" || (name == ANY_KIND && kind == Some("service_account")) => {
            builder = builder.with_service_account_path(path);
        }
        Some(_) | None => {}
    }
    if let Some(base) = base {
        builder = builder.with_base_url(base);
    }
    if environment.is_set("GOOGLE_SKIP_SIGNATURE") || (named.is_none() && emulator.is_some()) {
        // An empty token as well: without one, object_store looks for credentials when it writes.
        builder = builder.with_skip_signature(true).with_bearer_token("");
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use object_store::gcp::GoogleConfigKey;

    use super::*;
    use crate::store::clouds::provide_tls;

    type Variables<'a> = [(&'a str, &'a str)];

    fn options(http: bool) -> ClientOptions {
        provide_tls();
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
    fn the_address_is_that_of_the_environment_then_of_the_credentials_then_of_an_emulator() {
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
    fn what_is_no_address_is_refused() {
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
            assert!(message.contains(&format!("the address in {name} is none")), "{message}");
        }
    }

    #[test]
    fn a_service_account_is_one_under_each_name() {
        let file = file(LOCAL);
        let path = file.path().to_str().unwrap();
        for name in PATHS.into_iter().chain([ANY_KIND]) {
            let builder = built(&[(name, path)]);
            let found = builder.get_config_value(&GoogleConfigKey::ServiceAccount);
            assert_eq!(found.as_deref(), Some(path), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_with_credentials_says_in_which() {
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
