//! Azure Blob Storage, configured by Azure's environment variables.
//!
//! object_store knows most variables. This module adds those of the Azure CLI, which has other
//! names for the account and its key, and the connection strings of the portal. An account comes
//! from one source: a connection string counts only where neither a variable nor the URL names an
//! account.

use object_store::ClientOptions;
use object_store::azure::{AzureAccessKey, AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder, split_sas};
use reqwest::Url;

use super::clouds::{check_endpoint, configured, is_plain, never, reason};
use super::environment::Environment;
use super::exchange::ObservingConnector;

const NAMES: [&str; 2] = ["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"];
const KEYS: [&str; 4] = [
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_MASTER_KEY",
    "AZURE_STORAGE_KEY",
];
const TOKENS: [&str; 2] = ["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"];
const ENDPOINTS: [&str; 2] = ["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"];
/// Used with `AZURE_STORAGE_USE_EMULATOR`; object_store reads it by itself.
const AZURITE: &str = "AZURITE_BLOB_STORAGE_URL";
const CONNECTION: &str = "AZURE_STORAGE_CONNECTION_STRING";

/// A storage account, as far as the environment describes it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Account {
    name: Option<String>,
    /// The value with the name of its variable, as in the next fields.
    endpoint: Option<(&'static str, String)>,
    key: Option<(&'static str, String)>,
    token: Option<(&'static str, String)>,
    /// Whether the account is the one of the Azurite emulator.
    emulated: bool,
}

impl Account {
    fn of(environment: &Environment, named_by_url: bool) -> Self {
        let find = |names: &[&'static str]| {
            let found = |name: &&'static str| Some((*name, environment.get(name)?.to_owned()));
            names.iter().find_map(found)
        };
        let endpoint = find(&ENDPOINTS);
        let name = match find(&NAMES) {
            Some((_, name)) => Some(name),
            None => endpoint.as_ref().and_then(|(_, url)| account_of(url)),
        };
        let emulated = environment.is_set("AZURE_STORAGE_USE_EMULATOR");
        if name.is_none()
            && !emulated
            && !named_by_url
            && let Some(text) = environment.get(CONNECTION)
        {
            return Self::connected(text);
        }
        Self {
            name,
            endpoint,
            key: find(&KEYS),
            token: find(&TOKENS),
            emulated,
        }
    }

    /// Parses a connection string: `AccountName=a;AccountKey=b==;EndpointSuffix=core.windows.net`.
    fn connected(text: &str) -> Self {
        let find = |name: &str| {
            let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
            let mut values = pairs.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name));
            values.next().map(|(_, value)| value.trim().to_owned())
        };
        let name = find("AccountName");
        let endpoint = find("BlobEndpoint").or_else(|| {
            let suffix = find("EndpointSuffix")?;
            let scheme = find("DefaultEndpointsProtocol").unwrap_or_else(|| "https".to_owned());
            Some(format!("{scheme}://{}.blob.{suffix}", name.as_deref()?))
        });
        Self {
            name: name.or_else(|| account_of(endpoint.as_deref()?)),
            endpoint: endpoint.map(|url| (CONNECTION, url)),
            key: find("AccountKey").map(|key| (CONNECTION, key)),
            token: find("SharedAccessSignature").map(|token| (CONNECTION, token)),
            emulated: find("UseDevelopmentStorage").is_some_and(|value| value.eq_ignore_ascii_case("true")),
        }
    }

    /// Finds errors that object_store would report without the variable, or only at the first
    /// request.
    fn check(&self) -> Result<(), String> {
        if let Some((name, url)) = &self.endpoint {
            check_endpoint(name, url)?;
        }
        if let Some((name, key)) = &self.key
            && AzureAccessKey::try_new(key).is_err()
        {
            return Err(format!("the key in {name} is not base64, as Azure's keys are"));
        }
        if let Some((name, token)) = &self.token
            && !is_token(token)
        {
            return Err(format!(
                "the SAS token in {name} is invalid; give the part after the ? of the SAS URL"
            ));
        }
        Ok(())
    }
}

