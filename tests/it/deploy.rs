//! `scripts/deploy` against `longshore endpoint`, and against moto for S3, IAM, ECR, scaling and
//! alarms.

mod site;

use serde_json::json;

use crate::endpoint::command::desk::Desk;
use crate::harness::fixture;
use site::Site;

#[test]
fn an_endpoint_is_deployed_with_its_models_invoked_and_deleted_completely() {
    let site = Site::new("many");
    site.pack("scale", "de/scale.tar.gz");
    site.pack("iris_zipmap", "iris.tar.gz");
    let upload = ["--upload", site.models(), "--skip-image", "Tag=1"];
    let smoke = [
        "--smoke",
        "de/scale.tar.gz",
        "[2]",
        "--smoke",
        "iris.tar.gz",
        "[[5.1, 3.5, 1.4, 0.2]]",
    ];
    let said = site.deploy(upload.iter().chain(&smoke)).output();
    for part in [
        "model de/scale.tar.gz: uploaded",
        "role many-ExecutionRole: created",
        "endpoint many: in service",
        "request de/scale.tar.gz: 200 in ",
        ": {\"predictions\":[2469.0]}",
        "request iris.tar.gz: 200 in ",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(site.desk.status("many").as_deref(), Some("InService"));

    let again = site.deploy(upload).output();
    assert_eq!(again, "endpoint many: in service already as it is asked for\n");

    let said = site.run(["many", "--delete"]).output();
    assert!(said.contains("endpoint many: deleted"), "{said}");
    assert!(said.contains("role many-ExecutionRole: deleted"), "{said}");
    site.assert_empty();
    assert_eq!(site.run(["many", "--delete"]).output(), "");
}

#[test]
fn an_endpoint_changes_its_kind_without_downtime_and_old_resources_are_deleted() {
    let site = Site::new("changing");
    site.pack("scale", "first.tar.gz");
    site.pack("scale", "second.tar.gz");
    let deploy = |arguments: &[&str]| {
        let common = ["--upload", site.models(), "--sagemaker-only", Site::ROLE];
        site.deploy(common.iter().chain(arguments)).output()
    };
    deploy(&["--smoke", "first.tar.gz", "[2]"]);
    let machine = deploy(&["InstanceType=ml.c7i.large"]);
    assert!(machine.contains("endpoint changing: updating"), "{machine}");
    let serial = deploy(&["Mode=Serial", "--content-type", "text/csv", "--smoke", "-", "2"]);
    assert!(serial.contains("{\"predictions\":[3047980.5]}"), "{serial}");
    assert!(serial.contains("model changing-MultiModel-"), "{serial}");
    let direct = deploy(&["Mode=Direct", "--smoke", "first", "[2]", "--smoke", "second", "[4]"]);
    assert!(direct.contains("request first: 200 in"), "{direct}");
    assert!(direct.contains("{\"predictions\":[4938.0]}"), "{direct}");

    let models = site.desk.control("ListModels", &json!({})).json();
    assert_eq!(models["Models"].as_array().unwrap().len(), 1, "{models}");
    let configs = site.desk.control("ListEndpointConfigs", &json!({})).json();
    assert_eq!(configs["EndpointConfigs"].as_array().unwrap().len(), 1, "{configs}");

    site.run(["changing", "--delete", "--sagemaker-only"]).output();
    site.assert_empty();
}

#[test]
fn a_single_model_can_be_served_and_an_asynchronous_endpoint_gives_it_an_hour_and_a_gigabyte() {
    let site = Site::new("single");
    site.pack("scale", "first.tar.gz");
    let deploy = |arguments: &[&str]| {
        let common = ["--upload", site.models(), "--sagemaker-only", Site::ROLE, "Mode=Single"];
        site.deploy(common.iter().chain(arguments)).output()
    };
    // Returns the environment of the current model and the current endpoint configuration.
    let described = || {
        let only = |list: &str, members: &str, name: &str| {
            let listed = site.desk.control(list, &json!({})).json();
            let listed = listed[members].as_array().unwrap();
            assert_eq!(listed.len(), 1, "{listed:?}");
            listed[0][name].clone()
        };
        let model = only("ListModels", "Models", "ModelName");
        let config = only("ListEndpointConfigs", "EndpointConfigs", "EndpointConfigName");
        let model = site.desk.control("DescribeModel", &json!({"ModelName": model})).json();
        let config = json!({"EndpointConfigName": config});
        let config = site.desk.control("DescribeEndpointConfig", &config).json();
        (model["PrimaryContainer"]["Environment"].clone(), config)
    };
    let said = deploy(&["--smoke", "-", "[2]"]);
    assert!(said.contains("{\"predictions\":[2469.0]}"), "{said}");
    let (environment, config) = described();
    assert_eq!(environment, json!({"LONGSHORE_LOG_FORMAT": "json"}));
    assert!(config.get("AsyncInferenceConfig").is_none(), "{config}");

    site.run(["single", "--delete", "--sagemaker-only"]).output();
    site.assert_empty();
    deploy(&["AsyncPrefix=async"]);
    let (environment, config) = described();
    assert_eq!(environment["LONGSHORE_REQUEST_TIMEOUT"], "3600s");
    assert_eq!(environment["LONGSHORE_MAX_BODY"], "1GiB");
    let path = format!("s3://{}/async/", site.bucket());
    assert_eq!(config["AsyncInferenceConfig"]["OutputConfig"]["S3OutputPath"], path);
    site.run(["single", "--delete", "--sagemaker-only"]).output();
    site.assert_empty();
}

#[test]
fn a_failed_update_keeps_the_old_endpoint_and_reports_the_reason() {
    let site = Site::new("steady");
    site.pack("scale", "first.tar.gz");
    site.pack("scale", "second.tar.gz");
    let common = ["--upload", site.models(), "--sagemaker-only", Site::ROLE, "Mode=Direct"];
    site.deploy(common).output();
    std::fs::copy(fixture("bad/garbage/model.onnx"), site.path("third.tar.gz")).unwrap();
    let refused = site.deploy(common.iter().chain(&["Second=third.tar.gz"])).refusal();
    for part in [
        "endpoint steady serves what it served before",
        "log group /aws/sagemaker/Endpoints/steady",
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    let request = Desk::invocation("steady").header("X-Amzn-SageMaker-Target-Container-Hostname", "second");
    assert_eq!(site.desk.answer(request, 2.0), 2469.0);
    let again = site.deploy(common).output();
    assert!(again.contains("in service already as it is asked for"), "{again}");
}

#[test]
fn a_failed_endpoint_is_recreated() {
    let site = Site::new("second-try");
    site.pack("scale", "first.tar.gz");
    std::fs::write(site.path("second.tar.gz"), "no archive").unwrap();
    let common = ["--upload", site.models(), "--sagemaker-only", Site::ROLE, "Mode=Direct"];
    let refused = site.deploy(common).refusal();
    assert!(refused.contains("endpoint second-try does not serve: "), "{refused}");
    let better = site.deploy(common.iter().chain(&["Second=first.tar.gz"])).output();
    assert!(better.contains("had failed ("), "{better}");
    assert!(better.contains("endpoint second-try: in service"), "{better}");
}

#[test]
fn an_image_is_pushed_if_it_is_missing_and_fits_the_instance_type() {
    let site = Site::new("pushed");
    let docker = site.program(
        "docker",
        "echo \"$@\" >>\"$0.log\"; case $1 in image) echo arm64 ;; login) cat >/dev/null ;; esac",
    );
    let docker = docker.to_str().unwrap();
    let push = ["Tag=a1", "Repository=pushed", "--docker", docker];
    let refused = site.deploy(push).refusal();
    assert!(
        refused.contains("is for arm64, and ml.m5.xlarge needs amd64"),
        "{refused}"
    );
    assert!(refused.contains("scripts/image --platform linux/amd64 "), "{refused}");
    let said = site.deploy(push.iter().chain(&["InstanceType=ml.m7g.large"])).output();
    let image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/pushed:a1";
    assert!(said.contains(&format!("image {image}: pushed")), "{said}");
    let log = std::fs::read_to_string(format!("{docker}.log")).unwrap();
    let (registry, _) = image.split_once('/').unwrap();
    for line in [
        format!("login --username AWS --password-stdin {registry}"),
        format!("push {image}"),
    ] {
        assert!(log.contains(&line), "{line}: {log}");
    }
    site.run(["pushed", "--delete"]).output();
}

#[test]
fn a_dry_run_prints_every_call_and_needs_neither_credentials_nor_a_network() {
    let site = Site::new("dry");
    site.pack("scale", "scale.tar.gz");
    let nowhere = [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9"),
        ("AWS_ENDPOINT_URL_SAGEMAKER", "http://127.0.0.1:9"),
        ("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", "http://127.0.0.1:9"),
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
    ];
    let dry = |arguments: &[&str]| site.run_with(arguments.iter().chain(&["--dry-run"]), nowhere).output();
    let said = dry(&[
        "dry",
        "Bucket=shop",
        "Tag=1",
        "--upload",
        site.models(),
        "--smoke",
        "scale.tar.gz",
        "[2]",
    ]);
    let mut rest = said.as_str();
    for call in [
        "aws s3api put-object --bucket shop --key models/scale.tar.gz",
        "aws ecr create-repository --repository-name longshore",
        "scripts/image --platform linux/amd64 000000000000.dkr.ecr.us-east-1.amazonaws.com/longshore:1",
        "docker push",
        "aws iam create-role --role-name dry-ExecutionRole",
        "aws iam put-role-policy",
        "arn:aws:s3:::shop/models/*",
        "aws sagemaker create-model --model-name dry-MultiModel-",
        "\"ModelDataUrl\": \"s3://shop/models/\"",
        "aws sagemaker create-endpoint-config --endpoint-config-name dry-Configuration-",
        "aws sagemaker create-endpoint --endpoint-name dry",
        "aws sagemaker wait endpoint-in-service --endpoint-name dry",
        "aws application-autoscaling register-scalable-target",
        "SageMakerVariantInvocationsPerInstance",
        "aws cloudwatch put-metric-alarm --alarm-name dry-LoadingWaitAlarm",
        "aws sagemaker-runtime invoke-endpoint --endpoint-name dry",
    ] {
        let found = rest.split_once(call);
        let (_, after) = found.unwrap_or_else(|| panic!("{call} is missing or out of order: {said}"));
        rest = after;
    }
    let graviton = dry(&["dry", "Bucket=shop", "Tag=1", "InstanceType=ml.c7gn.large"]);
    assert!(
        graviton.contains("scripts/image --platform linux/arm64 000000000000.dkr"),
        "{graviton}"
    );

    let removed = dry(&["dry", "--delete"]);
    assert!(
        removed.contains("aws sagemaker delete-endpoint --endpoint-name dry"),
        "{removed}"
    );
    assert!(
        removed.contains("aws iam delete-role --role-name dry-ExecutionRole"),
        "{removed}"
    );
}

#[test]
fn errors_are_one_line_that_says_what_to_do() {
    let site = Site::new("wrong");
    site.pack("scale", "scale.tar.gz");
    site.desk.create("wrong-one", fixture("scale").to_str().unwrap());
    site.desk.wait_until_served("wrong-one");
    let bucket = format!("Bucket={}", site.bucket());
    let table: &[(&[&str], &str)] = &[
        (
            &["a", "Bucket=none", "Tag=1"],
            "there is no bucket none; make it with `aws s3 mb",
        ),
        (&["a", &bucket, "Tag=1", "Buket=b"], "Buket is no parameter"),
        (&["a", &bucket, "Tag"], "a parameter is given as NAME=VALUE"),
        (&["a", "Tag=1"], "give Bucket=..."),
        (
            &["a", &bucket, "Tag=1", "Mode=Both"],
            "it is one of MultiModel, Single, Serial, Direct",
        ),
        (&["a", &bucket, "Tag=1", "AsyncPrefix=async"], "give Mode=Single"),
        (
            &[
                "a",
                &bucket,
                "Tag=1",
                "Mode=Single",
                "AsyncPrefix=async",
                "--smoke",
                "-",
                "[2]",
            ],
            "leave it out",
        ),
        (&["a", &bucket, "Tag=1", "MinInstances=two"], "that is no number"),
        (&["a", &bucket, "Tag=1", "MinInstances=0"], "it is at least 1"),
        (
            &["a", &bucket, "Tag=1", "MinInstances=9"],
            "give MaxInstances=... as well",
        ),
        (
            &["a", &bucket, "Tag=1", "Mode=Serial"],
            "--upload puts it there from a folder",
        ),
        (
            &["a", &bucket, "Tag=1", "--docker", "/nowhere/docker"],
            "install Docker",
        ),
        (&["a", &bucket, "Tag=1", "--docker", "false"], "see whether Docker runs"),
        (&["a", &bucket, "--sagemaker-only"], "give Role=arn:"),
        (
            &["wrong-one", &bucket, "--sagemaker-only", Site::ROLE],
            "there is an endpoint wrong-one that was made by something else",
        ),
        (
            &["wrong-one", "--delete", "--sagemaker-only"],
            "was made by something else",
        ),
    ];
    for (arguments, reason) in table {
        let said = site.run(*arguments).refusal();
        assert!(said.starts_with("scripts/deploy: "), "{said}");
        assert!(said.contains(reason), "{arguments:?}: {said}");
    }
    let no_credentials = [
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("HOME", "/nonexistent"),
    ];
    let said = site.run_with(["a", &bucket, "Tag=1"], no_credentials).refusal();
    assert!(said.contains("there are no AWS credentials; sign in"), "{said}");
    let said = site.run_with(["a", &bucket, "Tag=1"], [("AWS_REGION", "")]).refusal();
    assert!(said.contains("set AWS_REGION"), "{said}");

    let elsewhere = [("AWS_REGION", "eu-central-1")];
    let said = site.run_with(["a", &bucket, "Tag=1"], elsewhere).refusal();
    assert!(said.contains("set AWS_REGION=us-east-1"), "{said}");

    let upload = [&bucket, "--upload", site.models(), "--sagemaker-only", Site::ROLE];
    site.run(["another"].iter().chain(&upload)).output();
    std::fs::write(site.path("scale.tar.gz"), "another version").unwrap();
    let said = site.run(["another"].iter().chain(&upload)).refusal();
    assert!(said.contains("give the new version another name"), "{said}");
}
