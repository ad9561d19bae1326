//! What is given back of what there is.

use super::*;

#[test]
fn harmless_members_are_given_back() {
    let mut plane = Plane::new();
    let given = json!({
        "PrimaryContainer": {"Image": "i", "ImageConfig": {"RepositoryAccessMode": "Platform"}},
        "ExecutionRoleArn": "arn:aws:iam::123456789012:role/Role",
        "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
        "EnableNetworkIsolation": true,
    });
    plane.must(
        "CreateModel",
        model(merged(given.clone(), json!({"Tags": [], "Unheard": 1}))),
    );
    let described = plane.must("DescribeModel", json!({"ModelName": "m"})).body;
    assert_eq!(
        described,
        merged(
            given,
            json!({
                "PrimaryContainer": {
                    "Image": "i", "ImageConfig": {"RepositoryAccessMode": "Platform"}, "Mode": "SingleModel",
                },
                "ModelName": "m",
                "ModelArn": "arn:aws:sagemaker:eu-central-1:000000000000:model/m",
                "CreationTime": 1_790_000_001.0,
            })
        )
    );

    let given = json!({
        "KmsKeyId": "key",
        "DataCaptureConfig": {"EnableCapture": false},
        "AsyncInferenceConfig": {
            "OutputConfig": {"S3OutputPath": "s3://b/out", "S3FailurePath": "s3://b/failed"},
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 4},
        },
    });
    plane.must("CreateEndpointConfig", merged(config("C"), given.clone()));
    let described = plane
        .must("DescribeEndpointConfig", json!({"EndpointConfigName": "C"}))
        .body;
    let variant = |name| merged(variant(name), json!({"InitialVariantWeight": 1.0}));
    assert_eq!(
        described,
        merged(
            given,
            json!({
                "EndpointConfigName": "C",
                "EndpointConfigArn": "arn:aws:sagemaker:eu-central-1:000000000000:endpoint-config/c",
                "ProductionVariants": [variant("a"), variant("b")],
                "EnableNetworkIsolation": false,
                "CreationTime": 1_790_000_003.0,
            })
        )
    );
    let asynchronous = plane.records.configs["C"].asynchronous.clone().unwrap();
    assert_eq!(asynchronous.output, "s3://b/out");
    assert_eq!(asynchronous.failure.as_deref(), Some("s3://b/failed"));
    assert_eq!(asynchronous.max_concurrent, Some(4));
}

#[test]
fn what_is_there_is_not_made_again_and_what_is_not_there_is_not_found() {
    let mut plane = Plane::serving();
    let arn = |resource: &str| format!("arn:aws:sagemaker:eu-central-1:000000000000:{resource}");
    let table = [
        // Names that differ in case only are the same.
        (
            "CreateModel",
            json!({"ModelName": "M", "PrimaryContainer": {}}),
            format!("Cannot create already existing model \"{}\".", arn("model/m")),
        ),
        (
            "CreateEndpointConfig",
            config("c"),
            format!(
                "Cannot create already existing endpoint configuration \"{}\".",
                arn("endpoint-config/c")
            ),
        ),
        (
            "CreateEndpoint",
            json!({"EndpointName": "e", "EndpointConfigName": "c"}),
            format!("Cannot create already existing endpoint \"{}\".", arn("endpoint/e")),
        ),
        (
            "CreateEndpoint",
            json!({"EndpointName": "new", "EndpointConfigName": "none"}),
            format!(
                "Could not find endpoint configuration \"{}\".",
                arn("endpoint-config/none")
            ),
        ),
        (
            "UpdateEndpoint",
            json!({"EndpointName": "e", "EndpointConfigName": "none"}),
            format!(
                "Could not find endpoint configuration \"{}\".",
                arn("endpoint-config/none")
            ),
        ),
        (
            "UpdateEndpointWeightsAndCapacities",
            json!({"EndpointName": "e", "DesiredWeightsAndCapacities": [{"VariantName": "none"}]}),
            "The variant name(s) \"none\" is/are not present within endpoint configuration \"c\".".to_owned(),
        ),
        (
            "ListTags",
            json!({"ResourceArn": arn("model/none")}),
            format!("Could not find resource \"{}\".", arn("model/none")),
        ),
    ];
    for (action, body, expected) in table {
        assert_eq!(plane.refused(action, body), expected);
    }
    for (actions, member, kind, segment) in [
        (&["DescribeModel", "DeleteModel"][..], "ModelName", "model", "model"),
        (
            &["DescribeEndpointConfig", "DeleteEndpointConfig"],
            "EndpointConfigName",
            "endpoint configuration",
            "endpoint-config",
        ),
        (
            &["DescribeEndpoint", "DeleteEndpoint"],
            "EndpointName",
            "endpoint",
            "endpoint",
        ),
    ] {
        for action in actions {
            let message = plane.refused(action, json!({member: "None"}));
            let arn = arn(&format!("{segment}/none"));
            assert_eq!(message, format!("Could not find {kind} \"{arn}\"."), "{action}");
        }
    }
}

#[test]
fn an_endpoint_is_described_as_sagemaker_does() {
    let mut plane = Plane::new();
    plane.must("CreateModel", model(json!({"PrimaryContainer": {"Image": "image:1"}})));
    plane.must(
        "CreateEndpointConfig",
        json!({"EndpointConfigName": "c", "ProductionVariants": [
            merged(variant("a"), json!({
                "InitialInstanceCount": 2,
                "InitialVariantWeight": 0.25,
                "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
            })),
        ]}),
    );
    let answer = plane.must(
        "CreateEndpoint",
        json!({"EndpointName": "e", "EndpointConfigName": "c"}),
    );
    assert_eq!(
        answer.body,
        json!({"EndpointArn": "arn:aws:sagemaker:eu-central-1:000000000000:endpoint/e"})
    );
    let Some(Effect::Deploy(deployment)) = answer.effect else {
        panic!("{answer:?}");
    };
    assert_eq!(deployment.endpoint, "e");
    assert_eq!(
        (deployment.variants[0].0.instances, deployment.variants[0].0.weight),
        (2, 0.25)
    );

    let created = 1_790_000_003.0;
    let mut expected = json!({
        "EndpointName": "e",
        "EndpointArn": "arn:aws:sagemaker:eu-central-1:000000000000:endpoint/e",
        "EndpointConfigName": "c",
        "EndpointStatus": "Creating",
        "CreationTime": created,
        "LastModifiedTime": created,
        "ProductionVariants": [{
            "VariantName": "a",
            "DeployedImages": [
                {"SpecifiedImage": "image:1", "ResolvedImage": "image:1", "ResolutionTime": created},
            ],
            "CurrentWeight": 0.0,
            "DesiredWeight": 0.25,
            "CurrentInstanceCount": 1,
            "DesiredInstanceCount": 2,
            "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
        }],
    });
    assert_eq!(plane.status("e"), expected);

    plane.settle("e", Ok(()));
    let settled = created + 2.0;
    expected["EndpointStatus"] = json!("InService");
    expected["LastModifiedTime"] = json!(settled);
    expected["ProductionVariants"][0]["CurrentWeight"] = json!(0.25);
    expected["ProductionVariants"][0]["DeployedImages"][0]["ResolutionTime"] = json!(settled);
    assert_eq!(plane.status("e"), expected);
}
