//! The members of SageMaker's requests that have an effect here, as types.
//!
//! A request is read after its shape has been checked (`shape.rs`), which also covers the members
//! without an effect. So each type here has only members that the action's shape has, or whose
//! presence alone is refused.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::error::ControlError;
use super::shape::{self, Member};

/// A member that is refused if it is present, whatever it contains.
pub(super) type Unsupported = Option<IgnoredAny>;

/// Checks a request's body against its members.
pub(super) fn check(members: &'static [Member], body: Value) -> Result<Map<String, Value>, ControlError> {
    match without_nulls(body) {
        Value::Object(body) => shape::check(members, &body).map(|()| body),
        _ => Err(ControlError::Serialization("the body must be a JSON object".to_owned())),
    }
}

/// Removes members without a value, which count as absent.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        plain => plain,
    }
}

/// Reads a checked request.
pub(super) fn read<'a, T: Deserialize<'a>>(body: &'a Map<String, Value>) -> Result<T, ControlError> {
    T::deserialize(body).map_err(|error| ControlError::Serialization(error.to_string()))
}

/// A tag of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tag {
    pub key: String,
    pub value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateModel {
    pub model_name: String,
    pub primary_container: Option<ContainerDefinition>,
    #[serde(default)]
    pub containers: Vec<ContainerDefinition>,
    pub inference_execution_config: Option<InferenceExecutionConfig>,
    #[serde(default)]
    pub tags: Vec<Tag>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InferenceExecutionConfig {
    pub mode: ExecutionMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum ExecutionMode {
    Serial,
    Direct,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ContainerDefinition {
    pub container_hostname: Option<String>,
    pub image: Option<String>,
    pub mode: Option<ContainerMode>,
    pub model_data_url: Option<String>,
    pub model_data_source: Option<ModelDataSource>,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    pub multi_model_config: Option<MultiModelConfig>,
    pub model_package_name: Unsupported,
    pub inference_specification_name: Unsupported,
    pub additional_model_data_sources: Unsupported,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum ContainerMode {
    SingleModel,
    MultiModel,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct MultiModelConfig {
    pub model_cache_setting: Option<ModelCacheSetting>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum ModelCacheSetting {
    Enabled,
    Disabled,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ModelDataSource {
    pub s3_data_source: Option<S3DataSource>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct S3DataSource {
    pub s3_uri: String,
    pub manifest_s3_uri: Unsupported,
    pub hub_access_config: Unsupported,
    pub e_tag: Unsupported,
    pub manifest_etag: Unsupported,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateEndpointConfig {
    pub endpoint_config_name: String,
    pub production_variants: Vec<ProductionVariant>,
    pub async_inference_config: Option<AsyncInferenceConfig>,
    pub data_capture_config: Option<DataCaptureConfig>,
    #[serde(default)]
    pub tags: Vec<Tag>,
    pub shadow_production_variants: Unsupported,
    pub explainer_config: Unsupported,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DataCaptureConfig {
    pub enable_capture: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ProductionVariant {
    pub variant_name: String,
    pub model_name: Option<String>,
    pub initial_instance_count: Option<u64>,
    pub initial_variant_weight: Option<f64>,
    #[serde(default)]
    pub instance_pools: Vec<InstancePool>,
    pub routing_config: Option<RoutingConfig>,
    pub managed_instance_scaling: Option<ManagedInstanceScaling>,
    pub container_startup_health_check_timeout_in_seconds: Option<u64>,
    pub model_data_download_timeout_in_seconds: Option<u64>,
    pub serverless_config: Unsupported,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InstancePool {
    pub model_name_override: Unsupported,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ManagedInstanceScaling {
    pub min_instance_count: Option<u64>,
    pub max_instance_count: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RoutingConfig {
    pub routing_strategy: RoutingStrategy,
    pub prefix_aware_routing_config: Option<PrefixAwareRoutingConfig>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum RoutingStrategy {
    Random,
    LeastOutstandingRequests,
    PrefixAware,
    KvAware,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PrefixAwareRoutingConfig {
    pub prefix_length: Option<usize>,
    pub concurrency_threshold: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AsyncInferenceConfig {
    pub output_config: AsyncOutputConfig,
    pub client_config: Option<AsyncClientConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AsyncOutputConfig {
    pub s3_output_path: Option<String>,
    pub s3_failure_path: Option<String>,
    pub notification_config: Option<NotificationConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NotificationConfig {
    pub success_topic: Unsupported,
    pub error_topic: Unsupported,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AsyncClientConfig {
    pub max_concurrent_invocations_per_instance: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateEndpoint {
    pub endpoint_name: String,
    pub endpoint_config_name: String,
    pub deployment_config: Option<Value>,
    #[serde(default)]
    pub tags: Vec<Tag>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UpdateEndpoint {
    pub endpoint_name: String,
    pub endpoint_config_name: String,
    #[serde(default)]
    pub retain_all_variant_properties: bool,
    #[serde(default)]
    pub exclude_retained_variant_properties: Vec<ExcludedProperty>,
    pub deployment_config: Option<Value>,
    #[serde(default)]
    pub retain_deployment_config: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ExcludedProperty {
    pub variant_property_type: VariantProperty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum VariantProperty {
    DesiredInstanceCount,
    DesiredWeight,
    DataCaptureConfig,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UpdateWeights {
    pub endpoint_name: String,
    pub desired_weights_and_capacities: Vec<DesiredWeight>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DesiredWeight {
    pub variant_name: String,
    pub desired_weight: Option<f64>,
    pub desired_instance_count: Option<u64>,
    pub serverless_update_config: Unsupported,
}

/// A request to describe or delete a model.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ModelByName<'a> {
    pub model_name: &'a str,
}

/// A request to describe or delete an endpoint configuration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EndpointConfigByName<'a> {
    pub endpoint_config_name: &'a str,
}

/// A request to describe or delete an endpoint.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EndpointByName<'a> {
    pub endpoint_name: &'a str,
}

/// The order, page and filters that all lists have.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListRequest {
    #[serde(default)]
    pub sort_by: SortField,
    #[serde(default)]
    pub sort_order: SortOrder,
    pub next_token: Option<String>,
    pub max_results: Option<u64>,
    pub name_contains: Option<String>,
    pub creation_time_after: Option<f64>,
    pub creation_time_before: Option<f64>,
}

/// The filters that only the list of endpoints has.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EndpointFilters {
    pub last_modified_time_after: Option<f64>,
    pub last_modified_time_before: Option<f64>,
    pub status_equals: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) enum SortField {
    Name,
    #[default]
    CreationTime,
    Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(super) enum SortOrder {
    Ascending,
    #[default]
    Descending,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AddTags {
    pub resource_arn: String,
    pub tags: Vec<Tag>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeleteTags {
    pub resource_arn: String,
    pub tag_keys: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListTags<'a> {
    pub resource_arn: &'a str,
}
