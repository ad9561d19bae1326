//! The actions on endpoints. Their work is an [`Effect`].

use serde_json::{Map, Value, json};

use super::arn::ResourceKind;
use super::description::picked;
use super::error::ControlError;
use super::records::Records;
use super::request::{self, CreateEndpoint, EndpointByName, UpdateEndpoint, UpdateWeights, VariantProperty};
use super::running::{DesiredEndpoint, Endpoint, EndpointPhase};
use super::{ActionContext, ActionResponse, DesiredCapacity, Effect};
use crate::endpoint::spec::{Deployment, Model, Variant};

pub(super) fn create(
    context: &ActionContext<'_>,
    records: &mut Records,
    body: &Map<String, Value>,
) -> Result<ActionResponse, ControlError> {
    let request: CreateEndpoint = request::read(body)?;
    let name = request.endpoint_name;
    let config = records.config(context.arns, &request.endpoint_config_name)?;
    let mut desired_endpoint = DesiredEndpoint::new(&name, config, records, context.arns)?;
    desired_endpoint.deployment_config = request.deployment_config;
    let deployment = desired_endpoint.deployment.clone();
    let endpoint = Endpoint::new(desired_endpoint, context.arns, context.now);
    records.must_be_new(ResourceKind::Endpoint, &endpoint.arn)?;
    records.add_tags(ResourceKind::Endpoint, &name, request.tags);
    let body = json!({"EndpointArn": endpoint.arn});
    records.endpoints.insert(name, endpoint);
    Ok(ActionResponse {
        body,
        effect: Some(Effect::Deploy(deployment)),
    })
}

pub(super) fn update(
    context: &ActionContext<'_>,
    records: &mut Records,
    body: &Map<String, Value>,
) -> Result<ActionResponse, ControlError> {
    let request: UpdateEndpoint = request::read(body)?;
    let name = records.endpoint(context.arns, &request.endpoint_name)?.name.clone();
    let config = records.config(context.arns, &request.endpoint_config_name)?;
    let mut desired_endpoint = DesiredEndpoint::new(&name, config, records, context.arns)?;
    let endpoint = records.endpoint_mut(context.arns, &name)?;
    endpoint.begin(EndpointPhase::Updating, context.now)?;
    if request.retain_all_variant_properties {
        let excluded = request.exclude_retained_variant_properties.iter();
        let excluded = Vec::from_iter(excluded.map(|property| property.variant_property_type));
        retain(
            &mut desired_endpoint.deployment,
            &endpoint.desired.deployment,
            &excluded,
        );
    }
    desired_endpoint.deployment_config = match request.retain_deployment_config {
        true => endpoint.desired.deployment_config.clone(),
        false => request.deployment_config,
    };
    let deployment = desired_endpoint.deployment.clone();
    endpoint.desired = desired_endpoint;
    Ok(ActionResponse {
        body: json!({"EndpointArn": endpoint.arn}),
        effect: Some(Effect::Update(deployment)),
    })
}

/// Variants with the same name keep their current weight and number of instances, except the
/// excluded properties.
fn retain(new: &mut Deployment, old: &Deployment, excluded: &[VariantProperty]) {
    for (variant, _) in &mut new.variants {
        let Some((old, _)) = old.variant(&variant.name) else {
            continue;
        };
        if !excluded.contains(&VariantProperty::DesiredInstanceCount) {
            variant.instances = old.instances;
        }
        if !excluded.contains(&VariantProperty::DesiredWeight) {
            variant.weight = old.weight;
        }
    }
}

pub(super) fn update_weights(
    context: &ActionContext<'_>,
    records: &mut Records,
    body: &Map<String, Value>,
) -> Result<ActionResponse, ControlError> {
    let request: UpdateWeights = request::read(body)?;
    let endpoint = records.endpoint_mut(context.arns, &request.endpoint_name)?;
    let mut desired = endpoint.desired.clone();
    for wanted in request.desired_weights_and_capacities {
        let mut variants = desired.deployment.variants.iter_mut();
        let Some((variant, _)) = variants.find(|(variant, _)| variant.name == wanted.variant_name) else {
            return Err(ControlError::validation(format!(
                "The variant name(s) \"{}\" is/are not present within endpoint configuration \"{}\".",
                wanted.variant_name, desired.config.name
            )));
        };
        if wanted.serverless_update_config.is_some() {
            return Err(ControlError::validation(
                "ServerlessUpdateConfig is not supported here, because variants cannot be serverless.",
            ));
        }
        if let Some(weight) = wanted.desired_weight {
            variant.weight = weight;
        }
        if let Some(count) = wanted.desired_instance_count {
            variant.instances =
                u32::try_from(count).map_err(|_| ControlError::validation("DesiredInstanceCount is too large."))?;
        }
    }
    endpoint.begin(EndpointPhase::Updating, context.now)?;
    endpoint.desired = desired;
    let capacities = endpoint
        .desired
        .deployment
        .variants
        .iter()
        .map(|(variant, _)| DesiredCapacity {
            variant: variant.name.clone(),
            weight: variant.weight,
            instances: variant.instances,
        });
    Ok(ActionResponse {
        effect: Some(Effect::SetWeights {
            endpoint: endpoint.name.clone(),
            capacities: capacities.collect(),
        }),
        body: json!({"EndpointArn": endpoint.arn}),
    })
}

