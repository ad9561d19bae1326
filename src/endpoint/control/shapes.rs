//! The shapes of SageMaker's requests: their members and limits.
//!
//! Three constraints are looser than SageMaker's: the role and the image are optional, and model
//! data may also be a path. `InstanceType` and `InferenceAmiVersion` accept any text: the lists of
//! machine types and their images change every month, and no machines are allocated here.

mod deployment;
mod variant;

use super::shape::Shape::{Choice, Flag, Integer, List, Map, Number, Structure, Text, Time};
use super::shape::{Member, Shape, optional, required, text};
use crate::endpoint::pattern::{
    ENVIRONMENT_KEY, ENVIRONMENT_VALUE, KEY, MAX_NAME, METRICS_PATH, MODEL_DATA, MODEL_NAME, NAME_CONTAINS, NO_SPACES,
    ONE_LINE, RESOURCE, RESOURCE_NAME, ROLE, TAG, VPC_ID,
};
use deployment::DEPLOYMENT_CONFIG;
use variant::{ASYNC_INFERENCE, DATA_CAPTURE, VARIANT};

const MODEL: Shape = text(MAX_NAME, &MODEL_NAME);
const NAMED: Shape = text(MAX_NAME, &RESOURCE_NAME);
const ANY_TEXT: Shape = Text {
    min: 0,
    max: usize::MAX,
    pattern: None,
};
const ROLE_ARN: Shape = Text {
    min: 20,
    max: 2048,
    pattern: Some(&ROLE),
};
const RESOURCE_ARN: Shape = text(256, &RESOURCE);
const ONE_OR_MORE: Shape = Integer { min: 1, max: i64::MAX };
const ANY_INTEGER: Shape = Integer {
    min: i64::MIN,
    max: i64::MAX,
};
const NONE_OR_MORE: Shape = Integer { min: 0, max: i64::MAX };
const KMS_KEY: Shape = text(2048, &KEY);
const TIMEOUT_SECONDS: Shape = Integer { min: 60, max: 3600 };

/// Maximum number of tags of a resource.
pub(super) const MAX_TAGS: usize = 50;

const TAG_KEY: Shape = Text {
    min: 1,
    max: 128,
    pattern: Some(&TAG),
};
const TAGS: Shape = List {
    min: 0,
    max: MAX_TAGS,
    of: &Structure(&[required("Key", TAG_KEY), required("Value", text(256, &TAG))]),
};

const VPC_CONFIG: Shape = Structure(&[
    required(
        "SecurityGroupIds",
        List {
            min: 1,
            max: 5,
            of: &text(32, &VPC_ID),
        },
    ),
    required(
        "Subnets",
        List {
            min: 1,
            max: 16,
            of: &text(32, &VPC_ID),
        },
    ),
]);

const MODEL_DATA_SOURCE: Shape = Structure(&[optional(
    "S3DataSource",
    Structure(&[
        required("S3Uri", text(1024, &MODEL_DATA)),
        required("S3DataType", Choice(&["S3Prefix", "S3Object"])),
        required("CompressionType", Choice(&["None", "Gzip"])),
        optional("ModelAccessConfig", Structure(&[required("AcceptEula", Flag)])),
    ]),
)]);

const CONTAINER: Shape = Structure(&[
    optional("ContainerHostname", NAMED),
    optional("Image", text(255, &NO_SPACES)),
    optional(
        "ImageConfig",
        Structure(&[
            required("RepositoryAccessMode", Choice(&["Platform", "Vpc"])),
            optional(
                "RepositoryAuthConfig",
                Structure(&[required(
                    "RepositoryCredentialsProviderArn",
                    Text {
                        min: 1,
                        max: 2048,
                        pattern: Some(&ONE_LINE),
                    },
                )]),
            ),
        ]),
    ),
    optional("Mode", Choice(&["SingleModel", "MultiModel"])),
    optional("ModelDataUrl", text(1024, &MODEL_DATA)),
    optional("ModelDataSource", MODEL_DATA_SOURCE),
    optional(
        "Environment",
        Map {
            max: 100,
            key: &text(1024, &ENVIRONMENT_KEY),
            value: &text(1024, &ENVIRONMENT_VALUE),
        },
    ),
    optional(
        "MultiModelConfig",
        Structure(&[optional("ModelCacheSetting", Choice(&["Enabled", "Disabled"]))]),
    ),
    optional(
        "ContainerMetricsConfig",
        Structure(&[optional(
            "MetricsEndpoints",
            List {
                min: 0,
                max: 1,
                of: &Structure(&[
                    required("MetricsEndpointPath", text(256, &METRICS_PATH)),
                    optional("MetricPublishFrequencyInSeconds", ANY_INTEGER),
                ]),
            },
        )]),
    ),
]);

pub(super) const CREATE_MODEL: &[Member] = &[
    required("ModelName", MODEL),
    optional("PrimaryContainer", CONTAINER),
    optional(
        "Containers",
        List {
            min: 0,
            max: 15,
            of: &CONTAINER,
        },
    ),
    optional(
        "InferenceExecutionConfig",
        Structure(&[required("Mode", Choice(&["Serial", "Direct"]))]),
    ),
    optional("ExecutionRoleArn", ROLE_ARN),
    optional("Tags", TAGS),
    optional("VpcConfig", VPC_CONFIG),
    optional("EnableNetworkIsolation", Flag),
];

