"""One Ray cluster for all tests of this folder, in processes of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a cluster with two CPUs and a GPU, which is declared and not there."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("PYTHONDONTWRITEBYTECODE"):  # a dozen interpreters would each compile all
            patch.delenv("PYTHONDONTWRITEBYTECODE")
            patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        nodes = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 2,
                "num_gpus": 1,
                "object_store_memory": 80 * 2**20,
                "include_dashboard": False,
                "dashboard_port": None,
            },
        )
        yield nodes.address
        nodes.shutdown()
