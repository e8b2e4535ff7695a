"""`edgeembed embed --engine ray`: a real Ray cluster of several nodes on this machine, with a real model."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgeembed.bulk.cluster import ClusterRules, connected_cluster
from edgeembed.bulk.crashes import MOST_CRASHES
from edgeembed.bulk.dataset_job import DatasetJob, claimed, planned
from edgeembed.bulk.embedders import EmbedOptions
from edgeembed.bulk.fragment_shards import FragmentWork, ShardReceipt
from edgeembed.bulk.fragments import Fragment
from edgeembed.bulk.places import Place
from edgeembed.bulk.shards import JobRules
from edgeembed.embedder.base import resolve_given
from edgeembed.errors import WorkerCrashedError
from tests.bulk.jobs import Silent
from tests.cli.helpers import MAIN, edgeembed
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.signals import listening_to_sigint

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.model, pytest.mark.xdist_group("ray")]  # one cluster at a time

FILES, ROWS, SHARD = 24, 400, 50
SHARDS = FILES * ROWS // SHARD
NODES = 3
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "EDGEEMBED_PORT": "1"}


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed (it is in the dev group, and in edgeembed[ray]): no workers to compute with")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster whose first node, where the command runs, has no room for workers."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(NODES):
        found.add_node(num_cpus=1)
    yield found
    found.shutdown()


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A job's command line, without its output. One of its texts is longer than the model takes.

    The files are named, as small ones of a folder would be few fragments.
    """
    model = make_tiny_qwen3(tmp_path / "tiny.gguf")
    (tmp_path / "in").mkdir()
    for file in range(FILES):
        texts = [f"{row} " + "word " * (row % 7) for row in range(ROWS)]
        texts[70] = "x" * 2000 if file == 1 else texts[70]
        pq.write_table(pa.table({"text": texts}), tmp_path / "in" / f"{file:02}.parquet")
    files = [f"file://{tmp_path}/in/{file:02}.parquet" for file in range(FILES)]
    return ["embed", *files, "--model", str(model), "--shard-rows", str(SHARD), "-o"]


def content(folder: Path) -> dict[str, bytes]:
    """Return the files of an output, without what it says of the engine and of where it is."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if path.name not in ("manifest.json", "finished.json")}


def shards(folder: Path) -> int:
    return len(list(folder.glob("part-*.parquet")))


def workers() -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            command = "".join(process.cmdline())
            if command.startswith("ray::") and "EngineWorker" in command:
                found.append(process)
    return found


class Job:
    """The command as a process."""

    def __init__(self, *arguments: str) -> None:
        with listening_to_sigint():
            words = [sys.executable, "-c", MAIN, *arguments]
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for something of other processes, of which there is no event, while the job runs."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            found = condition()
            assert self.process.poll() is None, (what, self.process.communicate()[1])
            if found:
                return found
            time.sleep(0.02)  # between two looks at processes and files, of which there is no event
        raise TimeoutError(what)

    def end(self) -> str:
        """Wait until the job ends, and return its lines. None are Ray's."""
        try:
            output, lines = self.process.communicate(timeout=120)
        finally:
            self.process.kill()
            self.process.wait()
        assert not output, "Ray prints there that a worker or a machine died"
        assert "logging.cc" not in lines
        return lines


