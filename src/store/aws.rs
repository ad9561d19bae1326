//! S3, configured by AWS's environment variables.
//!
//! Credentials are searched for in the order of AWS's own tools: keys in the environment, a web
//! identity, the profile, the container's endpoint (SageMaker, ECS, EKS), the instance's endpoint.
//! object_store supports all but the profile and a container endpoint with a token in a variable.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use object_store::ClientOptions;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::client::CredentialProvider;

use super::clouds::{check_endpoint, configured, is_plain, never};
use super::container::ContainerCredentials;
use super::environment::Environment;
use super::error::LocationError;
use super::exchange::ObservingConnector;
use super::profile::Profile;

const DEFAULT_REGION: &str = "us-east-1";

/// The source of credentials.
#[derive(Debug, PartialEq, Eq)]
enum CredentialSource {
    /// object_store finds the credentials by itself.
    Environment,
    /// The keys of a profile.
    Profile,
    /// A container endpoint, given as a full URL.
    Endpoint,
    /// There are no credentials, and no endpoint may be asked for them.
    Missing,
}

/// A builder that lacks only the bucket. `options` takes whether plain HTTP is allowed.
pub(super) fn builder(
    environment: &Environment,
    options: impl Fn(bool) -> ClientOptions,
) -> Result<AmazonS3Builder, LocationError> {
    let profile = Profile::read(environment)?;
    let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
        .into_iter()
        .find_map(|name| Some((name, environment.get(name)?)))
        .or(profile.get("endpoint_url").map(|url| ("endpoint_url", url)));
    if let Some((name, url)) = endpoint {
        check_endpoint(name, url).map_err(|reason| LocationError::Settings {
            url: format!("{name}={url}"),
            reason,
        })?;
    }
    let endpoint = endpoint.map(|(_, url)| url);
    let mut builder = AmazonS3Builder::new().with_client_options(options(endpoint.is_some_and(is_plain)));
    builder = configured(environment, "AWS_", builder, |builder, key, value| match key.parse() {
        Ok(key) => builder.with_config(key, value),
        Err(_) => builder,
    });
    builder = builder.with_retry(never()).with_http_connector(ObservingConnector);
    if let Some(endpoint) = endpoint {
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    let region = ["AWS_REGION", "AWS_DEFAULT_REGION"]
        .into_iter()
        .find_map(|name| environment.get(name))
        .or(profile.get("region"));
    if region.is_none() && endpoint.is_none() {
        tracing::info!(
            region = DEFAULT_REGION,
            "AWS_REGION is not set; the default region is used"
        );
    }
    builder = builder.with_region(region.unwrap_or(DEFAULT_REGION));
    if environment.is_set("AWS_NO_SIGN_REQUEST") {
        builder = builder.with_skip_signature(true);
    }
    Ok(match source(environment, &profile)? {
        CredentialSource::Environment => builder,
        CredentialSource::Profile => {
            let key = |name| profile.get(name).unwrap_or_default();
            let builder = builder
                .with_access_key_id(key("aws_access_key_id"))
                .with_secret_access_key(key("aws_secret_access_key"));
            match profile.get("aws_session_token") {
                Some(token) => builder.with_token(token),
                None => builder,
            }
        }
        CredentialSource::Endpoint => {
            builder.with_credentials(Arc::new(ContainerCredentials::new(environment, options(true))?))
        }
        CredentialSource::Missing => builder.with_credentials(Arc::new(NoCredentialProvider)),
    })
}

fn source(environment: &Environment, profile: &Profile) -> Result<CredentialSource, LocationError> {
    let has = |name| environment.get(name).is_some();
    let unsigned = ["AWS_SKIP_SIGNATURE", "AWS_NO_SIGN_REQUEST"]
        .into_iter()
        .any(|name| environment.is_set(name));
    let web_identity = has("AWS_WEB_IDENTITY_TOKEN_FILE") && has("AWS_ROLE_ARN");
    if unsigned || has("AWS_ACCESS_KEY_ID") || has("AWS_SECRET_ACCESS_KEY") || web_identity {
        return Ok(CredentialSource::Environment);
    }
    if profile.get("aws_access_key_id").is_some() && profile.get("aws_secret_access_key").is_some() {
        return Ok(CredentialSource::Profile);
    }
    if let Some(error) = profile.other_credentials() {
        return Err(error);
    }
    if has("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        return Ok(CredentialSource::Environment);
    }
    if has("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
        return Ok(CredentialSource::Endpoint);
    }
    match environment.is_set("AWS_EC2_METADATA_DISABLED") {
        true => Ok(CredentialSource::Missing),
        false => Ok(CredentialSource::Environment),
    }
}

/// Fails at once, because the instance's endpoint must not be asked.
#[derive(Debug)]
struct NoCredentialProvider;

#[derive(Debug)]
struct NoCredentialsError;

impl fmt::Display for NoCredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("none are in the environment, and AWS_EC2_METADATA_DISABLED is true")
    }
}