pub(super) fn delete(
    context: &ActionContext<'_>,
    records: &mut Records,
    body: &Map<String, Value>,
) -> Result<ActionResponse, ControlError> {
    let request: EndpointByName<'_> = request::read(body)?;
    let endpoint = records.endpoint_mut(context.arns, request.endpoint_name)?;
    endpoint.begin(EndpointPhase::Deleting, context.now)?;
    Ok(ActionResponse {
        body: json!({}),
        effect: Some(Effect::Remove(endpoint.name.clone())),
    })
}

pub(super) fn describe(
    context: &ActionContext<'_>,
    records: &Records,
    body: &Map<String, Value>,
) -> Result<Value, ControlError> {
    let request: EndpointByName<'_> = request::read(body)?;
    let endpoint = records.endpoint(context.arns, request.endpoint_name)?;
    let pending = endpoint.pending();
    // Until a new configuration has taken over, the old one serves.
    let shown = match (&endpoint.current, pending) {
        (Some(current), Some(_)) => current,
        _ => &endpoint.desired,
    };
    let mut description = json!({
        "EndpointName": endpoint.name,
        "EndpointArn": endpoint.arn,
        "EndpointConfigName": shown.config.name,
        "ProductionVariants": variants(context, endpoint, shown),
        "EndpointStatus": endpoint.phase.name(),
        "CreationTime": endpoint.created,
        "LastModifiedTime": endpoint.modified,
    });
    if let Some(reason) = &endpoint.failure {
        description["FailureReason"] = json!(reason);
    }
    if let Some(config) = &shown.deployment_config {
        description["LastDeploymentConfig"] = config.clone();
    }
    for member in ["AsyncInferenceConfig", "MetricsConfig", "CrossRegionTrafficConfig"] {
        if let Some(config) = shown.config.raw.get(member) {
            description[member] = config.clone();
        }
    }
    if let Some(capture) = shown.config.raw.get("DataCaptureConfig") {
        description["DataCaptureConfig"] = capture_summary(capture);
    }
    if let Some(pending) = pending {
        let variants = pending.deployment.variants.iter().map(|(variant, _)| {
            json!({
                "VariantName": variant.name,
                "DesiredWeight": variant.weight,
                "DesiredInstanceCount": variant.instances,
            })
        });
        description["PendingDeploymentSummary"] = json!({
            "EndpointConfigName": pending.config.name,
            "StartTime": endpoint.modified,
            "ProductionVariants": variants.collect::<Vec<_>>(),
        });
    }
    Ok(description)
}

fn variants(context: &ActionContext<'_>, endpoint: &Endpoint, shown: &DesiredEndpoint) -> Vec<Value> {
    let variants = shown.deployment.variants.iter();
    variants
        .map(|(variant, model)| summary(context, endpoint, shown, variant, model))
        .collect()
}

/// The data capture of an endpoint: always off, because a configuration that enables it is
/// refused.
fn capture_summary(config: &Value) -> Value {
    let given = |member: &str, default: Value| config.get(member).cloned().unwrap_or(default);
    json!({
        "EnableCapture": false,
        "CaptureStatus": "Stopped",
        "CurrentSamplingPercentage": given("InitialSamplingPercentage", json!(0)),
        "DestinationS3Uri": given("DestinationS3Uri", json!("")),
        "KmsKeyId": given("KmsKeyId", json!("")),
    })
}

fn summary(
    context: &ActionContext<'_>,
    endpoint: &Endpoint,
    shown: &DesiredEndpoint,
    variant: &Variant,
    model: &Model,
) -> Value {
    let current = endpoint.current.as_ref();
    let current = current.and_then(|current| current.deployment.variant(&variant.name));
    let running = context.fleet.running_instances(&endpoint.name, &variant.name);
    let mut summary = json!({
        "VariantName": variant.name,
        "CurrentWeight": current.map_or(0.0, |(current, _)| current.weight),
        "DesiredWeight": variant.weight,
        "CurrentInstanceCount": running,
        "DesiredInstanceCount": variant.instances,
        "RoutingConfig": {"RoutingStrategy": "RANDOM"},
    });
    let given = shown.config.raw.get("ProductionVariants").and_then(Value::as_array);
    let mut given = given.into_iter().flatten();
    if let Some(given) = given.find(|given| given.get("VariantName") == Some(&json!(variant.name))) {
        const GIVEN_BACK: [&str; 4] = [
            "RoutingConfig",
            "ManagedInstanceScaling",
            "CapacityReservationConfig",
            "AcceleratorPartitionLayouts",
        ];
        for (member, value) in picked(given, GIVEN_BACK) {
            summary[member] = value;
        }
        if let Some(pools) = pools(given, running) {
            summary["InstancePools"] = pools;
        }
    }
    let images = model.containers.iter().filter_map(|container| container.image.as_ref());
    let images = Vec::from_iter(
        images
            .map(|image| json!({"SpecifiedImage": image, "ResolvedImage": image, "ResolutionTime": endpoint.modified})),
    );
    if !images.is_empty() {
        summary["DeployedImages"] = images.into();
    }
    summary
}

/// The instance pools of a variant. All instances count for the pool with the first priority,
/// because no machines are allocated here.
fn pools(given: &Value, running: u32) -> Option<Value> {
    let pools = given.get("InstancePools")?.as_array()?;
    let priority = |pool: &&Value| pool.get("Priority").and_then(Value::as_u64);
    let first = pools.iter().min_by_key(priority)?;
    let pools = pools.iter().map(|pool| {
        let count = if std::ptr::eq(pool, first) { running } else { 0 };
        json!({"InstanceType": pool.get("InstanceType"), "CurrentInstanceCount": count})
    });
    Some(pools.collect())
}
