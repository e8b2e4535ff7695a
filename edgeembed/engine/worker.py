"""The child process that owns one loaded model.

Started as `python -m edgeembed.engine.worker RUNG OPTIONS_JSON`; frames come in on stdin and go out on what was stdout.
Three threads: the reader decodes and tokenises, the main thread computes, the writer answers; so texts are tokenised and
rows are sent while the next batch is already computing (ctypes lets go of the interpreter lock inside llama.cpp).

When stdin ends, the daemon is gone, and the process exits at once: no orphan survives a killed daemon.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import sys
import threading
from typing import IO, Literal

import msgspec

from edgeembed.engine import canary
from edgeembed.engine.batching import BatchQueue, QueuedText
from edgeembed.engine.llama import MAX_SEQUENCES, ComputeError, LlamaModel, ModelLoadError, Tokens, send_log_to
from edgeembed.engine.protocol import (
    LENGTH_BYTES,
    Cancel,
    Embed,
    EmbedItem,
    Failed,
    FromWorker,
    LoadFailed,
    Ready,
    RowItem,
    Rows,
    Stage,
    Started,
    Stop,
    ToWorker,
    WorkerOptions,
    frame,
    frame_length,
    to_worker_decoder,
)

Queued = QueuedText[Tokens]
Waiting = BatchQueue[Tokens]


class Pipe:
    """Frames to and from the daemon; writes go through a thread, so that computing never waits for a full pipe."""

    def __init__(self, source: IO[bytes], sink: IO[bytes]) -> None:
        self._source = source
        self._sink = sink
        self._lock = threading.Lock()
        self._outgoing: queue.SimpleQueue[FromWorker | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_queued, name="writer", daemon=True)
        self._writer.start()

    def send(self, message: FromWorker) -> None:
        """Queue a message for the writer."""
        self._outgoing.put(message)

    def send_now(self, message: FromWorker) -> None:
        """Write a message before returning, so that it arrives even if the process dies in its next step."""
        self._write([message])

    def read(self) -> ToWorker | None:
        """Wait for the next message; None when the daemon is gone."""
        header = self._source.read(LENGTH_BYTES)
        if len(header) < LENGTH_BYTES:
            return None
        body = self._source.read(frame_length(header))
        return to_worker_decoder.decode(body)

    def finish(self) -> None:
        """Write what is queued, then stop writing."""
        self._outgoing.put(None)
        self._writer.join()

    def _write_queued(self) -> None:
        while (first := self._outgoing.get()) is not None:
            messages = [first]
            finished = False
            while not self._outgoing.empty():
                message = self._outgoing.get()
                if message is None:
                    finished = True
                    break
                messages.append(message)
            self._write(messages)
            if finished:
                return

    def _write(self, messages: list[FromWorker]) -> None:
        try:
            with self._lock:
                self._sink.write(b"".join(map(frame, messages)))
                self._sink.flush()
        except OSError:  # the daemon is gone
            os._exit(0)


class Worker:
    """Ties the pipe, the queue and the model together."""

    def __init__(self, options: WorkerOptions, pipe: Pipe) -> None:
        self._options = options
        self._pipe = pipe
        self._model: LlamaModel | None = None
        self._queue: Waiting | None = None
        self._loaded = threading.Event()

    def run(self) -> int:
        """Load, check the canary texts, then serve until told to stop. Gives the exit status."""
        # The reader runs before the model loads: a daemon that dies meanwhile must not leave a loading process behind.
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        try:
            self._pipe.send_now(Stage("loading the model"))
            model = self._model = LlamaModel(self._options)
            self._pipe.send_now(Stage("computing the canary texts"))
            self._check_canary(model)
        except ModelLoadError as error:
            return self._give_up(str(error), fatal=error.fatal)
        except (canary.CanaryError, ComputeError) as error:
            return self._give_up(str(error), fatal=False)
        self._queue = BatchQueue(model.batch_budget, MAX_SEQUENCES)
        self._loaded.set()
        self._pipe.send(Ready(model.info))
        while batch := self._queue.take():
            self._compute(model, self._queue, batch)
        self._pipe.finish()
        return 0

    def _give_up(self, reason: str, *, fatal: bool) -> int:
        self._pipe.send(LoadFailed(reason, fatal))
        self._pipe.finish()
        return 1

    def _check_canary(self, model: LlamaModel) -> None:
        limit = model.info.context_tokens
        texts = [tokens[:limit] for tokens in map(model.tokenize, canary.TEXTS) if len(tokens)]
        # As many as one batch holds: the shortest ones are always among them.
        together: list[Tokens] = []
        for tokens in sorted(texts, key=len):
            if sum(map(len, together)) + len(tokens) <= model.batch_capacity:
                together.append(tokens)
        canary.check(model.embed, together)

    # --- the reader's thread ------------------------------------------------------------------------------------------

    def _read(self) -> None:
        while True:
            message = self._pipe.read()
            if message is None:
                os._exit(0)
            self._loaded.wait()
            assert self._model is not None and self._queue is not None
            match message:
                case Embed(items):
                    self._queue_texts(self._model, self._queue, items)
                case Cancel(ids):
                    self._queue.cancel(ids)
                case Stop():
                    self._queue.close()

    def _queue_texts(self, model: LlamaModel, texts: Waiting, items: list[EmbedItem]) -> None:
        limit = model.info.context_tokens
        for item in items:
            try:
                tokens = model.tokenize(item.text)
            except (ComputeError, UnicodeEncodeError) as error:
                self._pipe.send(Failed(item.id, "engine", str(error)))
                continue
            if len(tokens) > limit:
                self._pipe.send(Failed(item.id, "too_long", f"{len(tokens)} tokens", tokens=len(tokens), limit=limit))
            elif len(tokens) == 0:
                self._pipe.send(Failed(item.id, "empty", "the text has no tokens"))
            else:
                # One by one: the first text of a long list computes while the next is tokenised.
                texts.add([QueuedText(item.id, tokens, len(tokens), item.priority, item.alone)])

    # --- the main thread ----------------------------------------------------------------------------------------------

    def _compute(self, model: LlamaModel, waiting: Waiting, batch: list[Queued]) -> None:
        self._pipe.send_now(Started([text.id for text in batch]))
        try:
            rows = model.embed([text.tokens for text in batch])
        except ComputeError as error:
            self._retry_or_fail(waiting, batch, "engine", str(error))
            return
        good: list[RowItem] = []
        for text, row in zip(batch, rows, strict=True):
            reason = canary.defect(row)
            if reason is None:
                good.append(RowItem(text.id, text.count, row.tobytes()))
            else:
                self._retry_or_fail(waiting, [text], "bad_vector", f"the model gave a row that is {reason}")
        self._pipe.send(Rows(good))

    def _retry_or_fail(
        self,
        waiting: Waiting,
        batch: list[Queued],
        kind: Literal["bad_vector", "engine"],
        message: str,
    ) -> None:
        """Compute each text once more, alone; the second failure is the text's own."""
        for text in batch:
            if text.retried:
                self._pipe.send(Failed(text.id, kind, message))
            else:
                text.retried = text.alone = True
                waiting.add([text])


def main(argv: list[str]) -> int:
    """Run a worker; see the module's docstring."""
    faulthandler.enable()  # a native crash leaves a stack on stderr, which the daemon quotes
    options = msgspec.json.decode(argv[2], type=WorkerOptions)
    # Frames keep the real stdout for themselves; whatever else prints there goes to stderr.
    sink = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)
    send_log_to(sys.stderr.write, verbose=options.verbose)
    return Worker(options, Pipe(sys.stdin.buffer, sink)).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
