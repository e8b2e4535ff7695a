"""The child process that owns one loaded model.

Started as `python -m edgeembed.engine.worker RUNG OPTIONS_JSON`; frames come in on stdin and go out on what was stdout.
The reader's thread decodes, it and the lanes of `tokenizing` tokenise, the main thread computes, the writer answers; so
texts are tokenised and rows are sent while the next batch is already computing (ctypes lets go of the interpreter lock
inside llama.cpp).

When stdin ends, the daemon is gone, and the process exits at once: no orphan survives a killed daemon. When a thread fails,
the process ends too: the daemon starts another one, where a worker without its reader would never answer again.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections import deque
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
    ModelInfo,
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
from edgeembed.engine.tokenizing import Tokenizing

Queued = QueuedText[Tokens]
Waiting = BatchQueue[Tokens]


class Pipe:
    """Frames to and from the daemon; writes go through a thread, so that computing never waits for a full pipe."""

    def __init__(self, source: IO[bytes], sink: IO[bytes]) -> None:
        self._source = source
        self._sink = sink
        self._lock = threading.Lock()
        self._outgoing: deque[FromWorker] = deque()
        self._wake = threading.Event()
        self._finished = False
        self._writer = threading.Thread(target=self._write_queued, name="writer", daemon=True)
        self._writer.start()

    def send(self, message: FromWorker) -> None:
        """Queue a message for the writer."""
        self._outgoing.append(message)
        self._wake.set()

    def send_now(self, message: FromWorker) -> None:
        """Write a message before returning, so that it arrives even if the process dies in its next step.

        What was queued before goes first: a batch's rows must not arrive behind the start of the next one.
        """
        self._outgoing.append(message)
        self._write()

    def read(self) -> ToWorker | None:
        """Wait for the next message; None when the daemon is gone."""
        header = self._source.read(LENGTH_BYTES)
        if len(header) < LENGTH_BYTES:
            return None
        length = frame_length(header)
        body = self._source.read(length)
        if len(body) < length:  # it went in the middle of a sentence
            return None
        return to_worker_decoder.decode(body)

    def finish(self) -> None:
        """Write what is queued, then stop writing."""
        self._finished = True
        self._wake.set()
        self._writer.join()

    def _write_queued(self) -> None:
        finished = False
        while not finished:
            self._wake.wait()
            self._wake.clear()
            finished = self._finished
            self._write()

    def _write(self) -> None:
        try:
            with self._lock:
                while self._outgoing:
                    self._sink.write(frame(self._outgoing.popleft()))
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
        self._tokenizing: Tokenizing[Tokens] | None = None
        self._loaded = threading.Event()

    def run(self) -> int:
        """Load, check the canary texts, then serve until told to stop. Gives the exit status."""
        # The reader runs before the model loads: a daemon that dies meanwhile must not leave a loading process behind.
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        try:
            self._pipe.send_now(Stage("loading the model"))
            model = self._model = LlamaModel(self._options)
            self._pipe.send_now(Stage("computing the canary texts"))
            info = self._check_canary(model)
        except ModelLoadError as error:
            return self._give_up(str(error), fatal=error.fatal)
        except (canary.CanaryError, ComputeError) as error:
            return self._give_up(str(error), fatal=False)
        self._queue = BatchQueue(model.batch_budget, MAX_SEQUENCES)
        self._tokenizing = Tokenizing(self._tokenize, self._queue)
        self._loaded.set()
        self._pipe.send(Ready(info))
        while batch := self._queue.take():
            self._compute(model, self._queue, batch)
        self._pipe.finish()
        return 0

    def _give_up(self, reason: str, *, fatal: bool) -> int:
        self._pipe.send(LoadFailed(reason, fatal))
        self._pipe.finish()
        return 1

    def _check_canary(self, model: LlamaModel) -> ModelInfo:
        """Check the rows of fixed texts, and of those that the file carries. Raises CanaryError, ComputeError."""
        limit, scores = model.info.context_tokens, model.info.pooling == "rank"
        tokenized = map(model.read, canary.PAIRS if scores else canary.TEXTS)
        texts = [tokens[:limit] for tokens in tokenized if len(tokens)]
        # As many as one batch holds: the shortest ones are always among them.
        together: list[Tokens] = []
        for tokens in sorted(texts, key=len):
            if sum(map(len, together)) + len(tokens) <= model.batch_capacity:
                together.append(tokens)
        # A reranker's template alone may be longer than a batch.
        canary.check(model.embed, together or [min(texts, key=len)], scores=scores)
        in_file, rows = model.metadata(canary.TEXTS_KEY), model.metadata(canary.ROWS_KEY)
        if in_file is None or rows is None:
            return model.info
        expected = canary.read_rows(in_file, rows)
        found = canary.check_file(model.embed, model.read, expected, model.info.file_type, scores=scores)
        return msgspec.structs.replace(model.info, canary_cosines=tuple(found))

    # --- the reader's thread ------------------------------------------------------------------------------------------

    def _read(self) -> None:
        while True:
            message = self._pipe.read()
            if message is None:
                os._exit(0)
            self._loaded.wait()
            assert self._queue is not None and self._tokenizing is not None
            match message:
                case Embed(items):
                    self._tokenizing.add(items)
                case Cancel(ids):
                    self._tokenizing.cancel(ids)
                case Stop():
                    self._queue.close()

    def _tokenize(self, item: EmbedItem) -> Queued | None:
        """Give a text with its tokens, or tell the daemon why it cannot be computed. Called from several threads."""
        assert self._model is not None
        limit = self._model.info.context_tokens
        try:
            tokens = self._model.read(item.text)
        except (ComputeError, UnicodeEncodeError) as error:
            self._pipe.send(Failed(item.id, "engine", str(error)))
            return None
        if len(tokens) > limit:
            self._pipe.send(Failed(item.id, "too_long", f"{len(tokens)} tokens", tokens=len(tokens), limit=limit))
        elif len(tokens) == 0:
            self._pipe.send(Failed(item.id, "empty", "the text has no tokens"))
        else:
            return QueuedText(item.id, tokens, len(tokens), item.priority, item.alone)
        return None

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


def _end_process(failure: threading.ExceptHookArgs) -> None:
    """Print a thread's exception, for the daemon to quote, and end the process."""
    sys.excepthook(failure.exc_type, failure.exc_value or failure.exc_type(), failure.exc_traceback)
    sys.stderr.flush()
    os._exit(1)


def main(argv: list[str]) -> int:
    """Run a worker; see the module's docstring."""
    threading.excepthook = _end_process
    faulthandler.enable()  # a native crash leaves a stack on stderr, which the daemon quotes
    options = msgspec.json.decode(argv[2], type=WorkerOptions)
    # Frames keep the real stdout for themselves; whatever else prints there goes to stderr.
    sink = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)
    send_log_to(sys.stderr.write, verbose=options.verbose)
    return Worker(options, Pipe(sys.stdin.buffer, sink)).run()


if __name__ == "__main__":
    status = main(sys.argv)
    sys.stderr.flush()
    # Everything is sent. A normal exit would wait for the reader, which waits for the daemon, and then free what the
    # operating system frees faster.
    os._exit(status)
