"""A worker process with the real protocol that computes fake rows and fails as a script says.

Called as: scripted_worker.py SCRIPT MODE OPTIONS. SCRIPT is a list of words:
  die:MODE:SIGNAL    end by a signal while loading in that mode
  fail:MODE          send ModeFailed in that mode
  fatal              send a fatal ModeFailed
  replaced:FILE      find the model's file replaced while loading (once: FILE remembers)
  hang:MODE          never get ready in that mode
  poison:SIGNAL      end by a signal when a batch holds a text with the word "poison"
  small:STEPS        end by SIGKILL at the first batch unless it is smaller by so many steps
  stuck              tokenise a text with the word "stuck" for ever
  once:FILE:SIGNAL   end by a signal at the first batch ever (FILE remembers)
  garbage:FILE:HEX   send these bytes behind the rows of the first batch ever (FILE remembers)
  flood              send a megabyte of rows when told to stop
  DEED@WHEN:MODE:FILE  in that mode, until FILE exists: `oom`, `lost`, `nodriver`, `olddriver` end as llama.cpp does with the
                     message of CUDA, `wrong` finds its canary rows wrong, `freeze` stands still, `kill` is killed; WHEN is
                     `load` or `work`
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from edgeembed.engine.interface import DENSE, ModelInfo
from edgeembed.engine.ipc.activity_table import READING, ActivityTable
from edgeembed.engine.ipc.messages import (
    LENGTH_BYTES,
    Cancel,
    ComputedRows,
    Embed,
    EmbedItem,
    Failed,
    FromWorker,
    ModeFailed,
    ReadTokens,
    Ready,
    RowItem,
    Stage,
    Stop,
    frame,
    frame_length,
    to_worker_decoder,
)
from edgeembed.engine.worker_options import WorkerOptions
from tests.fakes import DIMENSIONS, fake_packed_row, fake_row

BATCH = 4
LAST_LINES = {
    "oom": "CUDA error: out of memory",
    "lost": "CUDA error: unspecified launch failure",
    "nodriver": "OSError: libcuda.so.1: cannot open shared object file: No such file or directory",
    "olddriver": "CUDA error: CUDA driver version is insufficient for CUDA runtime version",
}


def send(message: FromWorker) -> None:
    sys.stdout.buffer.write(frame(message))
    sys.stdout.buffer.flush()


def die(name: str) -> None:
    print("GGML_ASSERT(this is what a dying worker says) failed", file=sys.stderr, flush=True)
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(10)  # longer than anyone waits


def misbehave(script: list[list[str]], when: str, mode: str) -> None:
    for word, *arguments in script:
        deed, _, moment = word.partition("@")
        if moment != when or arguments[0] != mode or Path(arguments[1]).exists():
            continue
        if deed == "wrong":
            send(ModeFailed("canary rows are too far from those of the unquantised weights: cosines 0.1", "wrong_vectors"))
            os._exit(1)
        if deed == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            print(LAST_LINES[deed], file=sys.stderr, flush=True)
            if deed == "nodriver":
                os._exit(1)  # a library that cannot be loaded is an exception
            print("Fatal Python error: Aborted", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGABRT)


def main(script: list[list[str]], mode: str, options: WorkerOptions) -> None:
    assert options.activity_table is not None
    activity_table = ActivityTable(Path(options.activity_table))
    send(Stage("loading the model"))
    for word, *arguments in script:
        if word == "die" and arguments[0] == mode:
            die(arguments[1])
        if word == "fail" and arguments[0] == mode:
            send(ModeFailed(f"canary text 0 is wrong on {mode}", "wrong_vectors"))
            return
        if word == "replaced" and not Path(arguments[0]).exists():
            Path(arguments[0]).touch()
            send(ModeFailed("the file was written to or replaced while it was loaded", "replaced"))
            return
        if word == "fatal":
            send(ModeFailed("it is a reranker", "other", fatal=True))
            return
        if word == "hang" and arguments[0] == mode:
            time.sleep(60)  # hangs, as it was told to
    misbehave(script, "load", mode)
    send(
        Ready(
            ModelInfo(
                architecture="scripted", name="scripted", dimensions=DIMENSIONS, context_tokens=20, pooling="mean",
                file_type="F32", parameters=0, size_bytes=0, llama_cpp="none",
            )
        )
    )  # fmt: skip
    while header := sys.stdin.buffer.read(LENGTH_BYTES):
        match to_worker_decoder.decode(sys.stdin.buffer.read(frame_length(header))):
            case Embed(items):
                alone = [[item] for item in items if item.alone]
                others = [item for item in items if not item.alone]
                for batch in [*alone, *(others[at : at + BATCH] for at in range(0, len(others), BATCH))]:
                    compute(batch, script, activity_table, options)
            case Cancel():
                pass
            case Stop():
                if ["flood"] in script:
                    send(ComputedRows([RowItem(0, 3, bytes(1 << 20))]))
                return


def compute(batch: list[EmbedItem], script: list[list[str]], activity_table: ActivityTable, options: WorkerOptions) -> None:
    activity_table.begin(0, [item.id for item in batch])
    misbehave(script, "work", options.mode)
    for word, *arguments in script:
        stuck = [item.id for item in batch if word == "stuck" in item.text]
        if stuck:
            activity_table.end(0)
            activity_table.begin(READING["tokenize-long"], stuck)
            time.sleep(60)  # longer than anyone waits
        if word == "poison" and any("poison" in item.text for item in batch):
            die(arguments[0])
        if word == "small" and options.reduction < int(arguments[0]):
            die("SIGKILL")
        if word == "once" and not Path(arguments[0]).exists():
            Path(arguments[0]).touch()
            die(arguments[1])
    rows = []
    for item in batch:
        tokens = len(item.text.split()) + 2
        if item.want != "row":
            ids = np.arange(tokens, dtype=np.int32)
            special = np.isin(ids, (0, tokens - 1))
            words = ["<", *item.text.split(), ">"] if item.want == "tokens" else []
            send(ReadTokens(item.id, ids.tobytes(), special.tobytes(), [word.encode() for word in words]))
        elif tokens > 20:
            send(Failed(item.id, "too_long", f"{tokens} tokens", tokens=tokens, limit=20))
        else:
            row = fake_row(item.text) if item.outputs == DENSE else fake_packed_row(item.text, item.outputs)
            rows.append(RowItem(item.id, tokens, row.tobytes()))
    activity_table.end(0)
    send(ComputedRows(rows))
    for word, *arguments in script:
        if word == "garbage" and not Path(arguments[0]).exists():
            Path(arguments[0]).touch()
            sys.stdout.buffer.write(bytes.fromhex(arguments[1]))
            sys.stdout.buffer.flush()
            time.sleep(60)  # it is ended before


if __name__ == "__main__":
    words, mode, options = sys.argv[1:]
    main([part.split(":") for part in words.split()], mode, msgspec.json.decode(options, type=WorkerOptions))
