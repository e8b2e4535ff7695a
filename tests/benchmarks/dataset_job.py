"""`embed s3://… -o s3://…` of texts in 64 Parquet files: one process, and a Ray cluster of three nodes that is broken into.

    python -m tests.benchmarks.dataset_job 10000 100000 1000000

The store is moto's server, a process of its own. The cluster's head node and the driver have a network namespace of their
own where this is root, so that each byte to and from them is counted. Of each size:

1. one process computes the job, at the same time as
2. the cluster begins it, and after a quarter of the shards the driver is killed (-9);
3. the cluster goes on with --resume; a worker is killed after half of the shards, and a node after three quarters.

All objects of both outputs are compared. The model is tiny (`tests.engine.tiny_qwen3`), because the processors are few.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from tests.engine.tiny_qwen3 import make_tiny_qwen3

FILES = 64
NODES = 3
SPACE, OUTER, INNER = "edgeembed-bench", "10.77.0.1", "10.77.0.2"
BUCKET = "bench"
RAY_PORT, STORE_PORT = 36379, 35000


class Measured(NamedTuple):
    """A run of the driver. peak: of its memory. received, sent: by its machine's network, in bytes; -1 where not counted."""

    seconds: float
    peak: int
    received: int
    sent: int


class Place(NamedTuple):
    """Where the head node and the driver run. prefix: of their commands."""

    host: str
    head: str
    prefix: tuple[str, ...]

    def traffic(self) -> tuple[int, int]:
        """Return the bytes that the driver's machine has received and sent."""
        if not self.prefix:
            return -1, -1
        lines = subprocess.run(
            [*self.prefix, "cat", "/proc/net/dev"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        fields = next(line for line in lines if "bench1" in line).partition(":")[2].split()
        return int(fields[0]), int(fields[8])


@contextlib.contextmanager
def network() -> Iterator[Place]:
    """Make a network namespace that is joined to this one, where this is allowed."""

    def ip(words: str) -> None:
        subprocess.run(["ip", *words.split()], check=True, capture_output=True)

    if os.geteuid() != 0:
        yield Place("127.0.0.1", "127.0.0.1", ())
        return
    ip(f"netns add {SPACE}")
    try:
        ip("link add bench0 type veth peer name bench1")
        ip(f"link set bench1 netns {SPACE}")
        ip(f"addr add {OUTER}/30 dev bench0")
        ip("link set bench0 up")
        ip(f"-n {SPACE} addr add {INNER}/30 dev bench1")
        ip(f"-n {SPACE} link set bench1 up")
        ip(f"-n {SPACE} link set lo up")
        ip(f"-n {SPACE} route add default via {OUTER}")  # by which Ray finds the address of its machine
        yield Place(OUTER, INNER, ("ip", "netns", "exec", SPACE))
    finally:
        subprocess.run(["ip", "netns", "del", SPACE], check=False)
        subprocess.run(["ip", "link", "del", "bench0"], check=False, capture_output=True)


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the end of the block, with all that it started."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    for each in (*children, process):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            each.kill()
    process.wait()


def until(condition: Callable[[], Any], what: str, seconds: float = 400) -> Any:
    """Wait for something outside this process, of which there is no event."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise TimeoutError(what)


def store_of(host: str) -> Any:
    return pyarrow.fs.S3FileSystem(endpoint_override=f"http://{host}:{STORE_PORT}", allow_bucket_creation=True)


def write_inputs(store: Any, texts: int) -> str:
    """Write texts of two to four words to 64 files. Returns their folder."""
    folder = f"{BUCKET}/in-{texts}"
    words = ("river", "stone", "cloud", "paper", "light", "music", "garden", "window", "bridge", "coffee", "market")
    for file in range(FILES):
        rows = range(texts * file // FILES, texts * (file + 1) // FILES)
        found = [" ".join([*(words[(row * 7 + at * 5) % 11] for at in range(1 + row % 3)), str(row)]) for row in rows]
        with store.open_output_stream(f"{folder}/in-{file:02}.parquet") as stream:
            pq.write_table(pa.table({"key": list(rows), "text": found}), stream)
    return folder


def digests(store: Any, folder: str) -> dict[str, str]:
    """Return a digest of each object."""
    found = {}
    for entry in store.get_file_info(pyarrow.fs.FileSelector(folder, recursive=True)):
        if entry.is_file:
            with store.open_input_stream(entry.path) as stream:
                found[entry.path.removeprefix(folder)] = hashlib.sha256(stream.read()).hexdigest()
    return found


def rows_that_differ(store: Any, one: str, other: str) -> str:
    """Return what is different in two objects, for people."""
    if not one.endswith(".parquet"):
        return "".join(f"\n      {store.open_input_stream(name).read().decode()}" for name in (one, other))
    tables = [pq.read_table(store.open_input_file(name)) for name in (one, other)]
    vectors = [np.array(table["vector"].to_pylist()) for table in tables]
    if tables[0].drop_columns("vector") != tables[1].drop_columns("vector") or vectors[0].shape != vectors[1].shape:
        return ": not in vectors alone"
    rows = (vectors[0] != vectors[1]).any(1).nonzero()[0]
    return f": {len(rows)} of {len(vectors[0])} rows, by at most {np.abs(vectors[0] - vectors[1]).max():.1e}: {rows[:20]}"


def shards(store: Any, folder: str) -> int:
    try:
        entries = store.get_file_info(pyarrow.fs.FileSelector(folder))
    except FileNotFoundError:
        return 0
    return sum(entry.base_name.startswith("part-") for entry in entries)


class Driver:
    """The command, measured."""

    def __init__(self, place: Place, command: list[str]) -> None:
        self._place = place
        self._before = place.traffic()
        self._began = time.monotonic()
        self.process = subprocess.Popen([*place.prefix, *command], stderr=subprocess.PIPE, text=True)
        self.peak = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self.sample():
            time.sleep(0.5)

    def sample(self) -> bool:
        """Note the peak of its memory. Returns whether it has ended."""
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
            self.peak = max(self.peak, int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024)
        return self.process.poll() is not None

    def end(self, statuses: tuple[int, ...]) -> Measured:
        until(self.sample, "the job ends", 3000)
        _, lines = self.process.communicate()
        assert self.process.returncode in statuses, lines
        print("   ", lines.strip().splitlines()[-1] if lines.strip() else "killed", flush=True)
        received, sent = self._place.traffic()
        return Measured(time.monotonic() - self._began, self.peak, received - self._before[0], sent - self._before[1])


def node(place: Place, *flags: str, head: bool = False) -> list[str]:
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    if head:
        address = [f"--node-ip-address={place.head}", "--head", f"--port={RAY_PORT}", "--num-cpus=0"]
        return [*place.prefix, *ray, *address, "--include-dashboard=false", *flags]
    return [*ray, f"--node-ip-address={place.host}", f"--address={place.head}:{RAY_PORT}", "--num-cpus=1", *flags]


def worker_processes() -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"]) if is_worker(process)]


def is_worker(process: psutil.Process) -> bool:
    command = "".join(process.info["cmdline"] or ())
    return command.startswith("ray::") and "EngineWorker" in command


def measure(place: Place, store: Any, texts: int, model: Path, shard_rows: int) -> None:
    folder = write_inputs(store, texts)
    one, many = f"{BUCKET}/one-{texts}", f"{BUCKET}/many-{texts}"
    total = sum(-(-(texts * (file + 1) // FILES - texts * file // FILES) // shard_rows) for file in range(FILES))
    files = [f"s3://{folder}/in-{file:02}.parquet" for file in range(FILES)]  # of a folder, small ones would be together
    command = [
        str(Path(sys.executable).with_name("edgeembed")),
        *("embed", *files, "--id", "key", "--model", str(model), "--shard-rows", str(shard_rows)),
    ]
    print(f"{texts:,} texts", flush=True)
    # At the same time, outside the network namespace: its traffic is not that of the cluster's driver.
    alone = Driver(place._replace(prefix=()), [*command, "--no-daemon", "-o", f"s3://{one}/"])
    with cluster_of(place) as nodes:
        on_ray = [*command, "-o", f"s3://{many}/", "--engine", "ray", "--ray-address", f"{place.head}:{RAY_PORT}"]
        on_ray += ["--workers", str(NODES)]  # which may not be members yet
        first = Driver(place, on_ray)
        until(lambda: first.sample() or shards(store, many) >= total / 4, "a quarter", 1500)
        first.process.kill()
        begun = first.end((-signal.SIGKILL,))
        kept = shards(store, many)
        second = Driver(place, [*on_ray, "--resume"])
        until(lambda: second.sample() or shards(store, many) >= total / 2, "a half", 1500)
        worker_processes()[0].kill()
        at_worker = shards(store, many)
        until(lambda: second.sample() or shards(store, many) >= total * 3 / 4, "three quarters", 1500)
        stop(nodes[0])
        at_node = shards(store, many)
        rest = second.end((0,))
    here = alone.end((0,))
    found, wanted = digests(store, many), digests(store, one)
    different = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    for name in different:
        both = name in found and name in wanted
        print(f"    differs: {name}{rows_that_differ(store, many + name, one + name) if both else ': not in both'}")
    same = all(name.endswith("/manifest.json") for name in different)  # which names the engine
    print(f"    killed: driver at {kept}, worker at {at_worker}, node at {at_node} of {total} shards; same bytes: {same}")
    print("| texts | run | s | peak MiB | received kB | sent kB |")
    for name, each in (("one process", here), ("driver, until killed", begun), ("driver, resumed", rest)):
        mib, received, sent = each.peak / 2**20, each.received / 1000, each.sent / 1000
        print(f"| {texts:,} | {name} | {each.seconds:.0f} | {mib:.0f} | {received:,.0f} | {sent:,.0f} |", flush=True)
    assert same, "the outputs differ"


@contextlib.contextmanager
def cluster_of(place: Place) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start a head node, where the driver runs, and nodes for one worker each. Yields the nodes."""
    with contextlib.ExitStack() as stack:
        temporary = f"--temp-dir={tempfile.mkdtemp(prefix='ray-')}"
        stack.enter_context(running(node(place, temporary, head=True)))
        until(lambda: _listens(place.head, RAY_PORT), "the head node listens")
        nodes: list[subprocess.Popen[bytes]] = []
        while len(nodes) < NODES:  # one after the other: they choose ports
            started = stack.enter_context(running(node(place)))
            until(lambda process=started: _has_raylet(process) or process.poll() is not None, "a node runs")
            if started.poll() is None:
                nodes.append(started)
            time.sleep(5)  # until it is a member
        yield nodes


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("texts", nargs="*", type=int, default=[10_000])
    arguments.add_argument("--model", type=Path)
    arguments.add_argument("--shard-rows", type=int, default=8192)
    options = arguments.parse_args()
    # A busy machine starves its nodes for longer than Ray waits for a sign of life.
    os.environ |= {"RAY_raylet_start_wait_time_s": "300", "RAY_health_check_timeout_ms": "120000"}
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "bench" * 8}
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": "us-east-1"}
    with tempfile.TemporaryDirectory() as folder, network() as place:
        os.environ |= {"AWS_ENDPOINT_URL": f"http://{place.host}:{STORE_PORT}", "EDGEEMBED_PORT": "1"}
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        model = options.model
        if model is None:
            model = Path(folder) / "tiny.gguf"
            make_tiny_qwen3(model)
        moto = [sys.executable, "-m", "moto.server", "-H", place.host, "-p", str(STORE_PORT)]
        with running(moto):
            store = store_of(place.host)
            until(lambda: _answers(store), "the store answers")
            for texts in options.texts:
                measure(place, store, texts, model, options.shard_rows)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def _has_raylet(process: subprocess.Popen[bytes]) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(each.name() == "raylet" for each in psutil.Process(process.pid).children(recursive=True))
    return False


def _answers(store: Any) -> bool:
    try:
        store.create_dir(BUCKET)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
