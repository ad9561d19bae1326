//! The actions on endpoint configurations.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::arn::{Arns, ResourceKind};
use super::error::ControlError;
use super::records::Records;
use super::request::{self, CheckedRequest};
use super::{ActionContext, ActionResponse, shapes, tags};
use crate::endpoint::spec::{AsyncConfig, EndpointConfig, Routing, Variant};

/// The default length of a prefix in bytes, SageMaker's minimum.
const SHORTEST_PREFIX: usize = 1024;

/// Creates a configuration from the body of a `CreateEndpointConfig` request.
pub fn parse(body: Value, arns: &Arns, created: f64) -> Result<EndpointConfig, ControlError> {
    build(&request::check(shapes::CREATE_ENDPOINT_CONFIG, body)?, arns, created)
}

fn build(body: &Map<String, Value>, arns: &Arns, created: f64) -> Result<EndpointConfig, ControlError> {
    let request = CheckedRequest(body);
    refuse_unsupported(request)?;
    let variants = Vec::from_iter(request.objects("ProductionVariants"));
    let variants = variants.into_iter().enumerate();
    let variants = variants
        .map(|(index, request)| variant(request, &format!("productionVariants.{}.member", index + 1)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut names = BTreeSet::new();
    for variant in &variants {
        if !names.insert(&variant.name) {
            return Err(ControlError::validation(format!(
                "VariantName must be unique within an endpoint configuration, and \"{}\" is given more than once.",
                variant.name
            )));
        }
    }
    let name = request.name("EndpointConfigName");
    Ok(EndpointConfig {
        name: name.to_owned(),
        arn: arns.of(ResourceKind::EndpointConfig, name),
        created,
        variants,
        asynchronous: request.object("AsyncInferenceConfig").map(asynchronous).transpose()?,
        raw: tags::without_tags(body),
    })
}

fn refuse_unsupported(request: CheckedRequest<'_>) -> Result<(), ControlError> {
    for (member, what) in [
        ("ShadowProductionVariants", "shadow variants"),
        ("ExplainerConfig", "explanations"),
    ] {
        if request.has(member) {
            return Err(ControlError::validation(format!(
                "{member}: {what} are not supported here."
            )));
        }
    }
    let capture = request.object("DataCaptureConfig");
    if capture.is_some_and(|capture| capture.flag("EnableCapture") != Some(false)) {
        return Err(ControlError::validation(
            "DataCaptureConfig: data capture is not supported here; leave it out, or set EnableCapture to false.",
        ));
    }
    Ok(())
}

fn variant(request: CheckedRequest<'_>, path: &str) -> Result<Variant, ControlError> {
    fn refusal(path: &str, reason: &str) -> ControlError {
        ControlError::validation(format!("'{path}': {reason}"))
    }
    let refuse = |reason: &str| Err(refusal(path, reason));
    if request.has("ServerlessConfig") {
        return refuse("ServerlessConfig is not supported here; give InitialInstanceCount and InstanceType.");
    }
    let scaling = request.object("ManagedInstanceScaling");
    let bound = |name| scaling.and_then(|scaling| scaling.integer(name));
    if let (Some(least), Some(most)) = (bound("MinInstanceCount"), bound("MaxInstanceCount"))
        && least > most
    {
        return refuse("MinInstanceCount of ManagedInstanceScaling must not be greater than its MaxInstanceCount.");
    }
    let Some(model_name) = request.text("ModelName") else {
        return refuse("inference components are not supported here; a variant needs ModelName.");
    };
    let Some(instances) = request.integer("InitialInstanceCount") else {
        return refuse("InitialInstanceCount is required.");
    };
    let Ok(instances) = u32::try_from(instances) else {
        return refuse("InitialInstanceCount is too large.");
    };
    refuse_pools(request).map_err(|reason| refusal(path, reason))?;
    let routing = routing(request).map_err(|reason| refusal(path, reason))?;
    let seconds = |member| request.integer(member).map(Duration::from_secs);
    Ok(Variant {
        name: request.name("VariantName").to_owned(),
        model_name: model_name.to_owned(),
        instances,
        weight: request.number("InitialVariantWeight").unwrap_or(1.0),
        routing,
        startup_timeout: seconds("ContainerStartupHealthCheckTimeoutInSeconds"),
        download_timeout: seconds("ModelDataDownloadTimeoutInSeconds"),
    })
}

/// Refuses instance pools with their own models. Other pools are accepted, because machine types
/// make no difference here.
fn refuse_pools(request: CheckedRequest<'_>) -> Result<(), &'static str> {
    match request
        .objects("InstancePools")
        .any(|pool| pool.has("ModelNameOverride"))
    {
        true => Err("ModelNameOverride of InstancePools is not supported here; every instance serves ModelName."),
        false => Ok(()),
    }
}

fn routing(request: CheckedRequest<'_>) -> Result<Routing, &'static str> {
    let Some(config) = request.object("RoutingConfig") else {
        return Ok(Routing::Random);
    };
    let prefix = config.object("PrefixAwareRoutingConfig");
    let strategy = config.text("RoutingStrategy");
    if prefix.is_some() && strategy != Some("PREFIX_AWARE") {
        return Err("PrefixAwareRoutingConfig is only for the RoutingStrategy PREFIX_AWARE.");
    }
    let member = |name| {
        let value = prefix.and_then(|prefix| prefix.integer(name));
        value.and_then(|value| usize::try_from(value).ok())
    };
    Ok(match strategy {
        Some("LEAST_OUTSTANDING_REQUESTS") => Routing::LeastOutstandingRequests,
        Some("KV_AWARE") => Routing::KvAware,
        Some("PREFIX_AWARE") => Routing::PrefixAware {
            bytes: member("PrefixLength").unwrap_or(SHORTEST_PREFIX),
            threshold: member("ConcurrencyThreshold"),
        },
        _ => Routing::Random,
    })
}

fn asynchronous(request: CheckedRequest<'_>) -> Result<AsyncConfig, ControlError> {
    let refuse = |reason: &str| {
        Err(ControlError::validation(format!(
            "'asyncInferenceConfig.outputConfig': {reason}"
        )))
    };
    let Some(output) = request.object("OutputConfig") else {
        return refuse("OutputConfig is required.");
    };
    let topics = output.object("NotificationConfig");
    if topics.is_some_and(|topics| topics.has("SuccessTopic") || topics.has("ErrorTopic")) {
        return refuse("NotificationConfig: SNS topics are not supported here; check for the output object.");
    }
    let Some(path) = output.text("S3OutputPath") else {
        return refuse("S3OutputPath is required here, because the account has no default bucket.");
    };
    let max_concurrent = request
        .object("ClientConfig")
        .and_then(|client| client.integer("MaxConcurrentInvocationsPerInstance"));
    Ok(AsyncConfig {
        output: path.to_owned(),
        failure: output.text("S3FailurePath").map(str::to_owned),
        max_concurrent: max_concurrent.and_then(|count| u32::try_from(count).ok()),
    })
}

pub(super) fn create(
    context: &ActionContext<'_>,
    records: &mut Records,
    body: &Map<String, Value>,
) -> Result<ActionResponse, ControlError> {
    let config = build(body, context.arns, context.now)?;
    records.must_be_new(ResourceKind::EndpointConfig, &config.arn)?;
    for variant in &config.variants {
        records.model(context.arns, &variant.model_name)?;
    }
    records.add_tags(ResourceKind::EndpointConfig, &config.name, CheckedRequest(body));
    let answer = ActionResponse::plain(json!({"EndpointConfigArn": config.arn}));
    records.configs.insert(config.name.clone(), Arc::new(config));
    Ok(answer)
}

pub(super) fn describe(
    context: &ActionContext<'_>,
    records: &Records,
    body: &Map<String, Value>,
) -> Result<Value, ControlError> {
    let config = records.config(context.arns, CheckedRequest(body).name("EndpointConfigName"))?;
    let mut description = request::description(&config.raw, shapes::CREATE_ENDPOINT_CONFIG);
    let variants = description.get_mut("ProductionVariants").and_then(Value::as_array_mut);
    for variant in variants.into_iter().flatten().filter_map(Value::as_object_mut) {
        variant.entry("InitialVariantWeight").or_insert_with(|| json!(1.0));
    }
    description.insert("EndpointConfigName".to_owned(), json!(config.name));
    description.insert("EndpointConfigArn".to_owned(), json!(config.arn));
    description.insert("CreationTime".to_owned(), json!(config.created));
    Ok(description.into())
}

/// Deletes a configuration. Endpoints that use it keep running with their own copy.
pub(super) fn delete(
    context: &ActionContext<'_>,
    records: &mut Records,
    body: &Map<String, Value>,
) -> Result<ActionResponse, ControlError> {
    let name = CheckedRequest(body).name("EndpointConfigName");
    let name = records.config(context.arns, name)?.name.clone();
    records.configs.remove(&name);
    records.forget_tags(ResourceKind::EndpointConfig, &name);
    Ok(ActionResponse::plain(json!({})))
}
