"""Measure planning, and how shards are written, in an object store: inputs `plan_requests`, `plan_cpu_ms`, `part_bytes`.

    python -m tests.benchmarks.scale.measure_plan [--files 200]

The store is moto's server, a process of its own. Its latency says nothing about a real store's; the number of requests and
the processor time of the planning do.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from tests.ports import free_port

BUCKET = "plan"
REQUEST = re.compile(r"(GET|HEAD|PUT|POST) \S+ HTTP/1")
"""In the log of the store."""
ROWS = 1000


def wait(port: int) -> None:
    """Wait until the store answers."""
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/").close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the store does not answer")


def requests_of(log: Path, size: int) -> list[str]:
    """Return the requests that write a file of so many bytes."""
    from edgeembed.bulk.places import Place

    already = len(REQUEST.findall(log.read_text()))
    Place.of(f"s3://{BUCKET}/out/{size}").write_bytes(bytes(size))
    return REQUEST.findall(log.read_text())[already:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    chosen = parser.parse_args()
    port = free_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    from edgeembed.bulk.formats import Columns
    from edgeembed.bulk.fragments import plan

    pa, fs, pq = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.fs", "pyarrow.parquet"))
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": [f"text number {each} of a small file" for each in range(ROWS)]}), buffer)
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        command = [sys.executable, "-m", "moto.server", "-p", str(port)]
        store = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait(port)
            system = fs.S3FileSystem(endpoint_override=f"127.0.0.1:{port}", scheme="http", allow_bucket_creation=True)
            system.create_dir(BUCKET)
            for number in range(chosen.files):
                with system.open_output_stream(f"{BUCKET}/in/{number:06}.parquet") as stream:
                    stream.write(buffer.getvalue())
            plan([f"s3://{BUCKET}/in/000000.parquet"], None, Columns())  # what the first one loads
            log.flush()
            already = len(REQUEST.findall((Path(folder) / "log").read_text()))
            began, times = time.monotonic(), os.times()
            fragments = plan([f"s3://{BUCKET}/in"], None, Columns())
            wall, ended = time.monotonic() - began, os.times()
            requests = REQUEST.findall((Path(folder) / "log").read_text())[already:]
            writes = {size: requests_of(Path(folder) / "log", size) for size in (3_000_000, 12_000_000)}
        finally:
            store.kill()
            store.wait()
    busy = ended.user + ended.system - times.user - times.system
    kinds = {kind: requests.count(kind) / chosen.files for kind in sorted(set(requests))}
    print(f"{len(fragments)} fragments of {chosen.files} files in {wall:.1f} s")
    each, time_each = len(requests) / chosen.files, 1000 * busy / chosen.files
    print(f"requests a file: {each:.2f} {kinds}; {time_each:.2f} ms of processor time a file")
    for size, found in writes.items():
        print(f"a file of {size:,} bytes is written by {' '.join(found)}")


if __name__ == "__main__":
    main()
