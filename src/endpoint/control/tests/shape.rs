//! Tests of requests with the wrong shape.

use super::*;

#[test]
fn requests_of_the_wrong_shape_are_refused_with_sagemakers_messages() {
    let long = "x".repeat(64);
    let table = [
        (
            "CreateModel",
            json!({"ModelName": "a_b", "PrimaryContainer": {}}),
            r"1 validation error detected: Value 'a_b' at 'modelName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9]([\-a-zA-Z0-9]*[a-zA-Z0-9])?".to_owned(),
        ),
        (
            "CreateModel",
            json!({}),
            "1 validation error detected: Value null at 'modelName' failed to satisfy constraint: Member must not be null"
                .to_owned(),
        ),
        (
            "CreateModel",
            json!({"ModelName": null}),
            "1 validation error detected: Value null at 'modelName' failed to satisfy constraint: Member must not be null"
                .to_owned(),
        ),
        (
            "DescribeEndpoint",
            json!({"EndpointName": long}),
            format!(
                "1 validation error detected: Value '{long}' at 'endpointName' failed to satisfy constraint: Member must \
                 have length less than or equal to 63"
            ),
        ),
        (
            "CreateModel",
            model(json!({"InferenceExecutionConfig": {"Mode": "Parallel"}})),
            "1 validation error detected: Value 'Parallel' at 'inferenceExecutionConfig.mode' failed to satisfy \
             constraint: Member must satisfy enum value set: [Serial, Direct]"
                .to_owned(),
        ),
        (
            "CreateEndpointConfig",
            json!({"EndpointConfigName": "c", "ProductionVariants": [
                merged(variant("a"), json!({"InitialVariantWeight": 1e39, "VolumeSizeInGB": 513})),
            ]}),
            "2 validation errors detected: Value '513' at 'productionVariants.1.member.volumeSizeInGB' failed to satisfy \
             constraint: Member must have value less than or equal to 512; Value '1e+39' at \
             'productionVariants.1.member.initialVariantWeight' failed to satisfy constraint: Member must have value less \
             than or equal to 3.4028234663852886e38"
                .to_owned(),
        ),
        (
            "CreateModel",
            model(json!({"VpcConfig": {"SecurityGroupIds": ["sg 1"], "Subnets": ["subnet-1"]}})),
            "1 validation error detected: Value 'sg 1' at 'vpcConfig.securityGroupIds.1.member' failed to satisfy \
             constraint: Member must satisfy regular expression pattern: [-0-9a-zA-Z]+"
                .to_owned(),
        ),
        (
            "CreateEndpoint",
            json!({"EndpointName": "e", "EndpointConfigName": "c", "DeploymentConfig": {
                "BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": {"Type": "CANARY"}},
            }}),
            "1 validation error detected: Value null at \
             'deploymentConfig.blueGreenUpdatePolicy.trafficRoutingConfiguration.waitIntervalInSeconds' failed to satisfy \
             constraint: Member must not be null"
                .to_owned(),
        ),
        (
            "CreateEndpointConfig",
            json!({"EndpointConfigName": "c", "ProductionVariants": []}),
            "1 validation error detected: Value '[]' at 'productionVariants' failed to satisfy constraint: Member must \
             have length greater than or equal to 1"
                .to_owned(),
        ),
        (
            "CreateEndpointConfig",
            json!({"EndpointConfigName": "c", "ProductionVariants": [
                merged(variant("a"), json!({"ModelName": "A MODEL", "InitialInstanceCount": 0})),
            ]}),
            r"2 validation errors detected: Value 'A MODEL' at 'productionVariants.1.member.modelName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9]([\-a-zA-Z0-9]*[a-zA-Z0-9])?; Value '0' at 'productionVariants.1.member.initialInstanceCount' failed to satisfy constraint: Member must have value greater than or equal to 1".to_owned(),
        ),
        (
            "CreateEndpointConfig",
            json!({"EndpointConfigName": "c", "ProductionVariants": [
                merged(variant("a"), json!({"InitialVariantWeight": -0.5})),
            ]}),
            "1 validation error detected: Value '-0.5' at 'productionVariants.1.member.initialVariantWeight' failed to \
             satisfy constraint: Member must have value greater than or equal to 0"
                .to_owned(),
        ),
        (
            "ListModels",
            json!({"MaxResults": 101}),
            "1 validation error detected: Value '101' at 'maxResults' failed to satisfy constraint: Member must have \
             value less than or equal to 100"
                .to_owned(),
        ),
        (
            "CreateModel",
            model(json!({"PrimaryContainer": {"Environment": {"1A": "", "B": "secret".repeat(200)}}})),
            "2 validation errors detected: Value '1A' at 'primaryContainer.environment' failed to satisfy constraint: Map \
             keys must satisfy constraint: [Member must satisfy regular expression pattern: [a-zA-Z_][a-zA-Z0-9_]*]; Value \
             at 'primaryContainer.environment.B' failed to satisfy constraint: Map value must satisfy constraint: [Member \
             must have length less than or equal to 1024]"
                .to_owned(),
        ),
        (
            "CreateModel",
            model(json!({"PrimaryContainer": {"ModelDataUrl": "models"}})),
            "1 validation error detected: Value 'models' at 'primaryContainer.modelDataUrl' failed to satisfy constraint: \
             Member must satisfy regular expression pattern: ^(https?|s3|gs|az)://([^/]+)/?(.*)$|^(file://)?/.*$"
                .to_owned(),
        ),
    ];
    for (action, body, expected) in table {
        assert_eq!(Plane::new().refused(action, body.clone()), expected, "{action} {body}");
    }
}

