//! The actions on models, and the checks of a model's containers.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::arn::{Arns, ResourceKind};
use super::description::description;
use super::error::ControlError;
use super::records::Records;
use super::request::{
    self, ContainerDefinition, ContainerMode, CreateModel, ExecutionMode, ModelByName, ModelCacheSetting, Tag,
};
use super::{ActionContext, ActionResponse, shapes, tags};
use crate::endpoint::loader_variables;
use crate::endpoint::spec::{Container, Execution, Mode, Model, ONLY_CONTAINER};

/// Maximum bytes of the names and values of all environment variables of a model.
const MAX_ENVIRONMENT_BYTES: usize = 32 << 10;

/// Creates a model from the body of a `CreateModel` request, for the API and the command line.
pub fn parse(body: Value, arns: &Arns, created: f64) -> Result<Model, ControlError> {
    let (model, _) = build(&request::check(shapes::CREATE_MODEL, body)?, arns, created)?;
    Ok(model)
}

/// Creates a model from a checked request.
fn build(body: &Map<String, Value>, arns: &Arns, created: f64) -> Result<(Model, Vec<Tag>), ControlError> {
    let request: CreateModel = request::read(body)?;
    let containers = containers(&request)?;
    let execution = match &request.inference_execution_config {
        Some(config) if config.mode == ExecutionMode::Direct => Execution::Direct,
        _ => Execution::Serial,
    };
    check_together(&request, &containers, execution)?;
    let model = Model {
        arn: arns.of(ResourceKind::Model, &request.model_name),
        name: request.model_name,
        created,
        containers,
        execution,
        raw: tags::without_tags(body),
    };
    Ok((model, request.tags))
}

fn containers(request: &CreateModel) -> Result<Vec<Container>, ControlError> {
    match (&request.primary_container, request.containers.as_slice()) {
        (None, []) => Err(ControlError::validation(
            "A model needs either PrimaryContainer or Containers.",
        )),
        (Some(_), [_, ..]) => Err(ControlError::validation(
            "A model has either PrimaryContainer or Containers, not both.",
        )),
        // The hostname of a primary container is ignored, as SageMaker documents.
        (Some(primary), []) => Ok(vec![container(primary, ONLY_CONTAINER.to_owned(), "primaryContainer")?]),
        (None, several) => {
            let container = |(index, definition): (usize, &ContainerDefinition)| {
                let hostname = match (&definition.container_hostname, several.len()) {
                    (Some(given), _) => given.clone(),
                    (None, 1) => ONLY_CONTAINER.to_owned(),
                    (None, _) => format!("container-{}", index + 1),
                };
                container(definition, hostname, &format!("containers.{}.member", index + 1))
            };
            several.iter().enumerate().map(container).collect()
        }
    }
}

fn container(definition: &ContainerDefinition, hostname: String, path: &str) -> Result<Container, ControlError> {
    const NEEDS_URL: &str = "give Image and ModelDataUrl instead";
    let unsupported = [
        ("ModelPackageName", definition.model_package_name, NEEDS_URL),
        (
            "InferenceSpecificationName",
            definition.inference_specification_name,
            NEEDS_URL,
        ),
        (
            "AdditionalModelDataSources",
            definition.additional_model_data_sources,
            "put the files into the model's own archive",
        ),
    ];
    if let Some((member, _, instead)) = unsupported.iter().find(|(_, given, _)| given.is_some()) {
        return Err(ControlError::validation(format!(
            "'{path}': {member} is not supported here; {instead}."
        )));
    }
    let cache_setting = definition
        .multi_model_config
        .as_ref()
        .and_then(|config| config.model_cache_setting);
    let mode = match definition.mode {
        Some(ContainerMode::MultiModel) => Mode::MultiModel {
            cache: cache_setting != Some(ModelCacheSetting::Disabled),
        },
        Some(ContainerMode::SingleModel) | None => Mode::SingleModel,
    };
    Ok(Container {
        hostname,
        image: definition.image.clone(),
        mode,
        model_data_url: model_data_url(definition, mode, path)?,
        environment: definition.environment.clone(),
        address: None,
    })
}

fn model_data_url(definition: &ContainerDefinition, mode: Mode, path: &str) -> Result<Option<String>, ControlError> {
    let refuse = |reason: &str| Err(ControlError::validation(format!("'{path}': {reason}")));
    let url = match (&definition.model_data_url, &definition.model_data_source) {
        (Some(_), Some(_)) => return refuse("ModelDataUrl and ModelDataSource cannot both be given."),
        (Some(url), None) => Some(url),
        (None, Some(_)) if mode != Mode::SingleModel => {
            return refuse("ModelDataSource is not supported for multi-model endpoints; give ModelDataUrl.");
        }
        (None, Some(source)) => {
            let Some(data) = &source.s3_data_source else {
                return refuse("ModelDataSource needs S3DataSource.");
            };
            let unsupported = [
                ("ManifestS3Uri", data.manifest_s3_uri),
                ("HubAccessConfig", data.hub_access_config),
                ("ETag", data.e_tag),
                ("ManifestEtag", data.manifest_etag),
            ];
            if let Some((member, _)) = unsupported.iter().find(|(_, given)| given.is_some()) {
                return refuse(&format!("ModelDataSource.S3DataSource.{member} is not supported here."));
            }
            Some(&data.s3_uri)
        }
        (None, None) => None,
    };
    match (mode, url) {
        (Mode::MultiModel { .. }, None) => refuse("ModelDataUrl is required for a container in MultiModel mode."),
        (_, url) => Ok(url.cloned()),
    }
}

