//! The members of an endpoint configuration: variants, asynchronous inference and data capture.
//!
//! Members without an effect here are checked as well, so that a request that SageMaker would
//! refuse fails here too.

use super::super::shape::Shape::{Anything, Choice, Flag, Integer, List, Number, Structure};
use super::super::shape::{Shape, optional, required, text};
use super::{ANY_TEXT, KMS_KEY, MODEL, NAMED, NONE_OR_MORE, ONE_OR_MORE, TIMEOUT_SECONDS};
use crate::endpoint::pattern::{MEDIA_TYPE, OUTPUT, PARTITION, RESERVATION, S3_URI, TOPIC};

const INSTANCE_POOLS: Shape = List {
    min: 1,
    max: 5,
    of: &Structure(&[
        required("InstanceType", ANY_TEXT),
        optional("ModelNameOverride", MODEL),
        required("Priority", Integer { min: 1, max: 5 }),
    ]),
};

const ROUTING: Shape = Structure(&[
    required(
        "RoutingStrategy",
        Choice(&["LEAST_OUTSTANDING_REQUESTS", "RANDOM", "PREFIX_AWARE", "KV_AWARE"]),
    ),
    optional(
        "PrefixAwareRoutingConfig",
        Structure(&[
            optional("PrefixLength", Integer { min: 1024, max: 65_536 }),
            optional("ConcurrencyThreshold", Integer { min: 1, max: 1024 }),
        ]),
    ),
]);

const MANAGED_SCALING: Shape = Structure(&[
    optional("Status", Choice(&["ENABLED", "DISABLED"])),
    optional("MinInstanceCount", NONE_OR_MORE),
    optional("MaxInstanceCount", ONE_OR_MORE),
    optional(
        "ScaleInPolicy",
        Structure(&[
            required("Strategy", Choice(&["IDLE_RELEASE", "CONSOLIDATION"])),
            optional("MaximumStepSize", Integer { min: 1, max: 100 }),
            optional("CooldownInMinutes", Integer { min: 5, max: 1440 }),
        ]),
    ),
]);

const CAPACITY_RESERVATION: Shape = Structure(&[
    optional("CapacityReservationPreference", Choice(&["capacity-reservations-only"])),
    optional(
        "MlReservationArn",
        Shape::Text {
            min: 20,
            max: 258,
            pattern: Some(&RESERVATION),
        },
    ),
]);

const PARTITION_LAYOUTS: Shape = List {
    min: 1,
    max: 32,
    of: &Structure(&[optional(
        "AcceleratorPartitionTypes",
        List {
            min: 0,
            max: 32,
            of: &text(32, &PARTITION),
        },
    )]),
};

/// Elastic Inference accelerators, which SageMaker has discontinued; the list is final.
const ACCELERATORS: [&str; 6] = [
    "ml.eia1.medium",
    "ml.eia1.large",
    "ml.eia1.xlarge",
    "ml.eia2.medium",
    "ml.eia2.large",
    "ml.eia2.xlarge",
];

pub(super) const VARIANT: Shape = Structure(&[
    required("VariantName", NAMED),
    optional("ModelName", MODEL),
    optional("InitialInstanceCount", ONE_OR_MORE),
    optional("InstanceType", ANY_TEXT),
    optional("InstancePools", INSTANCE_POOLS),
    optional(
        "VariantInstanceProvisionTimeoutInSeconds",
        Integer { min: 300, max: 3600 },
    ),
    optional("AcceleratorType", Choice(&ACCELERATORS)),
    optional("AcceleratorPartitionLayouts", PARTITION_LAYOUTS),
    optional("CapacityReservationConfig", CAPACITY_RESERVATION),
    optional("InferenceAmiVersion", ANY_TEXT),
    optional("VolumeSizeInGB", Integer { min: 1, max: 512 }),
    optional("EnableSSMAccess", Flag),
    optional(
        "CoreDumpConfig",
        Structure(&[
            required("DestinationS3Uri", text(512, &S3_URI)),
            optional("KmsKeyId", KMS_KEY),
        ]),
    ),
    optional("InitialVariantWeight", Number { min: 0.0 }),
    optional("ServerlessConfig", Anything),
    optional("ModelDataDownloadTimeoutInSeconds", TIMEOUT_SECONDS),
    optional("ContainerStartupHealthCheckTimeoutInSeconds", TIMEOUT_SECONDS),
    optional("RoutingConfig", ROUTING),
    optional("ManagedInstanceScaling", MANAGED_SCALING),
]);

pub(super) const ASYNC_INFERENCE: Shape = Structure(&[
    required(
        "OutputConfig",
        Structure(&[
            optional("KmsKeyId", KMS_KEY),
            optional("S3OutputPath", text(512, &OUTPUT)),
            optional("S3FailurePath", text(512, &OUTPUT)),
            optional(
                "NotificationConfig",
                Structure(&[
                    optional("SuccessTopic", text(2048, &TOPIC)),
                    optional("ErrorTopic", text(2048, &TOPIC)),
                    optional(
                        "IncludeInferenceResponseIn",
                        List {
                            min: 0,
                            max: 2,
                            of: &Choice(&["SUCCESS_NOTIFICATION_TOPIC", "ERROR_NOTIFICATION_TOPIC"]),
                        },
                    ),
                ]),
            ),
        ]),
    ),
    optional(
        "ClientConfig",
        Structure(&[optional(
            "MaxConcurrentInvocationsPerInstance",
            Integer { min: 1, max: 1000 },
        )]),
    ),
]);

const CONTENT_TYPES: Shape = List {
    min: 1,
    max: 10,
    of: &Shape::Text {
        min: 1,
        max: 256,
        pattern: Some(&MEDIA_TYPE),
    },
};

pub(super) const DATA_CAPTURE: Shape = Structure(&[
    optional("EnableCapture", Flag),
    required("InitialSamplingPercentage", Integer { min: 0, max: 100 }),
    required("DestinationS3Uri", text(512, &S3_URI)),
    optional("KmsKeyId", KMS_KEY),
    required(
        "CaptureOptions",
        List {
            min: 1,
            max: 32,
            of: &Structure(&[required("CaptureMode", Choice(&["Input", "Output", "InputAndOutput"]))]),
        },
    ),
    optional(
        "CaptureContentTypeHeader",
        Structure(&[
            optional("CsvContentTypes", CONTENT_TYPES),
            optional("JsonContentTypes", CONTENT_TYPES),
        ]),
    ),
]);
