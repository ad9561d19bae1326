//! Credentials from an endpoint whose full URL is in the environment, as in EKS, Greengrass and
//! development containers.
//!
//! object_store supports such an endpoint only with a token in a file, but the token file is
//! optional (AWS SDKs and tools, container credential provider). The address could belong to any
//! host, so plain HTTP is limited to the addresses that AWS's tools allow.

use std::fmt;
use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use object_store::ClientOptions;
use object_store::aws::AwsCredential;
use object_store::client::{CredentialProvider, HttpClient, HttpConnector, HttpRequestBody};
use reqwest::Url;
use reqwest::header::AUTHORIZATION;
use serde::Deserialize;

use super::environment::Environment;
use super::error::LocationError;
use super::exchange::ObservingConnector;

const ENDPOINT: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const TOKEN: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";
const TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";

/// Addresses of the credential endpoints of ECS and EKS.
const HOSTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];

/// Time for which credentials are reused. They are valid for longer: the endpoints renew them well
/// before they expire.
const KEPT: Duration = Duration::from_secs(4 * 60);

pub(super) struct ContainerCredentials {
    client: HttpClient,
    url: Url,
    token: Option<AuthorizationToken>,
    /// Locked for the access alone. Two requests that find it expired both fetch, which does no
    /// harm.
    known: Mutex<Option<(Instant, Arc<AwsCredential>)>>,
}

enum AuthorizationToken {
    Text(String),
    /// Read each time, because the content changes.
    File(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerKeys {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
}

impl ContainerCredentials {
    pub fn new(environment: &Environment, options: ClientOptions) -> Result<Self, LocationError> {
        let text = environment.get(ENDPOINT).unwrap_or_default();
        let wrong = |reason: String| LocationError::Settings {
            url: format!("{ENDPOINT}={text}"),
            reason,
        };
        let url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
        if !may_be_asked(&url) {
            return Err(wrong(
                "credentials may be requested only over https, or from the container's own address".to_owned(),
            ));
        }
        let token = match (environment.get(TOKEN_FILE), environment.get(TOKEN)) {
            (Some(path), _) => Some(AuthorizationToken::File(path.to_owned())),
            (None, Some(text)) => Some(AuthorizationToken::Text(text.to_owned())),
            (None, None) => None,
        };
        let client = ObservingConnector
            .connect(&options)
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            client,
            url,
            token,
            known: Mutex::new(None),
        })
    }

    async fn fetch(&self) -> object_store::Result<Arc<AwsCredential>> {
        let now = Instant::now();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((since, credential)) = known
            && now.duration_since(since) < KEPT
        {
            return Ok(credential);
        }
        let mut request = object_store::client::HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = self.url.as_str().parse().map_err(failed)?;
        let token = match &self.token {
            None => None,
            Some(AuthorizationToken::Text(text)) => Some(text.clone()),
            Some(AuthorizationToken::File(path)) => Some(std::fs::read_to_string(path).map_err(failed)?),
        };
        if let Some(token) = token {
            let value = token.trim().parse().map_err(failed)?;
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let response = self.client.execute(request).await.map_err(failed)?;
        let status = response.status();
        if !status.is_success() {
            return Err(failed(std::io::Error::other(format!("{ENDPOINT} answered {status}"))));
        }
        let body = response.into_body().bytes().await.map_err(failed)?;
        let keys: ContainerKeys = serde_json::from_slice(&body).map_err(failed)?;
        let credential = Arc::new(AwsCredential {
            key_id: keys.access_key_id,
            secret_key: keys.secret_access_key,
            token: keys.token,
        });
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, credential.clone()));
        Ok(credential)
    }
}

fn may_be_asked(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let loopback = host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback());
    let here = loopback || matches!(host, "localhost" | "[::1]");
    url.scheme() == "https" || (url.scheme() == "http" && (here || HOSTS.contains(&host)))
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic {
        store: "S3",
        source: Box::new(error),
    }
}

impl fmt::Debug for ContainerCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContainerCredentials")
    }
}

impl CredentialProvider for ContainerCredentials {
    type Credential = AwsCredential;

    fn get_credential<'a, 'f>(
        &'a self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        Box::pin(self.fetch())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_requested_from_the_container_or_over_tls() {
        let table = [
            ("http://169.254.170.23/v1/credentials", true),
            ("http://[fd00:ec2::23]/v1/credentials", true),
            ("http://localhost:1/", true),
            ("http://127.0.0.1:1/", true),
            ("https://anywhere/", true),
            ("http://anywhere/", false),
            ("http://127.evil.example/", false),
            ("ftp://localhost/", false),
        ];
        for (url, expected) in table {
            assert_eq!(may_be_asked(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
