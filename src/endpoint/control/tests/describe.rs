//! Tests of the responses that describe resources.

use super::*;

#[test]
fn members_without_an_effect_are_returned_by_describe() {
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
        "DataCaptureConfig": {
            "EnableCapture": false, "InitialSamplingPercentage": 10, "DestinationS3Uri": "s3://b/captured",
            "CaptureOptions": [{"CaptureMode": "Input"}],
        },
        "MetricsConfig": {"EnableDetailedObservability": true, "MetricPublishFrequencyInSeconds": 60},
        "CrossRegionTrafficConfig": {
            "MaxInvocationsPerSecondPerInstance": 100, "MaxCrossRegionPercentPerEndpoint": 10,
        },
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
fn creating_an_existing_resource_or_using_a_missing_one_is_refused() {
    let mut plane = Plane::serving();
    let arn = |resource: &str| format!("arn:aws:sagemaker:eu-central-1:000000000000:{resource}");
    let table = [
        // Names are not case-sensitive.
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

#[test]
fn describe_endpoint_shows_the_members_of_its_variants() {
    let mut plane = Plane::new();
    plane.must("CreateModel", model(json!({"PrimaryContainer": {}})));
    let given = json!({
        "RoutingConfig": {
            "RoutingStrategy": "PREFIX_AWARE",
            "PrefixAwareRoutingConfig": {"PrefixLength": 2048, "ConcurrencyThreshold": 8},
        },
        "ManagedInstanceScaling": {"Status": "ENABLED", "MinInstanceCount": 0, "MaxInstanceCount": 2},
        "CapacityReservationConfig": {"CapacityReservationPreference": "capacity-reservations-only"},
        "AcceleratorPartitionLayouts": [{"AcceleratorPartitionTypes": ["mig-3g.40gb"]}],
    });
    let pools = json!({"InstancePools": [
        {"InstanceType": "ml.g6.xlarge", "Priority": 2},
        {"InstanceType": "ml.g5.xlarge", "Priority": 1},
    ]});
    let variant = merged(merged(variant("a"), given.clone()), pools);
    let capture = json!({
        "EnableCapture": false, "InitialSamplingPercentage": 10, "DestinationS3Uri": "s3://b/captured", "KmsKeyId": "key",
        "CaptureOptions": [{"CaptureMode": "InputAndOutput"}],
    });
    plane.must(
        "CreateEndpointConfig",
        json!({"EndpointConfigName": "c", "ProductionVariants": [variant], "DataCaptureConfig": capture}),
    );
    let described = plane
        .must("DescribeEndpointConfig", json!({"EndpointConfigName": "c"}))
        .body;
    assert_eq!(
        described["ProductionVariants"][0],
        merged(variant, json!({"InitialVariantWeight": 1.0}))
    );
    let answer = plane.must(
        "CreateEndpoint",
        json!({"EndpointName": "e", "EndpointConfigName": "c"}),
    );
    let Some(Effect::Deploy(deployment)) = answer.effect else {
        panic!("{answer:?}");
    };
    let routing = Routing::PrefixAware {
        bytes: 2048,
        threshold: Some(8),
    };
    assert_eq!(deployment.variants[0].0.routing, routing);
    plane.settle("e", Ok(()));
    let status = plane.status("e");
    let shown = &status["ProductionVariants"][0];
    for (member, value) in given.as_object().unwrap() {
        assert_eq!(&shown[member], value, "{member}");
    }
    assert_eq!(
        shown["InstancePools"],
        json!([
            {"InstanceType": "ml.g6.xlarge", "CurrentInstanceCount": 0},
            {"InstanceType": "ml.g5.xlarge", "CurrentInstanceCount": 1},
        ])
    );
    assert_eq!(
        status["DataCaptureConfig"],
        json!({
            "EnableCapture": false, "CaptureStatus": "Stopped", "CurrentSamplingPercentage": 10,
            "DestinationS3Uri": "s3://b/captured", "KmsKeyId": "key",
        })
    );
}

#[test]
fn no_action_distinguishes_names_by_case() {
    let mut plane = Plane::serving();
    plane.must(
        "CreateModel",
        json!({"ModelName": "Big", "PrimaryContainer": {}, "Tags": [{"Key": "k", "Value": "v"}]}),
    );
    let described = |body: Value, member: &str| body[member].clone();
    let body = plane.must("DescribeModel", json!({"ModelName": "bIG"})).body;
    assert_eq!(
        described(body, "ModelName"),
        "Big",
        "the spelling of the create request"
    );
    plane.must(
        "CreateEndpointConfig",
        json!({"EndpointConfigName": "Conf", "ProductionVariants": [
            merged(variant("a"), json!({"ModelName": "BIG"})),
        ]}),
    );
    let body = plane
        .must("DescribeEndpointConfig", json!({"EndpointConfigName": "CONF"}))
        .body;
    assert_eq!(described(body, "EndpointConfigName"), "Conf");
    plane.must(
        "CreateEndpoint",
        json!({"EndpointName": "End", "EndpointConfigName": "cONF"}),
    );
    plane.settle("End", Ok(()));
    let status = plane.status("eND");
    assert_eq!(
        (&status["EndpointName"], &status["EndpointConfigName"]),
        (&json!("End"), &json!("Conf"))
    );

    let arn = "arn:aws:sagemaker:eu-central-1:000000000000:model/Big";
    let tags = plane.must("ListTags", json!({"ResourceArn": arn})).body;
    assert_eq!(tags, json!({"Tags": [{"Key": "k", "Value": "v"}]}));
    plane.must("DeleteTags", json!({"ResourceArn": arn, "TagKeys": ["k"]}));
    let tags = plane.must("ListTags", json!({"ResourceArn": arn.to_lowercase()})).body;
    assert_eq!(tags, json!({"Tags": []}));

    // Effects use the spelling of the create request.
    let answer = plane.must(
        "UpdateEndpointWeightsAndCapacities",
        json!({"EndpointName": "END", "DesiredWeightsAndCapacities": [{"VariantName": "a", "DesiredWeight": 2}]}),
    );
    assert_eq!(answer.effect.unwrap().endpoint(), "End");
    plane.settle("End", Ok(()));
    let answer = plane.must(
        "UpdateEndpoint",
        json!({"EndpointName": "END", "EndpointConfigName": "c"}),
    );
    assert_eq!(answer.effect.unwrap().endpoint(), "End");
    plane.settle("End", Ok(()));
    let answer = plane.must("DeleteEndpoint", json!({"EndpointName": "END"}));
    assert_eq!(answer.effect.unwrap().endpoint(), "End");
    plane.settle("End", Ok(()));
    plane.must("DeleteEndpointConfig", json!({"EndpointConfigName": "CONF"}));
    plane.must("DeleteModel", json!({"ModelName": "BIG"}));
    assert!(!plane.records.endpoints.contains_key("End"));
    assert_eq!((plane.records.models.len(), plane.records.configs.len()), (1, 1));
}
