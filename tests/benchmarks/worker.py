"""A process that measures one client: `python -m tests.benchmarks.worker CLIENT`.

Says that it is ready, then answers each task, a line of JSON, with a line of numbers.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import TextIO

from tests.benchmarks import measures
from tests.benchmarks.clients import CLIENTS, TOKEN, Client


def main(name: str, tasks: TextIO, results: TextIO) -> None:
    """Answer each task with the numbers that its measure gives."""
    made: dict[str, Client] = {}
    if name in ("mlflow", "ours", "ours-workspace"):
        import mlflow.deployments  # noqa: F401 (takes seconds, while the other processes start too)
    print("{}", file=results, flush=True)
    for line in tasks:
        task = json.loads(line)
        base_url = task["base_url"]
        os.environ.update(DATABRICKS_HOST=base_url, DATABRICKS_TOKEN=TOKEN)
        make = functools.partial(CLIENTS[name], base_url)
        if base_url not in made:
            made[base_url] = make()
        world = measures.World(made[base_url], make, task["control"])
        print(json.dumps(getattr(measures, task["measure"])(world, **task["arguments"])), file=results, flush=True)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr  # what libraries print is no answer
    main(sys.argv[1], sys.stdin, answers)
    os._exit(0)  # threads that hang in a client must not hold this process