/// Whether a token has a version and a signature, and no URL in front.
fn is_token(text: &str) -> bool {
    let has = |pairs: &[(String, String)], name| pairs.iter().any(|(key, _)| key == name);
    let plain = |(key, _): &(String, String)| key.chars().all(|letter| letter.is_ascii_alphanumeric());
    split_sas(text).is_ok_and(|pairs| has(&pairs, "sv") && has(&pairs, "sig") && pairs.iter().all(plain))
}

/// The account in the host name of Azure's addresses, or in the path of a local server's address.
fn account_of(endpoint: &str) -> Option<String> {
    let url = Url::parse(endpoint).ok()?;
    let host = url.host_str()?;
    let name = match host.split_once(".blob.") {
        Some((name, _)) => name,
        None if host.contains(".dfs.") => host.split('.').next()?,
        None => url.path_segments()?.next()?,
    };
    Some(name.to_owned()).filter(|name| !name.is_empty())
}

/// Builds a client of the container `bucket`. `options` takes whether plain HTTP is allowed.
pub(super) fn build(
    bucket: &str,
    environment: &Environment,
    options: impl Fn(bool) -> ClientOptions,
) -> Result<MicrosoftAzure, String> {
    let named_by_url = bucket.contains('@');
    let account = Account::of(environment, named_by_url);
    account.check()?;
    if let Some(url) = environment.get(AZURITE) {
        check_endpoint(AZURITE, url)?;
    }
    if account.name.is_none() && !account.emulated && !named_by_url {
        return Err(
            "the account of the container is not given; set AZURE_STORAGE_ACCOUNT_NAME, or use \
             az://container@account.blob.core.windows.net/prefix"
                .to_owned(),
        );
    }
    let builder = builder(environment, &account, options).with_url(bucket);
    builder.build().map_err(|error| reason(&error))
}