impl std::error::Error for NoCredentialsError {}

impl CredentialProvider for NoCredentialProvider {
    type Credential = AwsCredential;

    fn get_credential<'a, 'f>(
        &'a self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        let error = object_store::Error::Generic {
            store: "S3",
            source: Box::new(NoCredentialsError),
        };
        Box::pin(std::future::ready(Err(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Variables<'a> = [(&'a str, &'a str)];

    fn set(builder: &AmazonS3Builder, key: AmazonS3ConfigKey) -> Option<String> {
        builder.get_config_value(&key)
    }

    fn built(variables: &Variables<'_>) -> AmazonS3Builder {
        let environment = Environment::from_iter(variables.iter().copied());
        builder(&environment, |http| ClientOptions::new().with_allow_http(http)).unwrap()
    }

    #[test]
    fn credentials_are_searched_in_the_order_of_aws_tools() {
        let keys = ("AWS_ACCESS_KEY_ID", "a");
        let relative = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/a");
        let full = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/a");
        let disabled = ("AWS_EC2_METADATA_DISABLED", "true");
        let web = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/a"), ("AWS_ROLE_ARN", "arn")];
        let table: [(&Variables<'_>, CredentialSource); 10] = [
            (&[], CredentialSource::Environment),
            (&[disabled], CredentialSource::Missing),
            (&[("AWS_EC2_METADATA_DISABLED", "false")], CredentialSource::Environment),
            (&[disabled, keys], CredentialSource::Environment),
            (&[disabled, relative], CredentialSource::Environment),
            (&[disabled, full], CredentialSource::Endpoint),
            (&[full, relative], CredentialSource::Environment),
            (&[full, web[0], web[1]], CredentialSource::Environment),
            (&[full, web[0]], CredentialSource::Endpoint),
            (
                &[disabled, ("AWS_NO_SIGN_REQUEST", "true")],
                CredentialSource::Environment,
            ),
        ];
        for (variables, expected) in table {
            let environment = Environment::from_iter(variables.iter().copied());
            assert_eq!(source(&environment, &Profile::default()), Ok(expected), "{variables:?}");
        }
    }

    #[test]
    fn a_profile_gives_keys_region_and_endpoint_where_the_environment_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        let text = "[dev]\naws_access_key_id = a\naws_secret_access_key = b\naws_session_token = c\n\
                    region = eu-west-1\nendpoint_url = http://localhost:9000\n";
        std::fs::write(&file, text).unwrap();
        let profile = [
            ("AWS_PROFILE", "dev"),
            ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()),
        ];
        let builder = built(&profile);
        for (key, expected) in [
            (AmazonS3ConfigKey::AccessKeyId, "a"),
            (AmazonS3ConfigKey::SecretAccessKey, "b"),
            (AmazonS3ConfigKey::Token, "c"),
            (AmazonS3ConfigKey::Region, "eu-west-1"),
            (AmazonS3ConfigKey::S3Endpoint, "http://localhost:9000"),
        ] {
            assert_eq!(set(&builder, key).as_deref(), Some(expected), "{key:?}");
        }
        let builder = built(&[
            profile[0],
            profile[1],
            ("AWS_ACCESS_KEY_ID", "x"),
            ("AWS_SECRET_ACCESS_KEY", "y"),
            ("AWS_REGION", "us-west-2"),
        ]);
        assert_eq!(set(&builder, AmazonS3ConfigKey::AccessKeyId).as_deref(), Some("x"));
        assert_eq!(set(&builder, AmazonS3ConfigKey::Token), None);
        assert_eq!(set(&builder, AmazonS3ConfigKey::Region).as_deref(), Some("us-west-2"));
    }

    #[test]
    fn the_endpoint_for_s3_takes_precedence_over_the_one_for_all_services() {
        let all = ("AWS_ENDPOINT_URL", "http://all");
        let table: [(&Variables<'_>, Option<&str>); 3] = [
            (&[], None),
            (&[all], Some("http://all")),
            (&[all, ("AWS_ENDPOINT_URL_S3", "http://s3")], Some("http://s3")),
        ];
        for (variables, expected) in table {
            let endpoint = set(&built(variables), AmazonS3ConfigKey::S3Endpoint);
            assert_eq!(endpoint.as_deref(), expected, "{variables:?}");
        }
    }

    #[test]
    fn the_region_has_a_default() {
        let table: [(&Variables<'_>, &str); 4] = [
            (&[], "us-east-1"),
            (&[("AWS_DEFAULT_REGION", "a")], "a"),
            (&[("AWS_DEFAULT_REGION", "a"), ("AWS_REGION", "b")], "b"),
            (&[("AWS_REGION", "")], "us-east-1"),
        ];
        for (variables, expected) in table {
            let region = set(&built(variables), AmazonS3ConfigKey::Region);
            assert_eq!(region.as_deref(), Some(expected), "{variables:?}");
        }
    }
}