#[test]
fn lists_and_maps_have_limits() {
    let variables = |count: usize| {
        let variables = (0..count).map(|index| (format!("V{index}"), json!("")));
        model(json!({"PrimaryContainer": {"Environment": Map::from_iter(variables)}}))
    };
    let containers = |count: usize| model(json!({"Containers": vec![json!({}); count]}));
    let variants = |count: usize| {
        let variants = (0..count).map(|index| variant(&format!("v{index}")));
        json!({"EndpointConfigName": "c", "ProductionVariants": Vec::from_iter(variants)})
    };
    let table = [
        (
            "CreateModel",
            variables(100),
            variables(101),
            "'primaryContainer.environment'",
        ),
        ("CreateModel", containers(15), containers(16), "'containers'"),
        (
            "CreateEndpointConfig",
            variants(10),
            variants(11),
            "'productionVariants'",
        ),
    ];
    for (action, most, more, path) in table {
        let mut plane = Plane::serving();
        plane.must("CreateModel", json!({"ModelName": "other", "PrimaryContainer": {}}));
        plane.must("DeleteModel", json!({"ModelName": "m"}));
        plane.must("DeleteEndpointConfig", json!({"EndpointConfigName": "c"}));
        if action == "CreateEndpointConfig" {
            plane.must("CreateModel", json!({"ModelName": "m", "PrimaryContainer": {}}));
        }
        let message = plane.refused(action, more);
        assert!(message.contains(&format!("at {path} failed")), "{message}");
        assert!(message.contains("length less than or equal to"), "{message}");
        plane.must(action, most);
    }
}

#[test]
fn a_value_of_the_wrong_type_is_a_serialization_error() {
    let table: [(&str, &[u8], &str); 6] = [
        ("CreateModel", b"{", "the body is not JSON"),
        ("CreateModel", b"[]", "the body must be a JSON object"),
        (
            "CreateModel",
            br#"{"ModelName": 1}"#,
            "'modelName' must be a string, not a number",
        ),
        (
            "CreateModel",
            br#"{"ModelName": "m", "PrimaryContainer": {"Environment": {"A": 1}}}"#,
            "'primaryContainer.environment.A' must be a string, not a number",
        ),
        (
            "ListModels",
            br#"{"MaxResults": 1.5}"#,
            "'maxResults' must be an integer, not a number",
        ),
        (
            "CreateEndpointConfig",
            br#"{"EndpointConfigName": "c", "ProductionVariants": {}}"#,
            "'productionVariants' must be a list, not an object",
        ),
    ];
    for (action, body, expected) in table {
        let Err(error) = ActionCall::parse(&format!("SageMaker.{action}"), body) else {
            panic!("{expected}");
        };
        assert_eq!((error.code(), error.status()), ("SerializationException", 400));
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

#[test]
fn the_error_for_an_unknown_action_lists_the_known_ones() {
    let error = Plane::new().ask("CreateTrainingJob", json!({})).unwrap_err();
    let body = error.body();
    assert_eq!(body["__type"], "UnknownOperationException");
    let message = body["message"].as_str().unwrap();
    assert!(message.starts_with("unknown action \"CreateTrainingJob\"; this endpoint supports AddTags, "));
    assert!(message.ends_with("UpdateEndpointWeightsAndCapacities"), "{message}");
}