/// Checks the constraints between containers.
fn check_together(request: &CreateModel, containers: &[Container], execution: Execution) -> Result<(), ControlError> {
    let multi_model = containers.iter().filter(|container| container.is_multi_model()).count();
    if multi_model > 1 {
        return Err(ControlError::validation(
            "More than one container in MultiModel mode is not supported with inference pipeline.",
        ));
    }
    if multi_model > 0 && execution == Execution::Direct {
        return Err(ControlError::validation(
            "A container in MultiModel mode is not supported with InferenceExecutionConfig Mode Direct.",
        ));
    }
    let named = request.containers.iter();
    let named = named.filter(|container| container.container_hostname.is_some()).count();
    if named < request.containers.len() {
        if execution == Execution::Direct {
            return Err(ControlError::validation(
                "ContainerHostname is required for every container when InferenceExecutionConfig Mode is Direct.",
            ));
        }
        if named > 0 {
            return Err(ControlError::validation(
                "ContainerHostname must be given for every container or for none.",
            ));
        }
    }
    if execution == Execution::Direct && request.primary_container.is_some() {
        return Err(ControlError::validation(
            "InferenceExecutionConfig Mode Direct needs Containers, not PrimaryContainer.",
        ));
    }
    let mut counts = BTreeMap::<_, usize>::new();
    for container in containers {
        *counts.entry(container.hostname.as_str()).or_default() += 1;
    }
    if let Some((hostname, _)) = counts.iter().find(|(_, count)| **count > 1) {
        return Err(ControlError::validation(format!(
            "ContainerHostname must be unique within a model, and \"{hostname}\" is given more than once."
        )));
    }
    let environment = containers.iter().flat_map(|container| &container.environment);
    let bytes = environment.map(|(name, value)| name.len() + value.len()).sum::<usize>();
    if bytes > MAX_ENVIRONMENT_BYTES {
        return Err(ControlError::validation(format!(
            "The Environment of a model's containers has {bytes} bytes in total; the limit is {MAX_ENVIRONMENT_BYTES}."
        )));
    }
    Ok(())
}

/// Refuses variables that are unsafe for a container that runs as a process. Models that were
/// created earlier for images are refused when they are deployed.
fn refuse_loader_variables(model: &Model) -> Result<(), ControlError> {
    let is_primary = model.raw.get("PrimaryContainer").is_some();
    for (index, container) in model.containers.iter().enumerate() {
        let names = container.environment.keys().map(String::as_str);
        if let Some(refused) = loader_variables::first_refused(names) {
            let path = match is_primary {
                true => "primaryContainer".to_owned(),
                false => format!("containers.{}.member", index + 1),
            };
            return Err(ControlError::validation(format!("'{path}.environment': {refused}")));
        }
    }
    Ok(())
}

pub(super) fn create(
    context: &ActionContext<'_>,
    records: &mut Records,
    body: &Map<String, Value>,
) -> Result<ActionResponse, ControlError> {
    let (model, tags) = build(body, context.arns, context.now)?;
    if context.fleet.runs_processes() {
        refuse_loader_variables(&model)?;
    }
    records.must_be_new(ResourceKind::Model, &model.arn)?;
    records.add_tags(ResourceKind::Model, &model.name, tags);
    let answer = ActionResponse::plain(json!({"ModelArn": model.arn}));
    records.models.insert(model.name.clone(), Arc::new(model));
    Ok(answer)
}

pub(super) fn describe(
    context: &ActionContext<'_>,
    records: &Records,
    body: &Map<String, Value>,
) -> Result<Value, ControlError> {
    let request: ModelByName<'_> = request::read(body)?;
    let model = records.model(context.arns, request.model_name)?;
    let mut description = description(&model.raw, shapes::CREATE_MODEL);
    if let Some(container) = description.get_mut("PrimaryContainer") {
        add_mode(container);
    }
    let several = description.get_mut("Containers").and_then(Value::as_array_mut);
    several.into_iter().flatten().for_each(add_mode);
    description.insert("ModelName".to_owned(), json!(model.name));
    description.insert("ModelArn".to_owned(), json!(model.arn));
    description.insert("CreationTime".to_owned(), json!(model.created));
    Ok(description.into())
}

/// Adds the default mode, as SageMaker does.
fn add_mode(container: &mut Value) {
    if let Some(container) = container.as_object_mut() {
        container.entry("Mode").or_insert_with(|| json!("SingleModel"));
    }
}

/// Deletes a model. Endpoints that use it keep running with their own copy.
pub(super) fn delete(
    context: &ActionContext<'_>,
    records: &mut Records,
    body: &Map<String, Value>,
) -> Result<ActionResponse, ControlError> {
    let request: ModelByName<'_> = request::read(body)?;
    let name = records.model(context.arns, request.model_name)?.name.clone();
    records.models.remove(&name);
    records.forget_tags(ResourceKind::Model, &name);
    Ok(ActionResponse::plain(json!({})))
}
