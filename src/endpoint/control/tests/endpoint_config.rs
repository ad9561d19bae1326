//! Tests of refused endpoint configurations.

use super::*;

#[test]
fn unsupported_or_contradictory_configurations_are_refused() {
    let with = |with: Value| merged(config("c"), with);
    let of = |with: Value| json!({"EndpointConfigName": "c", "ProductionVariants": [merged(variant("a"), with)]});
    let output = |output: Value| with(json!({"AsyncInferenceConfig": {"OutputConfig": output}}));
    let table = [
        (
            json!({"EndpointConfigName": "c", "ProductionVariants": [variant("a"), variant("a")]}),
            "VariantName must be unique within an endpoint configuration, and \"a\" is given more than once.",
        ),
        (
            of(json!({"ModelName": "other"})),
            "Could not find model \"arn:aws:sagemaker:eu-central-1:000000000000:model/other\".",
        ),
        (
            of(json!({"ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}})),
            "'productionVariants.1.member': ServerlessConfig is not supported here; give InitialInstanceCount and \
             InstanceType.",
        ),
        (
            of(json!({"ModelName": null})),
            "'productionVariants.1.member': inference components are not supported here; a variant needs ModelName.",
        ),
        (
            of(json!({"InitialInstanceCount": null})),
            "'productionVariants.1.member': InitialInstanceCount is required.",
        ),
        (
            of(json!({"ManagedInstanceScaling": {"Status": "ENABLED", "MinInstanceCount": 3, "MaxInstanceCount": 2}})),
            "'productionVariants.1.member': MinInstanceCount of ManagedInstanceScaling must not be greater than its \
             MaxInstanceCount.",
        ),
        (
            of(json!({"InstancePools": [{"InstanceType": "ml.g5.xlarge", "Priority": 1, "ModelNameOverride": "m"}]})),
            "'productionVariants.1.member': ModelNameOverride of InstancePools is not supported here; every instance \
             serves ModelName.",
        ),
        (
            of(json!({"RoutingConfig": {"RoutingStrategy": "RANDOM", "PrefixAwareRoutingConfig": {}}})),
            "'productionVariants.1.member': PrefixAwareRoutingConfig is only for the RoutingStrategy PREFIX_AWARE.",
        ),
        (
            with(json!({"ShadowProductionVariants": [variant("s")]})),
            "ShadowProductionVariants: shadow variants are not supported here.",
        ),
        (
            with(json!({"DataCaptureConfig": {
                "EnableCapture": true, "InitialSamplingPercentage": 10, "DestinationS3Uri": "s3://b/captured",
                "CaptureOptions": [{"CaptureMode": "Input"}],
            }})),
            "DataCaptureConfig: data capture is not supported here; leave it out, or set EnableCapture to false.",
        ),
        (
            output(json!({})),
            "'asyncInferenceConfig.outputConfig': S3OutputPath is required here, because the account has no default \
             bucket.",
        ),
        (
            output(
                json!({"S3OutputPath": "s3://b/o", "NotificationConfig": {"ErrorTopic": "arn:aws:sns:r:000000000000:t"}}),
            ),
            "'asyncInferenceConfig.outputConfig': NotificationConfig: SNS topics are not supported here; check for the \
             output object.",
        ),
    ];
    for (body, expected) in table {
        let mut plane = Plane::new();
        plane.must("CreateModel", model(json!({"PrimaryContainer": {}})));
        assert_eq!(plane.refused("CreateEndpointConfig", body.clone()), expected, "{body}");
    }
}
