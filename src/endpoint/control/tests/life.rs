//! Tests of an endpoint's life cycle.

use super::*;

#[test]
fn changes_are_refused_while_another_is_in_progress() {
    let arn = "arn:aws:sagemaker:eu-central-1:000000000000:endpoint/e";
    let changes = [
        (
            "UpdateEndpoint",
            json!({"EndpointName": "e", "EndpointConfigName": "c"}),
        ),
        (
            "UpdateEndpointWeightsAndCapacities",
            json!({"EndpointName": "e", "DesiredWeightsAndCapacities": [{"VariantName": "a", "DesiredWeight": 2}]}),
        ),
        ("DeleteEndpoint", json!({"EndpointName": "e"})),
    ];
    for (begun, body) in &changes {
        let mut plane = Plane::serving();
        plane.must(begun, body.clone());
        for (action, body) in &changes {
            let message = plane.refused(action, body.clone());
            assert_eq!(
                message,
                format!("Cannot update in-progress endpoint \"{arn}\"."),
                "{begun}, {action}"
            );
        }
    }
}

#[test]
fn an_endpoint_that_failed_can_only_be_deleted() {
    let mut plane = Plane::serving();
    plane.must(
        "CreateEndpoint",
        json!({"EndpointName": "f", "EndpointConfigName": "c"}),
    );
    plane.settle("f", Err("the container did not answer /ping"));
    let status = plane.status("f");
    assert_eq!(status["EndpointStatus"], "Failed");
    assert_eq!(status["FailureReason"], "the container did not answer /ping");
    plane.refused(
        "UpdateEndpoint",
        json!({"EndpointName": "f", "EndpointConfigName": "c"}),
    );
    let answer = plane.must("DeleteEndpoint", json!({"EndpointName": "f"}));
    assert_eq!(answer.effect, Some(Effect::Remove("f".to_owned())));
    assert_eq!(plane.status("f")["EndpointStatus"], "Deleting");
    plane.settle("f", Ok(()));
    let message = plane.refused("DescribeEndpoint", json!({"EndpointName": "f"}));
    assert!(message.starts_with("Could not find endpoint"), "{message}");
}

#[test]
fn during_an_update_the_old_configuration_is_shown_with_the_pending_one() {
    let mut plane = Plane::serving();
    plane.must("CreateEndpointConfig", config("d"));
    let answer = plane.must(
        "UpdateEndpoint",
        json!({"EndpointName": "e", "EndpointConfigName": "d"}),
    );
    assert!(matches!(answer.effect, Some(Effect::Update(_))));
    let status = plane.status("e");
    assert_eq!(status["EndpointStatus"], "Updating");
    assert_eq!(status["EndpointConfigName"], "c");
    assert_eq!(status["PendingDeploymentSummary"]["EndpointConfigName"], "d");
    plane.settle("e", Ok(()));
    let status = plane.status("e");
    assert_eq!(status["EndpointConfigName"], "d");
    assert_eq!(status.get("PendingDeploymentSummary"), None);
}

#[test]
fn a_failed_update_keeps_the_old_configuration() {
    let mut plane = Plane::serving();
    let before = plane.records.endpoints["e"].desired.clone();
    plane.must("CreateEndpointConfig", config("d"));
    plane.must(
        "UpdateEndpoint",
        json!({"EndpointName": "e", "EndpointConfigName": "d"}),
    );
    plane.settle("e", Err("no memory"));
    let status = plane.status("e");
    assert_eq!(status["EndpointStatus"], "InService");
    assert_eq!(status["EndpointConfigName"], "c");
    assert_eq!(status["FailureReason"], "no memory");
    assert_eq!(plane.records.endpoints["e"].desired, before);
}

#[test]
fn an_endpoint_keeps_serving_after_its_model_and_configuration_are_deleted() {
    let mut plane = Plane::serving();
    plane.must("DeleteModel", json!({"ModelName": "m"}));
    plane.must("DeleteEndpointConfig", json!({"EndpointConfigName": "c"}));
    assert_eq!(plane.status("e")["EndpointConfigName"], "c");
    let answer = plane.must(
        "UpdateEndpointWeightsAndCapacities",
        json!({"EndpointName": "e", "DesiredWeightsAndCapacities": [
            {"VariantName": "b", "DesiredWeight": 3, "DesiredInstanceCount": 2},
        ]}),
    );
    let capacity = |variant: &str, weight, instances| DesiredCapacity {
        variant: variant.to_owned(),
        weight,
        instances,
    };
    assert_eq!(
        answer.effect,
        Some(Effect::SetWeights {
            endpoint: "e".to_owned(),
            capacities: vec![capacity("a", 1.0, 1), capacity("b", 3.0, 2)],
        })
    );
    let variants = plane.status("e")["ProductionVariants"].clone();
    assert_eq!(
        (&variants[1]["CurrentWeight"], &variants[1]["DesiredWeight"]),
        (&json!(1.0), &json!(3.0))
    );
}

#[test]
fn an_update_may_retain_the_current_weights_and_capacities() {
    let table = [
        (json!({}), (1.0, 1)),
        (json!({"RetainAllVariantProperties": true}), (5.0, 3)),
        (
            json!({
                "RetainAllVariantProperties": true,
                "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DesiredWeight"}],
            }),
            (1.0, 3),
        ),
    ];
    for (with, expected) in table {
        let mut plane = Plane::serving();
        plane.must(
            "UpdateEndpointWeightsAndCapacities",
            json!({"EndpointName": "e", "DesiredWeightsAndCapacities": [
                {"VariantName": "a", "DesiredWeight": 5, "DesiredInstanceCount": 3},
            ]}),
        );
        plane.settle("e", Ok(()));
        plane.must("CreateEndpointConfig", config("d"));
        let update = json!({"EndpointName": "e", "EndpointConfigName": "d"});
        let answer = plane.must("UpdateEndpoint", merged(update, with.clone()));
        let Some(Effect::Update(deployment)) = answer.effect else {
            panic!("{answer:?}");
        };
        let (variant, _) = deployment.variant("a").unwrap();
        assert_eq!((variant.weight, variant.instances), expected, "{with}");
    }
}

#[test]
fn a_declared_endpoint_behaves_like_a_created_one() {
    let mut plane = Plane::serving();
    let deployment = plane.records.endpoints["e"].desired.deployment.clone();
    let declared = Deployment {
        endpoint: "local".to_owned(),
        ..deployment.clone()
    };
    plane.records.declare(declared, &plane.arns, 1.0).unwrap();
    assert_eq!(plane.status("local")["EndpointStatus"], "Creating");
    let error = plane.records.declare(deployment, &plane.arns, 1.0).unwrap_err();
    assert!(error.to_string().starts_with("Cannot create already existing endpoint"));
}
