use super::*;

const AT: ErrorContext<'_> = ErrorContext {
    account: "000000000000",
    region: "eu-central-1",
    endpoint: "shop",
};

fn model(status: u16, message: &str) -> RuntimeError {
    RuntimeError::Model {
        container: "container-2".to_owned(),
        status,
        message: message.to_owned(),
    }
}

#[test]
fn each_cause_has_the_status_and_type_that_the_clients_expect() {
    let container = || "model".to_owned();
    let table = [
        (
            RuntimeError::UnknownEndpoint { spelled: None },
            400,
            "ValidationError",
            "Endpoint shop of account 000000000000 not found.",
        ),
        (
            RuntimeError::UnknownEndpoint {
                spelled: Some("Shop".to_owned()),
            },
            400,
            "ValidationError",
            "Endpoint shop of account 000000000000 not found. Invocations must match the case of an endpoint's name, and \
             there is an endpoint Shop.",
        ),
        (
            RuntimeError::UnknownVariant("b".to_owned()),
            400,
            "ValidationError",
            "Variant b not found",
        ),
        (
            RuntimeError::NoCapacity,
            503,
            "ServiceUnavailable",
            "no variant takes requests",
        ),
        (
            RuntimeError::MissingTargetModel,
            400,
            "ValidationError",
            "is missing a target model header",
        ),
        (
            RuntimeError::TargetModelNotSupported,
            400,
            "ValidationError",
            "Endpoint shop is not a multi-model endpoint and does not support target model header.",
        ),
        (
            RuntimeError::TargetModelName(NameError::Empty),
            400,
            "ValidationError",
            "is empty",
        ),
        (
            RuntimeError::Download {
                url: "s3://b/k".to_owned(),
                reason: "404".to_owned(),
            },
            400,
            "ValidationError",
            "Failed to download model data (s3://b/k)",
        ),
        (
            RuntimeError::MissingHostname,
            400,
            "ValidationError",
            "missing a target container",
        ),
        (
            RuntimeError::UnknownHostname("x".to_owned()),
            400,
            "ValidationError",
            "Container x not found",
        ),
        (
            RuntimeError::HostnameNotSupported,
            400,
            "ValidationError",
            "does not support target container",
        ),
        (
            RuntimeError::InferenceComponent,
            400,
            "ValidationError",
            "inference component",
        ),
        (
            RuntimeError::Constraint {
                member: "customAttributes",
                constraint: "Member must have length less than or equal to 1024".to_owned(),
            },
            400,
            "ValidationError",
            "Value at 'customAttributes' failed to satisfy constraint: Member must have length",
        ),
        (
            RuntimeError::NotAsynchronous,
            400,
            "ValidationError",
            "AsyncInferenceConfig",
        ),
        (
            RuntimeError::OnlyAsynchronous,
            400,
            "ValidationError",
            "takes InvokeEndpointAsync only",
        ),
        (RuntimeError::MissingInput, 400, "ValidationError", "InputLocation"),
        (RuntimeError::TwoInputs, 400, "ValidationError", "mutually exclusive"),
        (
            RuntimeError::AsyncBodyTooLarge { limit: 9 },
            400,
            "ValidationError",
            "Value at 'body' failed to satisfy constraint: Member must have length less than or equal to 9",
        ),
        (
            RuntimeError::BadReply {
                container: container(),
                status: 200,
                reason: "too long".to_owned(),
            },
            424,
            "ModelError",
            "Received server error (200) from model with message \"too long\"",
        ),
        (
            RuntimeError::BodyTooLarge { limit: 9 },
            413,
            "",
            "HTTP content length exceeded 9 bytes.",
        ),
        (
            RuntimeError::BodyBroken("x".to_owned()),
            400,
            "ValidationError",
            "the request body is incomplete: x",
        ),
        (
            RuntimeError::ModelNotReady {
                model: "a.tar.gz".to_owned(),
            },
            429,
            "ModelNotReadyException",
            "Model a.tar.gz for endpoint shop is not ready",
        ),
        (
            RuntimeError::Unavailable("busy".to_owned()),
            503,
            "ServiceUnavailable",
            "busy",
        ),
        (
            model(415, "no"),
            424,
            "ModelError",
            "Received client error (415) from container-2 with message \"no\"",
        ),
        (
            model(503, "no"),
            424,
            "ModelError",
            "Received server error (503) from container-2 with message \"no\"",
        ),
        (
            RuntimeError::TimedOut { container: container() },
            424,
            "ModelError",
            "Received server error (0) from model with message \"Your invocation timed out while waiting for a response from \
             container model.",
        ),
        (
            RuntimeError::NoAnswer {
                container: container(),
                reason: "reset".to_owned(),
            },
            424,
            "ModelError",
            "Received server error (0) from model with message \"Amazon SageMaker could not get a response from the shop",
        ),
        (
            RuntimeError::ReplyTooLarge {
                container: container(),
                status: 200,
                limit: 5,
                next: Some("b".to_owned()),
            },
            424,
            "ModelError",
            "The response of container model exceeds the 5 bytes that can be passed to container b.",
        ),
        (RuntimeError::Validation("v".to_owned()), 400, "ValidationError", "v"),
        (
            RuntimeError::Dependency("d".to_owned()),
            530,
            "InternalDependencyException",
            "d",
        ),
        (RuntimeError::Internal("i".to_owned()), 500, "InternalFailure", "i"),
    ];
    for (error, status, kind, text) in table {
        let answer = error.answer(AT);
        assert_eq!(
            (answer.status, answer.kind.unwrap_or_default()),
            (status, kind),
            "{error:?}"
        );
        let message = answer.body["Message"].as_str().unwrap();
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn a_model_error_contains_the_containers_status_and_message() {
    let body = model(400, "{\"code\":400}").answer(AT).body;
    assert_eq!(body["OriginalStatusCode"], 400);
    assert_eq!(body["OriginalMessage"], "{\"code\":400}");
    assert_eq!(body["ErrorCode"], "CLIENT_ERROR_FROM_MODEL");
    let arn = "arn:aws:logs:eu-central-1:000000000000:log-group:/aws/sagemaker/Endpoints/shop";
    assert_eq!(body["LogStreamArn"], arn);
    assert_eq!(
        model(500, "").answer(AT).body["ErrorCode"],
        "INTERNAL_FAILURE_FROM_MODEL"
    );
}

#[test]
fn a_long_message_is_cut_at_a_character_boundary() {
    let body = model(500, &"\u{e9}".repeat(MAX_ORIGINAL_MESSAGE)).answer(AT).body;
    assert_eq!(body["OriginalMessage"], "\u{e9}".repeat(MAX_ORIGINAL_MESSAGE / 2));
}
