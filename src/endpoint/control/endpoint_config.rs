//! The actions on endpoint configurations.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::arn::{Arns, ResourceKind};
use super::description::description;
use super::error::ControlError;
use super::records::Records;
use super::request::{
    self, AsyncInferenceConfig, CreateEndpointConfig, EndpointConfigByName, ProductionVariant, RoutingConfig,
    RoutingStrategy, Tag,
};
use super::{ActionContext, ActionResponse, shapes, tags};
use crate::endpoint::spec::{AsyncConfig, EndpointConfig, Routing, Variant};

/// The default length of a prefix in bytes, SageMaker's minimum.
const SHORTEST_PREFIX: usize = 1024;

/// Creates a configuration from the body of a `CreateEndpointConfig` request.
pub fn parse(body: Value, arns: &Arns, created: f64) -> Result<EndpointConfig, ControlError> {
    let (config, _) = build(&request::check(shapes::CREATE_ENDPOINT_CONFIG, body)?, arns, created)?;
    Ok(config)
}

/// Creates a configuration from a checked request.
fn build(body: &Map<String, Value>, arns: &Arns, created: f64) -> Result<(EndpointConfig, Vec<Tag>), ControlError> {
    let request: CreateEndpointConfig = request::read(body)?;
    refuse_unsupported(&request)?;
    let variants = request.production_variants.iter().enumerate();
    let variants = variants
        .map(|(index, variant)| self::variant(variant, &format!("productionVariants.{}.member", index + 1)))
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
    let config = EndpointConfig {
        arn: arns.of(ResourceKind::EndpointConfig, &request.endpoint_config_name),
        name: request.endpoint_config_name,
        created,
        variants,
        asynchronous: request.async_inference_config.map(asynchronous).transpose()?,
        raw: tags::without_tags(body),
    };
    Ok((config, request.tags))
}

fn refuse_unsupported(request: &CreateEndpointConfig) -> Result<(), ControlError> {
    for (member, given, what) in [
        (
            "ShadowProductionVariants",
            request.shadow_production_variants,
            "shadow variants",
        ),
        ("ExplainerConfig", request.explainer_config, "explanations"),
    ] {
        if given.is_some() {
            return Err(ControlError::validation(format!(
                "{member}: {what} are not supported here."
            )));
        }
    }
    let capture = request.data_capture_config.as_ref();
    if capture.is_some_and(|capture| capture.enable_capture != Some(false)) {
        return Err(ControlError::validation(
            "DataCaptureConfig: data capture is not supported here; leave it out, or set EnableCapture to false.",
        ));
    }
    Ok(())
}

fn variant(given: &ProductionVariant, path: &str) -> Result<Variant, ControlError> {
    fn refusal(path: &str, reason: &str) -> ControlError {
        ControlError::validation(format!("'{path}': {reason}"))
    }
    let refuse = |reason: &str| Err(refusal(path, reason));
    if given.serverless_config.is_some() {
        return refuse("ServerlessConfig is not supported here; give InitialInstanceCount and InstanceType.");
    }
    if let Some(scaling) = &given.managed_instance_scaling
        && let (Some(least), Some(most)) = (scaling.min_instance_count, scaling.max_instance_count)
        && least > most
    {
        return refuse("MinInstanceCount of ManagedInstanceScaling must not be greater than its MaxInstanceCount.");
    }
    let Some(model_name) = &given.model_name else {
        return refuse("inference components are not supported here; a variant needs ModelName.");
    };
    let Some(instances) = given.initial_instance_count else {
        return refuse("InitialInstanceCount is required.");
    };
    let Ok(instances) = u32::try_from(instances) else {
        return refuse("InitialInstanceCount is too large.");
    };
    // Machine types make no difference here, but models do.
    if given
        .instance_pools
        .iter()
        .any(|pool| pool.model_name_override.is_some())
    {
        return refuse("ModelNameOverride of InstancePools is not supported here; every instance serves ModelName.");
    }
    let routing = given.routing_config.as_ref().map(routing).transpose();
    Ok(Variant {
        name: given.variant_name.clone(),
        model_name: model_name.clone(),
        instances,
        weight: given.initial_variant_weight.unwrap_or(1.0),
        routing: routing.map_err(|reason| refusal(path, reason))?.unwrap_or_default(),
        startup_timeout: given
            .container_startup_health_check_timeout_in_seconds
            .map(Duration::from_secs),
        download_timeout: given.model_data_download_timeout_in_seconds.map(Duration::from_secs),
    })
}

fn routing(config: &RoutingConfig) -> Result<Routing, &'static str> {
    let prefix = config.prefix_aware_routing_config.as_ref();
    if prefix.is_some() && config.routing_strategy != RoutingStrategy::PrefixAware {
        return Err("PrefixAwareRoutingConfig is only for the RoutingStrategy PREFIX_AWARE.");
    }
    Ok(match config.routing_strategy {
        RoutingStrategy::Random => Routing::Random,
        RoutingStrategy::LeastOutstandingRequests => Routing::LeastOutstandingRequests,
        RoutingStrategy::KvAware => Routing::KvAware,
        RoutingStrategy::PrefixAware => Routing::PrefixAware {
            bytes: prefix
                .and_then(|prefix| prefix.prefix_length)
                .unwrap_or(SHORTEST_PREFIX),
            threshold: prefix.and_then(|prefix| prefix.concurrency_threshold),
        },
    })
}

fn asynchronous(config: AsyncInferenceConfig) -> Result<AsyncConfig, ControlError> {
    let refuse = |reason: &str| {
        Err(ControlError::validation(format!(
            "'asyncInferenceConfig.outputConfig': {reason}"
        )))
    };
    let output = config.output_config;
    let topics = output.notification_config;
    if topics.is_some_and(|topics| topics.success_topic.is_some() || topics.error_topic.is_some()) {
        return refuse("NotificationConfig: SNS topics are not supported here; check for the output object.");
    }
    let Some(path) = output.s3_output_path else {
        return refuse("S3OutputPath is required here, because the account has no default bucket.");
    };
    let client = config.client_config;
    Ok(AsyncConfig {
        output: path,
        failure: output.s3_failure_path,
        max_concurrent: client.and_then(|client| client.max_concurrent_invocations_per_instance),
    })
}

pub(super) fn create(
    context: &ActionContext<'_>,
    records: &mut Records,
    body: &Map<String, Value>,
) -> Result<ActionResponse, ControlError> {
    let (config, tags) = build(body, context.arns, context.now)?;
    records.must_be_new(ResourceKind::EndpointConfig, &config.arn)?;
    for variant in &config.variants {
        records.model(context.arns, &variant.model_name)?;
    }
    records.add_tags(ResourceKind::EndpointConfig, &config.name, tags);
    let answer = ActionResponse::plain(json!({"EndpointConfigArn": config.arn}));
    records.configs.insert(config.name.clone(), Arc::new(config));
    Ok(answer)
}

pub(super) fn describe(
    context: &ActionContext<'_>,
    records: &Records,
    body: &Map<String, Value>,
) -> Result<Value, ControlError> {
    let request: EndpointConfigByName<'_> = request::read(body)?;
    let config = records.config(context.arns, request.endpoint_config_name)?;
    let mut description = description(&config.raw, shapes::CREATE_ENDPOINT_CONFIG);
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
    let request: EndpointConfigByName<'_> = request::read(body)?;
    let name = records.config(context.arns, request.endpoint_config_name)?.name.clone();
    records.configs.remove(&name);
    records.forget_tags(ResourceKind::EndpointConfig, &name);
    Ok(ActionResponse::plain(json!({})))
}
