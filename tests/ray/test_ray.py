"""On real clusters of this machine: nodes are processes, and some of them are killed."""

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from live import serving
from ray import tune
from ray.cluster_utils import Cluster
from ray.tune.search import Searcher

from suffice.adapters.ray import SufficeSearch, space_of
from suffice.adapters.ray_cluster import StudyActors
from suffice.api.client import Client
from suffice.optimizer import Budget, Categorical, Constant, Float, Int, InvalidInput, TrialState

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280), pytest.mark.filterwarnings("default")]  # Ray's own warnings

PATIENCE = 200.0  # seconds: workers import torch, wherever they are started


@pytest.fixture
def cluster() -> Generator[Cluster]:
    """Two nodes: the head, which runs nothing, and one that does; more can be added."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, namespace=StudyActors.NAMESPACE, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def busy(cluster: Cluster) -> Any:
    """The node that computes."""
    (node,) = cluster.worker_nodes
    return node


# --- the searcher -----------------------------------------------------------------------------------------------------

DOMAINS = {
    "rate": tune.loguniform(1e-4, 1.0),
    "momentum": tune.quniform(0.0, 0.9, 0.1),
    "layers": tune.randint(1, 5),
    "width": tune.qlograndint(16, 256, 16),
    "optimizer": tune.choice(["sgd", "adam"]),
    "epochs": 3,
}


def test_domains_become_parameters():
    found = dict(space_of(DOMAINS).parameters)
    assert found == {
        "rate": Float(1e-4, 1.0, log=True),
        "momentum": Float(0.0, 0.9, step=0.1),
        "layers": Int(1, 4),
        "width": Int(16, 256, log=True, step=16),
        "optimizer": Categorical(["sgd", "adam"]),
        "epochs": Constant(3),
    }


@pytest.mark.parametrize("domain", [tune.randn(0, 1), tune.sample_from(lambda _: 1), tune.grid_search([1, 2])])
def test_what_is_no_range_and_no_choice_is_refused(domain: Any):
    with pytest.raises(InvalidInput, match="x: expected"):
        space_of({"x": domain})


def test_a_searcher_learns_stops_and_is_restored(tmp_path: Path):
    searcher = SufficeSearch(budget=Budget(trials=5), seed=0, noise="none")
    with pytest.raises(InvalidInput, match="a metric and a mode"):
        searcher.suggest("a")
    assert searcher.set_search_properties("loss", "min", {"x": tune.uniform(0, 1)})
    searcher.on_trial_complete("a", {"loss": searcher.suggest("a")["x"]})
    searcher.suggest("b")
    searcher.on_trial_complete("b", error=True)
    searcher.suggest("c")
    searcher.on_trial_complete("c", {"loss": math.nan})
    pending = searcher.suggest("d")
    searcher.save(str(tmp_path / "state"))
    again = SufficeSearch()
    again.restore(str(tmp_path / "state"))
    assert again.study is not None
    assert [t.state for t in again.study.trials] == [
        *(TrialState.COMPLETED, TrialState.FAILED, TrialState.FAILED, TrialState.RUNNING)
    ]
    again.on_trial_complete("d", {"loss": pending["x"]})
    searcher.on_trial_complete("d", {"loss": pending["x"]})
    assert searcher.suggest("e") == again.suggest("e")
    while (step := again.suggest("f")) != Searcher.FINISHED:
        again.on_trial_complete("f", {"loss": step["x"]})


def test_ray_tune_finds_the_bottom_of_a_bowl(cluster: Cluster, tmp_path: Path):
    searcher = SufficeSearch(seed=0, noise="none")
    tuner = tune.Tuner(
        lambda config: {"loss": (config["x"] - 0.3) ** 2 + (config["y"] + 0.2) ** 2},
        param_space={"x": tune.uniform(-1, 1), "y": tune.uniform(-1, 1)},
        tune_config=tune.TuneConfig(
            search_alg=searcher, metric="loss", mode="min", num_samples=14, max_concurrent_trials=2
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    best = tuner.fit().get_best_result()
    assert best.metrics is not None
    assert best.metrics["loss"] < 0.01
    assert searcher.study is not None
    assert len(searcher.study.trials) == 14


SPACE = {"x1": {"type": "float", "low": -5, "high": 10}, "x2": {"type": "float", "low": 0, "high": 15}}

# --- on a cluster -----------------------------------------------------------------------------------------------------


def bowl(folder: str) -> Callable[[Any], float]:
    def evaluate(trial: Any) -> float:
        Path(folder, f"{trial.number}-{os.getpid()}").touch()
        trial.report(1.0, step=0)
        time.sleep(0.5)  # long enough to be at work when the node dies
        return float(sum((x - 1) ** 2 for x in trial.params.values()))

    return evaluate


def test_a_run_goes_on_when_a_node_dies(cluster: Cluster, tmp_path: Path):
    (tmp_path / "begun").mkdir()
    with serving(tmp_path, workers=1) as service, Client(service.url) as client, ThreadPoolExecutor(1) as pool:
        study = client.create_study("cluster", SPACE, budget=8)
        some = threading.Event()

        def progress(now: Any) -> None:
            if now.done == 2:  # two more are being evaluated
                some.set()

        evaluate = bowl(str(tmp_path / "begun"))
        running = pool.submit(study.optimize, evaluate, workers=2, executor="ray", progress=progress)
        assert some.wait(PATIENCE)
        dying = busy(cluster)
        cluster.add_node(num_cpus=2)
        cluster.remove_node(dying, allow_graceful=False)
        summary = running.result()
        assert [t.state for t in summary.trials] == ["COMPLETED"] * 8
        assert all(len(t.data.measurements) == 2 for t in study.trials())
    assert len(list((tmp_path / "begun").iterdir())) >= 8


def test_the_engine_goes_on_when_a_node_dies(cluster: Cluster, new_postgres: Callable[[], str], tmp_path: Path):
    database = new_postgres()
    with serving(tmp_path, database=database, engine="ray", ray_address=cluster.address, workers=4) as service:
        study = service.study("actors")
        *trials, last = ask(service, study, count=3)
        for trial in trials:
            service.tell(study, trial, 1.0)
        cluster.add_node(num_cpus=2)
        old = busy_of(service)
        node = next(n for n in cluster.worker_nodes if n.node_id == old)
        cluster.remove_node(node, allow_graceful=False)
        while busy_of(service) == old:  # its processes are about to end
            time.sleep(0.1)
        service.tell(study, last, 2.0)
        (trial,) = ask(service, study, fresh=True)
        assert trial["source"]["observations"] == 3


def ask(service: Any, study: str, **fields: Any) -> Any:
    body = {"max_wait_s": PATIENCE, **fields}
    return service.call("POST", f"{study}/ask", body, status=201, timeout=PATIENCE)["trials"]


def busy_of(service: Any) -> str:
    """The node of the only study's actor."""
    (name,) = [one["name"] for one in ray.util.list_named_actors(all_namespaces=True)]
    while True:
        with suppress(ray.exceptions.RayActorError):  # it is on its way to another node
            return str(ray.get(ray.get_actor(name, namespace=StudyActors.NAMESPACE).where.remote(), timeout=120))


def test_an_idle_actor_ends_and_comes_back(cluster: Cluster):
    actors = StudyActors(cluster.address, "test", lambda: lambda job: {"result": job["kind"]})
    actors.connect()
    assert asyncio.run(actors.run(7, {"kind": "a"})) == {"result": "a"}
    actors.evict(0.0)
    while ray.util.list_named_actors(all_namespaces=True):
        time.sleep(0.05)
    assert asyncio.run(actors.run(7, {"kind": "b"})) == {"result": "b"}