def test_whatever_dies_the_bytes_are_those_of_one_process(command: list[str], tmp_path: Path, cluster: Any) -> None:
    """The command is interrupted and killed, and continued; then a worker and a node are killed."""
    alone = edgeembed(*command, f"{tmp_path}/alone/", "--no-daemon")
    assert alone.returncode == 3, alone.stderr  # one row is too long
    wanted = content(tmp_path / "alone")
    assert sum(name.startswith("part-") for name in wanted) == SHARDS
    assert "_edgeembed/rejects.jsonl" in wanted

    out = tmp_path / "many"
    on_ray = [*command, f"{out}/", "--engine", "ray", "--ray-address", cluster.address]
    job = Job(*on_ray)
    job.wait_for(lambda: shards(out) >= 1, "a first shard")
    job.process.send_signal(signal.SIGINT)
    lines = job.end()
    assert job.process.returncode == 130, lines
    assert "continue, run the same command with --resume" in lines

    before = shards(out)
    job = Job(*on_ray, "--resume")
    job.wait_for(lambda: shards(out) > max(before, SHARDS // 4), "a quarter of the shards")
    job.process.kill()
    job.end()

    job = Job(*on_ray, "--resume", "--workers", f"1:{NODES}")
    job.wait_for(lambda: shards(out) > SHARDS // 2, "a half of the shards")
    first = job.wait_for(workers, "a worker")[0]
    first.kill()
    job.wait_for(lambda: shards(out) > SHARDS * 5 // 8, "more shards")
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    assert shards(out) < SHARDS, "the job was done before the node was killed"
    lines = job.end()
    assert job.process.returncode == 3, lines
    assert f"computed by 1 to {NODES} workers on Ray" in lines
    assert "of them from an earlier run" in lines
    assert content(out) == wanted
    assert not psutil.pid_exists(first.pid)


def test_a_model_that_no_worker_can_load_ends_the_job(command: list[str], tmp_path: Path, cluster: Any) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF, as it says")
    command[command.index("--model") + 1] = str(broken)
    found = edgeembed(*command, f"{tmp_path}/out/", "--engine", "ray", "--ray-address", cluster.address)
    assert found.returncode in (1, 2), found.stderr
    assert "broken.gguf" in found.stderr


def test_a_cluster_on_this_machine_ends_with_the_command_and_has_no_keys(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEEMBED_FORWARD_KEY", "sesame")
    out = tmp_path / "v.parquet"
    job = Job(*command, str(out), "--single-file", "--engine", "ray", "--workers", "1")
    found = job.wait_for(lambda: {*psutil.Process(job.process.pid).children(recursive=True)} & {*workers()}, "a worker")
    assert "sesame" not in next(iter(found)).environ().values()
    lines = job.end()
    assert job.process.returncode == 3, lines
    assert "WARNING" not in lines
    assert pq.read_table(out).num_rows == FILES * ROWS - 1
    assert (tmp_path / "v.rejects.jsonl").exists()
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in found)


def test_a_missing_cluster_is_an_error(command: list[str], tmp_path: Path) -> None:
    found = edgeembed(*command, f"{tmp_path}/out/", "--engine", "ray", "--ray-address", "127.0.0.1:1")
    assert found.returncode == 2
    assert "no Ray cluster at 127.0.0.1:1" in found.stderr


def test_one_file_of_many_workers_needs_a_flag(command: list[str], tmp_path: Path) -> None:
    found = edgeembed(*command, f"{tmp_path}/v.npy", "--engine", "ray")
    assert found.returncode == 2
    assert "add --single-file" in found.stderr


class Deadly(FragmentWork):
    """Ends every worker that has computed the first shard of a file, before it is written."""

    def shard(self, fragment: Fragment, number: int) -> str:
        if fragment.name.endswith("03.parquet"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().shard(fragment, number)

    def receipt(self, fragment: Fragment, number: int) -> ShardReceipt | None:
        return FragmentWork(*self).receipt(fragment, number)


def test_rows_that_end_every_worker_end_the_job_after_all_others_and_are_named(
    command: list[str], tmp_path: Path, cluster: Any
) -> None:
    rules = JobRules(format="parquet", shard_rows=SHARD)
    job = DatasetJob(inputs=command[1 : 1 + FILES], output=Place.of(f"{tmp_path}/out/"), rules=rules)
    settings = job.settings(resolve_given(command[command.index("--model") + 1], {}).settings)
    plan, receipts = planned(job), []
    connection = connected_cluster(ClusterRules(cluster.address, workers=(2, 2)), settings, EmbedOptions(), print)
    with connection as connected, claimed(job):
        info, chunks = connected.describe(rules.chunks)
        manifest = job.begin(plan, info, chunks, Silent())
        with pytest.raises(WorkerCrashedError, match=r"03\.parquet, rows 0 to 399\. All else is there") as caught:
            for receipt in connected.compute(Deadly(job.output, manifest), plan.fragments):
                receipts.append(receipt)
        assert f"{MOST_CRASHES} restarted workers died" in caught.value.message
        assert len(receipts) == FILES - 1
        again = list(connected.compute(FragmentWork(job.output, manifest), plan.fragments))
    assert sum(receipt.before for receipt in again) == sum(receipt.rows for receipt in receipts)
    assert sum(receipt.rows for receipt in again) == FILES * ROWS - 1
