"""boto3: an endpoint is updated under load; no request fails, and no old answer follows a new one.
"""

import threading
import unittest
from concurrent.futures import ThreadPoolExecutor

from local_endpoint import Bucket, ask, configure, container, deploy, multi_model, sagemaker, scale, variant, wait

THREADS = 4


class Update(unittest.TestCase):
    def update_under_load(self, endpoint, versions, **target):
        """Invokes until each of `versions` has answered with its number, one after the other."""
        done = threading.Event()
        begun = threading.Barrier(THREADS + 1)

        def keep_asking():
            answers = ask(endpoint, [1], **target)
            begun.wait()
            while not done.is_set():
                answers += ask(endpoint, [1], **target)
            return answers

        with ThreadPoolExecutor(THREADS) as pool:
            asking = [pool.submit(keep_asking) for _ in range(THREADS)]
            begun.wait()
            try:
                for factor, version in versions.items():
                    sagemaker.create_model(ModelName=f"{endpoint}-{factor}", PrimaryContainer=version)
                    configure(f"{endpoint}-{factor}", [variant(f"{endpoint}-{factor}", InitialInstanceCount=2)])
                    updated = {"EndpointName": endpoint, "EndpointConfigName": f"{endpoint}-{factor}"}
                    sagemaker.update_endpoint(**updated)
                    wait(endpoint)
                    status = sagemaker.describe_endpoint(EndpointName=endpoint)
                    self.assertEqual(status["EndpointConfigName"], f"{endpoint}-{factor}")
                    self.assertEqual(ask(endpoint, [1], **target), [factor])
            finally:
                done.set()
        for thread in asking:
            answers = thread.result()
            self.assertEqual(answers[0], 1.0)
            self.assertEqual(answers, sorted(answers), "an old response after a new one")
        print(f"{endpoint}: {sum(len(thread.result()) for thread in asking)} requests, none failed")

    def test_no_request_fails_while_one_model_replaces_another(self):
        bucket = Bucket()
        urls = {factor: bucket.put_model(f"{factor}.tar.gz", scale(factor)) for factor in (1, 2, 3)}
        deploy("single", PrimaryContainer=container(urls[1]))
        self.update_under_load("single", {factor: container(urls[factor]) for factor in (2, 3)})

    def test_no_request_fails_while_a_multi_model_endpoint_changes_its_prefix(self):
        bucket = Bucket()
        for factor in (1, 2):
            bucket.put_model(f"v{factor}/same.tar.gz", scale(factor))
        deploy("many", PrimaryContainer=multi_model(f"s3://{bucket.name}/v1/"))
        version = {2: multi_model(f"s3://{bucket.name}/v2/")}
        self.update_under_load("many", version, TargetModel="same.tar.gz")


if __name__ == "__main__":
    unittest.main()
