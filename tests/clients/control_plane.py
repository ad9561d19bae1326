"""boto3's `sagemaker`: the life of models, endpoint configurations, endpoints and tags."""

import unittest

from botocore.exceptions import WaiterError
from local_endpoint import (
    IMAGE,
    ROLE,
    Bucket,
    ask,
    configure,
    container,
    deploy,
    multi_model,
    refusal,
    sagemaker,
    scale,
    variant,
    wait,
)


class ControlPlane(unittest.TestCase):
    bucket: Bucket

    @classmethod
    def setUpClass(cls):
        cls.bucket = Bucket()
        cls.double = cls.bucket.put_model("double.tar.gz", scale(2))

    def test_describes_created_resources(self):
        environment = {"LONGSHORE_LOG_LEVEL": "debug"}
        primary = multi_model(
            f"s3://{self.bucket.name}/",
            Environment=environment,
            MultiModelConfig={"ModelCacheSetting": "Disabled"},
        )
        tags = [{"Key": "team", "Value": "shop"}]
        made = sagemaker.create_model(ModelName="described", PrimaryContainer=primary, ExecutionRoleArn=ROLE, Tags=tags)
        arn = made["ModelArn"]
        model = sagemaker.describe_model(ModelName="described")
        self.assertEqual(arn, f"arn:aws:sagemaker:{sagemaker.meta.region_name}:000000000000:model/described")
        self.assertEqual(model["ModelArn"], arn)
        self.assertEqual(model["ExecutionRoleArn"], ROLE)
        self.assertEqual(model["PrimaryContainer"], primary)
        self.assertEqual(sagemaker.list_tags(ResourceArn=arn)["Tags"], tags)

        containers = [container(self.double, ContainerHostname=name) for name in ("first", "second")]
        mode = {"Mode": "Direct"}
        sagemaker.create_model(
            ModelName="several", Containers=containers, InferenceExecutionConfig=mode, ExecutionRoleArn=ROLE
        )
        several = sagemaker.describe_model(ModelName="several")
        self.assertEqual(several["Containers"], [one | {"Mode": "SingleModel"} for one in containers])
        self.assertEqual(several["InferenceExecutionConfig"], mode)

        variants = [variant("described", "a", InitialVariantWeight=0.25), variant("several", "b")]
        output = {"OutputConfig": {"S3OutputPath": f"s3://{self.bucket.name}/out"}}
        configure("described", variants, AsyncInferenceConfig=output)
        config = sagemaker.describe_endpoint_config(EndpointConfigName="described")
        self.assertEqual(config["ProductionVariants"], [variants[0], variants[1] | {"InitialVariantWeight": 1.0}])
        self.assertEqual(config["AsyncInferenceConfig"], output)

        # The model and configuration of an endpoint may be deleted before it.
        sagemaker.delete_endpoint_config(EndpointConfigName="described")
        for name in ("described", "several"):
            sagemaker.delete_model(ModelName=name)
        missing = refusal(sagemaker.describe_model, ModelName="described")
        self.assertEqual((missing["code"], missing["status"]), ("ValidationException", 400))
        self.assertEqual(missing["message"], f'Could not find model "{arn}".')

    def test_an_endpoint_is_created_updated_and_deleted(self):
        deploy("life", PrimaryContainer=container(self.double))
        endpoint = sagemaker.describe_endpoint(EndpointName="life")
        self.assertEqual(endpoint["EndpointStatus"], "InService")
        self.assertEqual(endpoint["EndpointConfigName"], "life")
        self.assertEqual(ask("life", [21]), [42.0])

        weights = [{"VariantName": "AllTraffic", "DesiredWeight": 0.5, "DesiredInstanceCount": 2}]
        sagemaker.update_endpoint_weights_and_capacities(EndpointName="life", DesiredWeightsAndCapacities=weights)
        wait("life")
        (shown,) = sagemaker.describe_endpoint(EndpointName="life")["ProductionVariants"]
        self.assertEqual((shown["CurrentWeight"], shown["CurrentInstanceCount"]), (0.5, 2))
        self.assertEqual(ask("life", [21]), [42.0])

        sagemaker.delete_endpoint(EndpointName="life")
        wait("life", "deleted")
        gone = refusal(sagemaker.describe_endpoint, EndpointName="life")
        self.assertEqual(gone["message"], f'Could not find endpoint "{endpoint["EndpointArn"]}".')
        gone = refusal(ask, "life", [21])
        self.assertEqual((gone["type"], gone["status"]), ("ValidationError", 400))
        self.assertEqual(gone["message"], "Endpoint life of account 000000000000 not found.")

    def test_a_waiter_finds_a_new_endpoint_in_service_at_once(self):
        # AWS's waiters poll at once, and then every 30 seconds.
        sagemaker.create_model(ModelName="soon", PrimaryContainer=container(self.double))
        configure("soon", [variant("soon")])
        sagemaker.create_endpoint(EndpointName="soon", EndpointConfigName="soon")
        self.assertEqual(sagemaker.describe_endpoint(EndpointName="soon")["EndpointStatus"], "InService")

    def test_an_endpoint_with_a_broken_model_fails_with_the_reason(self):
        broken = self.bucket.put_model("broken.tar.gz", b"no model")
        with self.assertRaisesRegex(WaiterError, "Failed"):
            deploy("broken", PrimaryContainer=container(broken))
        endpoint = sagemaker.describe_endpoint(EndpointName="broken")
        self.assertEqual(endpoint["EndpointStatus"], "Failed")
        self.assertIn("did not pass the ping health check", endpoint["FailureReason"])
        sagemaker.delete_endpoint(EndpointName="broken")
        wait("broken", "deleted")

    def test_an_endpoint_whose_model_is_not_an_archive_fails_with_the_reason(self):
        text = self.bucket.put("text.tar.gz", b"hello")
        with self.assertRaisesRegex(WaiterError, "Failed"):
            deploy("text", PrimaryContainer=container(text))
        reason = sagemaker.describe_endpoint(EndpointName="text")["FailureReason"]
        self.assertIn(f'Failed to extract model data archive for container "model" from URL "{text}"', reason)
        sagemaker.delete_endpoint(EndpointName="text")
        wait("text", "deleted")

    def test_lists_are_filtered_sorted_and_paged(self):
        names = [f"page-{number:02}" for number in range(23)]
        for name in names:
            sagemaker.create_model(ModelName=name, PrimaryContainer=container(self.double), ExecutionRoleArn=ROLE)
        pages = sagemaker.get_paginator("list_models").paginate(
            NameContains="PAGE", SortBy="Name", SortOrder="Descending"
        )
        listed = [[model["ModelName"] for model in page["Models"]] for page in pages]
        self.assertEqual([len(page) for page in listed], [10, 10, 3])
        self.assertEqual(sum(listed, []), names[::-1])

        for name in names[:3]:
            configure(name, [variant(name)])
        page = sagemaker.list_endpoint_configs(NameContains="page-", SortBy="CreationTime", MaxResults=2)
        self.assertEqual([config["EndpointConfigName"] for config in page["EndpointConfigs"]], ["page-02", "page-01"])
        page = sagemaker.list_endpoint_configs(NameContains="page-", SortBy="CreationTime", NextToken=page["NextToken"])
        self.assertEqual([config["EndpointConfigName"] for config in page["EndpointConfigs"]], ["page-00"])
        self.assertNotIn("NextToken", page)
        self.assertEqual(sagemaker.list_endpoints(StatusEquals="OutOfService")["Endpoints"], [])

    def test_tags_are_kept(self):
        made = sagemaker.create_model(ModelName="tagged", PrimaryContainer=container(self.double))
        arn = made["ModelArn"]
        tags = [{"Key": "cost", "Value": "1"}, {"Key": "team", "Value": "shop"}]
        self.assertEqual(sagemaker.add_tags(ResourceArn=arn, Tags=tags)["Tags"], tags)
        sagemaker.delete_tags(ResourceArn=arn, TagKeys=["cost"])
        self.assertEqual(sagemaker.list_tags(ResourceArn=arn)["Tags"], tags[1:])

    def test_refuses_invalid_requests_in_sagemakers_words(self):
        def refused(**model):
            failure = refusal(sagemaker.create_model, **{"ModelName": "bad", "ExecutionRoleArn": ROLE} | model)
            self.assertEqual((failure["type"], failure["code"], failure["status"]), ("ClientError", "ValidationException", 400))
            return failure["message"]

        one = container(self.double)
        self.assertIn("either PrimaryContainer or Containers", refused())
        self.assertEqual(
            refused(ModelName="a_b", PrimaryContainer=one),
            "1 validation error detected: Value 'a_b' at 'modelName' failed to satisfy constraint: Member must satisfy "
            r"regular expression pattern: ^[a-zA-Z0-9]([\-a-zA-Z0-9]*[a-zA-Z0-9])?",
        )
        many = multi_model(f"s3://{self.bucket.name}/")
        self.assertIn("More than one container in MultiModel mode", refused(Containers=[many, many]))
        self.assertIn("ModelDataUrl is required", refused(PrimaryContainer={"Image": IMAGE, "Mode": "MultiModel"}))
        self.assertIn(
            "ContainerHostname is required",
            refused(Containers=[one, one], InferenceExecutionConfig={"Mode": "Direct"}),
        )

        sagemaker.create_model(ModelName="once", PrimaryContainer=one, ExecutionRoleArn=ROLE)
        self.assertIn("Cannot create already existing model", refused(ModelName="once", PrimaryContainer=one))
        for call, arguments in (
            (sagemaker.create_endpoint_config, {"ProductionVariants": [variant("nowhere")]}),
            (sagemaker.create_endpoint, {"EndpointName": "nowhere"}),
        ):
            failure = refusal(call, EndpointConfigName="nowhere", **arguments)
            self.assertEqual(failure["code"], "ValidationException")
            self.assertIn("Could not find", failure["message"])


if __name__ == "__main__":
    unittest.main()
