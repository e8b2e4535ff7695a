"""A local Ray with the Serve application, in a process of its own: `python -m tests.ray_serve.serving PORT ARGUMENTS`.

ARGUMENTS is JSON, as for `edgeembed.serve_app.build`, and may name another class of Serve's as `router`. A line of the same
on standard input deploys the application anew; it ends with standard input. Prints a line whenever the application is ready.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import psutil

from edgeembed.ray_serve.application import ROUTER

START_SECONDS = 240.0


def main(port: str, arguments: str) -> None:
    """Serve until standard input ends."""
    import ray
    from ray import serve

    from edgeembed.ray_serve import application
    from edgeembed.ray_serve.arguments import read_arguments
    from edgeembed.serve_app import build

    ray.init(
        address="local",
        # One more than the replicas take, so that a new one can start beside the old ones. Ray starts a process for each.
        num_cpus=read_arguments(json.loads(arguments))[0].range[1] + 1,
        include_dashboard=False,
        object_store_memory=128 * 2**20,
        log_to_driver="-v" in sys.argv,
        logging_level=logging.ERROR,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    try:
        given: str | None = arguments
        while given:
            wanted = json.loads(given)
            application.ROUTER = wanted.pop("router", None) or ROUTER
            serve.run(build(wanted), name="edgeembed", route_prefix="/")
            print("ready", flush=True)
            given = sys.stdin.readline()
    finally:
        serve.shutdown()
        ray.shutdown()


class Serving:
    """The running process."""

    def __init__(self, port: int, arguments: Mapping[str, Any], environ: Mapping[str, str], errors: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.arguments = arguments
        self._errors = errors
        command = [sys.executable, "-m", "tests.ray_serve.serving", str(port), json.dumps(arguments)]
        with errors.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=dict(environ)
            )
        self._lines: Queue[str] = Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._wait()

    def deploy(self, **changes: Any) -> None:
        """Deploy the application with changed arguments, and wait until it is ready."""
        self.arguments = {**self.arguments, **changes}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(self.arguments) + "\n")
        self.process.stdin.flush()
        self._wait()

    def processes(self, begin: str) -> list[psutil.Process]:
        """Return the processes of Ray and of the daemons whose command line has a word."""
        found = []
        for each in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if begin in " ".join(each.cmdline()):
                    found.append(each)
            except psutil.NoSuchProcess:
                continue
        return found

    def close(self) -> None:
        """Shut down, and kill what is left."""
        children = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for each in children:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue

    def _wait(self) -> None:
        line = self._lines.get(timeout=START_SECONDS)
        assert line == "ready\n", f"{line!r}\n{self._errors.read_text()[-4000:]}"

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == "ready\n":
                self._lines.put(line)
        self._lines.put("")


@contextmanager
def serving(port: int, arguments: Mapping[str, Any], folder: Path, **more: str) -> Iterator[Serving]:
    """Run the application; its replicas have EDGEEMBED_HOME in the folder. more: variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGEEMBED_") and name != "RAY_ADDRESS"}
    own = {
        "EDGEEMBED_HOME": str(folder / "home"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        # A proxy takes longer than Serve's 5 s to start on a busy machine.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    }
    running = Serving(port, arguments, kept | own | more, folder / "serving.log")
    try:
        yield running
    finally:
        running.close()


if __name__ == "__main__":
    main(*sys.argv[1:3])