pub(super) const MODEL_BY_NAME: &[Member] = &[required("ModelName", MODEL)];

pub(super) const CREATE_ENDPOINT_CONFIG: &[Member] = &[
    required("EndpointConfigName", NAMED),
    required(
        "ProductionVariants",
        List {
            min: 1,
            max: 10,
            of: &VARIANT,
        },
    ),
    optional("DataCaptureConfig", DATA_CAPTURE),
    optional("Tags", TAGS),
    optional("AsyncInferenceConfig", ASYNC_INFERENCE),
    optional("KmsKeyId", KMS_KEY),
    optional(
        "MetricsConfig",
        Structure(&[
            optional("EnableEnhancedMetrics", Flag),
            optional("EnableDetailedObservability", Flag),
            optional("MetricPublishFrequencyInSeconds", ANY_INTEGER),
        ]),
    ),
    optional(
        "CrossRegionTrafficConfig",
        Structure(&[
            required("MaxInvocationsPerSecondPerInstance", Integer { min: 1, max: 10_000 }),
            required("MaxCrossRegionPercentPerEndpoint", Integer { min: 1, max: 100 }),
        ]),
    ),
    optional("ExecutionRoleArn", ROLE_ARN),
    optional("VpcConfig", VPC_CONFIG),
    optional("EnableNetworkIsolation", Flag),
];

pub(super) const ENDPOINT_CONFIG_BY_NAME: &[Member] = &[required("EndpointConfigName", NAMED)];

pub(super) const CREATE_ENDPOINT: &[Member] = &[
    required("EndpointName", NAMED),
    required("EndpointConfigName", NAMED),
    optional("DeploymentConfig", DEPLOYMENT_CONFIG),
    optional("Tags", TAGS),
];

pub(super) const UPDATE_ENDPOINT: &[Member] = &[
    required("EndpointName", NAMED),
    required("EndpointConfigName", NAMED),
    optional("RetainAllVariantProperties", Flag),
    optional(
        "ExcludeRetainedVariantProperties",
        List {
            min: 0,
            max: 3,
            of: &Structure(&[required(
                "VariantPropertyType",
                Choice(&["DesiredInstanceCount", "DesiredWeight", "DataCaptureConfig"]),
            )]),
        },
    ),
    optional("DeploymentConfig", DEPLOYMENT_CONFIG),
    optional("RetainDeploymentConfig", Flag),
];

pub(super) const UPDATE_WEIGHTS: &[Member] = &[
    required("EndpointName", NAMED),
    required(
        "DesiredWeightsAndCapacities",
        List {
            min: 1,
            max: usize::MAX,
            of: &Structure(&[
                required("VariantName", NAMED),
                optional("DesiredWeight", Number { min: 0.0 }),
                optional("DesiredInstanceCount", NONE_OR_MORE),
            ]),
        },
    ),
];

pub(super) const ENDPOINT_BY_NAME: &[Member] = &[required("EndpointName", NAMED)];

const SORT_ORDER: Member = optional("SortOrder", Choice(&["Ascending", "Descending"]));
const NEXT_TOKEN: Member = optional(
    "NextToken",
    Text {
        min: 0,
        max: 8192,
        pattern: None,
    },
);
const MAX_RESULTS: Member = optional("MaxResults", Integer { min: 1, max: 100 });
const CONTAINS: Member = optional("NameContains", text(MAX_NAME, &NAME_CONTAINS));
const CREATED_BEFORE: Member = optional("CreationTimeBefore", Time);
const CREATED_AFTER: Member = optional("CreationTimeAfter", Time);

/// The members of `ListModels` and `ListEndpointConfigs`.
pub(super) const LIST: &[Member] = &[
    optional("SortBy", Choice(&["Name", "CreationTime"])),
    SORT_ORDER,
    NEXT_TOKEN,
    MAX_RESULTS,
    CONTAINS,
    CREATED_BEFORE,
    CREATED_AFTER,
];

pub(super) const LIST_ENDPOINTS: &[Member] = &[
    optional("SortBy", Choice(&["Name", "CreationTime", "Status"])),
    SORT_ORDER,
    NEXT_TOKEN,
    MAX_RESULTS,
    CONTAINS,
    CREATED_BEFORE,
    CREATED_AFTER,
    optional("LastModifiedTimeBefore", Time),
    optional("LastModifiedTimeAfter", Time),
    optional(
        "StatusEquals",
        Choice(&[
            "OutOfService",
            "Creating",
            "Updating",
            "SystemUpdating",
            "RollingBack",
            "InService",
            "Deleting",
            "Failed",
            "UpdateRollbackFailed",
        ]),
    ),
];

pub(super) const ADD_TAGS: &[Member] = &[required("ResourceArn", RESOURCE_ARN), required("Tags", TAGS)];

pub(super) const DELETE_TAGS: &[Member] = &[
    required("ResourceArn", RESOURCE_ARN),
    required(
        "TagKeys",
        List {
            min: 1,
            max: MAX_TAGS,
            of: &TAG_KEY,
        },
    ),
];

pub(super) const LIST_TAGS: &[Member] = &[
    required("ResourceArn", RESOURCE_ARN),
    NEXT_TOKEN,
    // At least as many as a resource can have, so there is no second page.
    optional("MaxResults", Integer { min: 50, max: i64::MAX }),
];
