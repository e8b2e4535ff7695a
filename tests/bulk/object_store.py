"""A stand-in for S3: moto's server in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

_SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


class ObjectStore(NamedTuple):
    """A running server with one empty bucket. variables: what a process needs to reach it."""

    url: str
    bucket: str
    variables: dict[str, str]
    process: subprocess.Popen[str]

    @property
    def root(self) -> str:
        return f"s3://{self.bucket}"


@contextmanager
def object_store(bucket: str = "bucket") -> Iterator[ObjectStore]:
    """Run a server, which ends with this process at the latest, and set the variables by which it is found."""
    import pyarrow.fs

    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            variables = {
                "AWS_ENDPOINT_URL": url,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test-secret",
                "AWS_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            with pytest.MonkeyPatch.context() as patch:
                for name, value in variables.items():
                    patch.setenv(name, value)
                # Most of the server is loaded at its first request, on a busy machine in more than the usual 3 seconds.
                limits = {"connect_timeout": 60, "request_timeout": 60}
                system = pyarrow.fs.S3FileSystem(
                    endpoint_override=os.environ["AWS_ENDPOINT_URL"], allow_bucket_creation=True, **limits
                )
                system.create_dir(bucket)
                yield ObjectStore(url, bucket, variables, process)
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