fn builder(
    environment: &Environment,
    account: &Account,
    options: impl Fn(bool) -> ClientOptions,
) -> MicrosoftAzureBuilder {
    // The portal shows a slash at the end, which would be one too many.
    let endpoint = account.endpoint.as_ref().map(|(_, url)| url.trim_end_matches('/'));
    let builder = MicrosoftAzureBuilder::new().with_client_options(options(endpoint.is_some_and(is_plain)));
    let builder = match environment.get("IDENTITY_ENDPOINT") {
        Some(endpoint) => builder.with_msi_endpoint(endpoint),
        None => builder,
    };
    let builder = configured(environment, "AZURE_", builder, |builder, key, value| {
        match key.parse() {
            Ok(key) => builder.with_config(key, value),
            Err(_) => builder,
        }
    });
    let found = [
        (AzureConfigKey::AccountName, account.name.as_deref()),
        (AzureConfigKey::Endpoint, endpoint),
        (
            AzureConfigKey::AccessKey,
            account.key.as_ref().map(|(_, key)| key.as_str()),
        ),
        (
            AzureConfigKey::SasKey,
            account.token.as_ref().map(|(_, token)| token.as_str()),
        ),
        (AzureConfigKey::UseEmulator, account.emulated.then_some("true")),
    ];
    let builder = builder.with_retry(never()).with_http_connector(ObservingConnector);
    found.into_iter().fold(builder, |builder, (key, value)| match value {
        Some(value) => builder.with_config(key, value),
        None => builder,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls;

    type Variables<'a> = [(&'a str, &'a str)];

    const KEY: &str = "a2V5";

    fn options(http: bool) -> ClientOptions {
        tls::provide();
        ClientOptions::new().with_allow_http(http)
    }

    fn built(variables: &Variables<'_>) -> [Option<String>; 5] {
        let environment = Environment::from_iter(variables.iter().copied());
        let builder = builder(&environment, &Account::of(&environment, false), options);
        let keys = ["account_name", "endpoint", "access_key", "sas_token", "allow_http"];
        keys.map(|key| builder.get_config_value(&key.parse().unwrap()))
    }

    #[test]
    fn an_account_comes_from_one_source() {
        let of_string =
            "DefaultEndpointsProtocol=https;AccountName=c;AccountKey=a2V5==;EndpointSuffix=core.windows.net";
        let local = "DefaultEndpointsProtocol=http;AccountName=c;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:1/c;";
        let signed = "BlobEndpoint=https://c.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=x%3D";
        let connected = |text| (CONNECTION, text);
        let (name, key) = (("AZURE_STORAGE_ACCOUNT_NAME", "a"), ("AZURE_STORAGE_ACCOUNT_KEY", KEY));
        let table: [(&Variables<'_>, [Option<&str>; 5]); 7] = [
            (&[name, key], [Some("a"), None, Some(KEY), None, Some("false")]),
            (
                &[("AZURE_STORAGE_ACCOUNT", "b"), ("AZURE_STORAGE_KEY", KEY)],
                [Some("b"), None, Some(KEY), None, Some("false")],
            ),
            (
                &[name, key, connected(local)],
                [Some("a"), None, Some(KEY), None, Some("false")],
            ),
            (
                &[connected(of_string)],
                [
                    Some("c"),
                    Some("https://c.blob.core.windows.net"),
                    Some("a2V5=="),
                    None,
                    Some("false"),
                ],
            ),
            (
                &[connected(local)],
                [Some("c"), Some("http://127.0.0.1:1/c"), Some(KEY), None, Some("true")],
            ),
            (
                &[connected(signed)],
                [
                    Some("c"),
                    Some("https://c.blob.core.windows.net"),
                    None,
                    Some("sv=1&sig=x%3D"),
                    Some("false"),
                ],
            ),
            (
                &[("AZURE_STORAGE_ENDPOINT", "https://d.blob.core.windows.net/"), key],
                [
                    Some("d"),
                    Some("https://d.blob.core.windows.net"),
                    Some(KEY),
                    None,
                    Some("false"),
                ],
            ),
        ];
        for (variables, expected) in table {
            let found = built(variables);
            assert_eq!(found.each_ref().map(Option::as_deref), expected, "{variables:?}");
        }
    }

    #[test]
    fn a_connection_string_for_development_means_azurite() {
        let environment = Environment::from_iter([(CONNECTION, "UseDevelopmentStorage=true")]);
        assert!(Account::of(&environment, false).emulated);
        assert!(build("az://container", &environment, options).is_ok());
    }

    #[test]
    fn errors_name_the_variable() {
        let name = ("AZURE_STORAGE_ACCOUNT_NAME", "a");
        let table: [(&Variables<'_>, &str); 8] = [
            (
                &[name, (ENDPOINTS[0], "localhost:1/a")],
                "the address in AZURE_STORAGE_ENDPOINT",
            ),
            (
                &[(CONNECTION, "AccountName=a;BlobEndpoint=a")],
                "the address in AZURE_STORAGE_CONNECTION",
            ),
            (
                &[name, (AZURITE, "localhost:1")],
                "the address in AZURITE_BLOB_STORAGE_URL",
            ),
            (&[], "set AZURE_STORAGE_ACCOUNT_NAME"),
            (&[(CONNECTION, "nothing")], "set AZURE_STORAGE_ACCOUNT_NAME"),
            (
                &[name, ("AZURE_STORAGE_ACCOUNT_KEY", "?")],
                "the key in AZURE_STORAGE_ACCOUNT_KEY",
            ),
            (
                &[name, ("AZURE_STORAGE_SAS_TOKEN", "https://a/b?se=1&sv=1&sig=x")],
                "the SAS token in AZURE_STORAGE_SAS_TOKEN",
            ),
            (
                &[(CONNECTION, "AccountName=a;AccountKey=?")],
                "the key in AZURE_STORAGE_CONNECTION_STRING",
            ),
        ];
        for (variables, expected) in table {
            let environment = Environment::from_iter(variables.iter().copied());
            let message = build("az://container", &environment, options).unwrap_err();
            assert!(message.contains(expected), "{variables:?}: {message}");
        }
        let url = "az://container@account.blob.core.windows.net";
        assert!(build(url, &Environment::default(), options).is_ok());
    }
}
