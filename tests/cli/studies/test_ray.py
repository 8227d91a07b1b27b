"""A study on a simulated cluster of Ray, one of whose nodes is lost in the middle."""

import time
from pathlib import Path
from typing import Any

import pytest

from pcvpt.cli.studies.engine import sweep
from pcvpt.cli.studies.lines import lines_of
from pcvpt.cli.studies.table import table
from pcvpt.cli.studies.workers import Failure, Job, OnRay

from .conftest import Made, finish

pytestmark = pytest.mark.slow


def accuracy(options: dict[str, Any]) -> tuple[float, float]:
    seed, rate = options["seed_everything"], options["model.prompt.base_lr"]
    return 70 + rate, 60 + rate + seed


def test_a_lost_node_does_not_change_the_table(study: Any, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    def run(job: Job) -> Failure | None:
        import ray

        job.folder.mkdir(parents=True, exist_ok=True)
        node = ray.get_runtime_context().get_node_id()
        (job.folder / f"begun-{time.time_ns()}").write_text(node)
        time.sleep(1 + dict(job.run.options)["seed_everything"] % 2)
        finish(job, *accuracy(dict(job.run.options)))
        return None

    made = study(
        configs=["demo.yaml"],
        methods=["linear.yaml"],
        search={"vary": {"model.prompt.base_lr": [0.1, 0.2, 0.3, 0.4]}},
        seeds=[0, 1, 2, 3, 4, 5],
    )
    pool = tmp_path / "pool"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        lost = cluster.add_node(num_cpus=2)
        workers = OnRay(cluster.address, 1, 0, run)
        nodes = [lost]

        def tell(line: str) -> None:
            running = [f for f in pool.glob("*/begun-*") if not (f.parent / "version_0").exists()]
            if nodes and any(file.read_text() == lost.node_id for file in running):
                cluster.remove_node(nodes.pop(), allow_graceful=False)

        assert sweep(made, pool, workers, 2, tell) == {}
        assert not nodes, "no run was on the node that was to be lost"
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()
    sweep(made, tmp_path / "other", Made(accuracy), 1, lambda line: None)
    assert table(made.configs, lines_of(made, pool)) == table(
        made.configs, lines_of(made, tmp_path / "other")
    )
    assert "missing" not in str(table(made.configs, lines_of(made, pool)))
    begun = [len(list(folder.glob("begun-*"))) for folder in pool.iterdir()]
    assert len(begun) == 9  # four candidates, one of them of the best rate and seed 0
    assert max(begun) >= 2  # what the lost node had begun was begun again
