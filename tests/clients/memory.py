"""boto3: more models than fit into memory, invoked by several threads; every answer is right.

    memory.py URL MODELS ITEMS

Model number n, `s{n:02}.tar.gz` below URL, answers `n * ITEMS + item` to each item below ITEMS.
tests/it/endpoint/clients/memory.rs checks the endpoint's log afterwards.
"""

import random
import sys
from concurrent.futures import ThreadPoolExecutor

from local_endpoint import ask, deploy, multi_model

THREADS = 8
ROUNDS = 3
MEMORY = "64MiB"


def main(url: str, models: int, items: int) -> None:
    environment = {"LONGSHORE_MEMORY_LIMIT": MEMORY, "LONGSHORE_THREADS": "2"}
    deploy("crowded", PrimaryContainer=multi_model(url, Environment=environment))

    def work(seed: int) -> None:
        numbers = random.Random(seed)
        for _ in range(ROUNDS):
            for number in numbers.sample(range(models), models):
                item = numbers.randrange(items)
                answer = ask("crowded", [item], TargetModel=f"s{number:02}.tar.gz")
                assert answer == [[number * items + item]], (number, item, answer)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    print(f"{THREADS * ROUNDS * models} requests of {models} models in {MEMORY}, all answers right")


if __name__ == "__main__":
    url, *numbers = sys.argv[1:]
    main(url, *map(int, numbers))
