"""Loads GGUF files in real worker processes, one per file, and reports the outcomes.

Run as `python -m tests.hub.gguf.loading FOLDER`: prints a JSON object of file name to Outcome. Each worker is
forked from a process that has imported everything, where the system can fork; it gets a few texts or pairs as soon as it is
ready.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import psutil

from edgeembed.engine.interface import INTERACTIVE, Pair
from edgeembed.engine.ipc.messages import (
    LENGTH_BYTES,
    ComputedRows,
    Embed,
    EmbedItem,
    Failed,
    ModeFailed,
    Ready,
    frame,
    frame_length,
    from_worker_decoder,
)
from edgeembed.engine.worker import main as worker
from edgeembed.engine.worker_options import WorkerOptions

TEXTS = [
    "hello world",
    "Größe, цвет, 颜色 🙂\n\t the quick  brown fox!",
    "<|endoftext|>[SEP]</s>",
    "ab " * 1500,
    " ",
    "\x01\x02",
]
TOKENS = 1024
SECONDS = 60.0
RERANKERS = "rerank"
"""Prefix of the file names of rerankers."""


class Outcome(NamedTuple):
    """The outcome for a file: embedded, refused with a reason, crashed, or hung."""

    kind: Literal["embedded", "refused", "crashed", "hung"]
    said: str
    peak: int
    """Peak memory in bytes; 0 if the process could not report it."""


def load_all(folder: Path) -> dict[str, Outcome]:
    """Load every GGUF file of a folder, each in a separate process."""
    context = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    if hasattr(os, "fork"):
        context.set_forkserver_preload([__name__, worker.__name__])
    paths = sorted(folder.glob("*.gguf"))
    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip([path.name for path in paths], pool.map(partial(_load, context), paths), strict=True))


def _load(context: multiprocessing.context.BaseContext, path: Path) -> Outcome:
    options = WorkerOptions(
        path=str(path),
        threads=1,
        context_tokens=TOKENS,
        batch_tokens=TOKENS,
        mode="cpu",
        extra_buffers=True,
        task="rerank" if path.name.startswith(RERANKERS) else "embed",
    )
    log = path.with_suffix(".log")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(msgspec.json.encode(options).decode(), str(log), theirs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(SECONDS):
            return Outcome("hung", log.read_text(errors="replace"), 0)
        return Outcome(*ours.recv())
    except EOFError:  # it ended without a message
        process.join()
        return Outcome("crashed", f"exit status {process.exitcode}: {log.read_text(errors='replace')[:2000]}", 0)
    finally:
        process.kill()
        process.join()


def _run(options: str, log: str, answer: Connection) -> None:
    """Run a worker, with the daemon's side in a thread of the same process."""
    to_worker, from_worker = os.pipe(), os.pipe()
    os.dup2(to_worker[0], 0)
    os.dup2(from_worker[1], 1)
    os.close(from_worker[1])
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)))
    daemon = threading.Thread(target=_converse, args=(options, to_worker[1], from_worker[0], answer), daemon=True)
    daemon.start()
    worker.main(["worker", "cpu", options])
    daemon.join(SECONDS)


def _converse(options: str, to_worker: int, from_worker: int, answer: Connection) -> None:
    pairs = msgspec.json.decode(options, type=WorkerOptions).task == "rerank"
    items = [EmbedItem(at, Pair("a query", text) if pairs else text, INTERACTIVE, False) for at, text in enumerate(TEXTS)]
    answered: list[str] = []
    with os.fdopen(from_worker, "rb") as source:
        while header := source.read(LENGTH_BYTES):
            match from_worker_decoder.decode(source.read(frame_length(header))):
                case Ready():
                    os.write(to_worker, frame(Embed(items)))
                case ComputedRows(rows):
                    answered += ["a row"] * len(rows)
                case Failed(_, _, message):
                    answered.append(message)
                case ModeFailed(reason):
                    answer.send(("refused", reason, _peak()))
                    return
            if len(answered) == len(items):
                answer.send(("embedded", "; ".join(answered), _peak()))
                return


def _peak() -> int:
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


if __name__ == "__main__":
    os.environ["GGML_NO_BACKTRACE"] = "1"  # otherwise every crash starts a debugger
    print(json.dumps(load_all(Path(sys.argv[1]))))
