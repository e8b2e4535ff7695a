"""A worker's work: load the model, check it, and answer the messages that arrive through the pipe.

The reader thread decodes messages; it and the threads of `tokenizing` tokenise; `lanes` compute; the writer sends results.
"""

from __future__ import annotations

import gc
import os
import threading

import msgspec
import numpy as np

from edgeembed.common.heap import IdleTrim, trim_heap
from edgeembed.engine import canary
from edgeembed.engine.interface import INTERACTIVE, Prompted, Role
from edgeembed.engine.ipc.activity_table import READING, ActivityTable
from edgeembed.engine.ipc.messages import (
    Cancel,
    ComputedRows,
    Embed,
    EmbedItem,
    Failed,
    ModeFailed,
    ReadTokens,
    Ready,
    RowItem,
    Stage,
)
from edgeembed.engine.ipc.pipe import Pipe
from edgeembed.engine.llama.library import ComputeError, ModelLoadError
from edgeembed.engine.llama.model import LlamaModel, load_libraries
from edgeembed.engine.reading import Reading
from edgeembed.engine.sandbox import Sandbox
from edgeembed.engine.worker.batching import BatchQueue
from edgeembed.engine.worker.canary_check import check_model
from edgeembed.engine.worker.guard import start_guard
from edgeembed.engine.worker.lanes import Lanes, Queued
from edgeembed.engine.worker.packing import QueuedText
from edgeembed.engine.worker.reader import BadIdsError, NoRoomError, TextReader, TooLongError, length_before_cut
from edgeembed.engine.worker.tokenizing import Tokenizing, start_reading_thread
from edgeembed.engine.worker_options import WorkerOptions


class Worker:
    """Connects the pipe, the queue and the model."""

    def __init__(self, options: WorkerOptions, pipe: Pipe, activity_table: ActivityTable, sandbox: Sandbox) -> None:
        self._options = options
        self._pipe = pipe
        self._activity_table = activity_table
        self._sandbox = sandbox
        self._model: LlamaModel | None = None
        self._reader: TextReader | None = None
        self._queue: BatchQueue[Reading] | None = None
        self._tokenizing: Tokenizing[Reading] | None = None
        self._loaded = threading.Event()
        self._trim = IdleTrim()

    def run(self) -> int:
        """Load the model, check the canary texts, serve until a Stop message, and return the exit status."""
        # The reader runs before the model is loaded, so that the process exits if the daemon dies meanwhile.
        start_reading_thread(self._read, name="reader")
        try:
            self._pipe.send_now(Stage("loading the model"))
            load_libraries(self._options)
            self._sandbox.filter_calls()  # not a byte of the file has been read yet
            model = self._model = LlamaModel(self._options)
            self._pipe.send_now(Stage("computing the canary texts"))
            info = msgspec.structs.replace(
                check_model(model, self._options.task), batch_tokens=model.batch_budget, sandbox=self._sandbox.info
            )
            model.renew_wide()  # the canary texts have filled the largest batch; most queries are short
        except ModelLoadError as error:
            return self._give_up(ModeFailed(str(error), error.cause, error.fatal))
        except (canary.CanaryError, ComputeError) as error:
            return self._give_up(ModeFailed(str(error), error.cause))
        plan = model.plan
        queue: BatchQueue[Reading] = BatchQueue(
            model.batch_budget, plan.wide.texts, bulk_lanes=plan.bulk_lanes, bulk_tokens=plan.bulk.longest_text
        )
        self._queue = queue
        self._reader = TextReader(model, context_tokens=info.context_tokens, vocabulary=model.vocabulary.size)
        lanes = Lanes(
            model, queue, self._options, self._pipe, self._activity_table, self._trim,
            computes_at_once=not self._options.gpu_layers and start_guard(),  # what a card computes stays on one thread
        )  # fmt: skip
        self._tokenizing = Tokenizing(self._tokenize, queue, lanes.add_queries)
        lanes.start_bulk_lanes()
        self._loaded.set()
        gc.freeze()  # these objects live as long as the process: garbage collections that skip them are short
        gc.enable()  # `main` has disabled it
        trim_heap()  # what loading took
        self._pipe.send(Ready(info))
        lanes.run_wide_lane()
        self._pipe.finish()
        return 0

    def _give_up(self, failure: ModeFailed) -> int:
        self._pipe.send(failure)
        self._pipe.finish()
        return 1

    # --- the reader's thread ------------------------------------------------------------------------------------------

    def _read(self) -> None:
        while True:
            messages = self._pipe.read()
            if not messages:
                os._exit(0)
            self._loaded.wait()
            assert self._model is not None and self._queue is not None and self._tokenizing is not None
            self._trim.note_work()
            items: list[EmbedItem] = []  # of several requests, which then share a batch
            for message in messages:
                if isinstance(message, Embed):
                    items += message.items
                    continue
                if items:
                    self._tokenizing.add(items)
                    items = []
                if isinstance(message, Cancel):
                    self._tokenizing.cancel(message.ids)
                else:
                    self._queue.close()
            if items:
                if len(items) == 1 and items[0].priority == INTERACTIVE and self._queue.is_idle:
                    self._model.kernels.expect_query()  # they wake while the text is tokenised
                self._tokenizing.add(items)

    def _tokenize(self, item: EmbedItem) -> Queued | None:
        """Return a text with its tokens, or None when the item is already answered. Called from several threads."""
        assert self._model is not None and self._reader is not None
        entry = READING[threading.current_thread().name]
        self._activity_table.begin(entry, [item.id])  # a tokenizer can crash, too
        try:
            if item.want != "row":
                self._pipe.send(self._read_only(item))
                return None
            reading = self._reader.read_within(item.text)
        except TooLongError as error:
            tokens, limit, at_least = error.tokens, error.limit, error.at_least
            self._pipe.send(Failed(item.id, "too_long", str(error), tokens=tokens, limit=limit, at_least=at_least))
        except NoRoomError as error:
            self._pipe.send(Failed(item.id, "no_room", str(error)))
        except BadIdsError as error:
            self._pipe.send(Failed(item.id, "bad_ids", str(error)))
        except (ComputeError, UnicodeEncodeError) as error:
            self._pipe.send(Failed(item.id, "engine", str(error)))
        else:
            if count := len(reading.tokens):
                role = item.text.role if isinstance(item.text, Prompted) else ""
                if not self._model.needs_states(item.outputs, role):
                    self._send_row_of_ids(item, reading, role)
                    return None
                queued = QueuedText(item.id, reading, count, item.priority, item.alone, outputs=item.outputs, role=role)
                queued.own = reading.own if queued.is_dense else 0
                queued.only_wide = self._model.needs_all_threads(item.outputs)
                return queued
            self._pipe.send(Failed(item.id, "empty", "the text has no tokens"))
        finally:
            self._activity_table.end(entry)
        return None

    def _send_row_of_ids(self, item: EmbedItem, reading: Reading, role: Role) -> None:
        """Send a row that depends on the ids of tokens alone: it waits for no forward pass."""
        assert self._model is not None
        row = self._model.packed_row(np.empty((0, self._model.file.width), dtype=np.float32), reading, item.outputs, role)
        self._pipe.send(ComputedRows([RowItem(item.id, len(reading.tokens), row.tobytes(), length_before_cut(reading))]))

    def _read_only(self, item: EmbedItem) -> ReadTokens:
        assert self._model is not None and self._reader is not None
        limits = None if isinstance(item.text, str) else item.text.limits
        vocabulary = self._model.vocabulary
        if item.want in ("text", "text_with_special"):
            ids = self._reader.given_ids(item.text)
            return ReadTokens(item.id, b"", b"", text=vocabulary.decode(ids, special=item.want != "text"))
        tokens = self._reader.read(item.text, limits.most if limits and limits.most else None).tokens
        read = ReadTokens(item.id, tokens.tobytes(), vocabulary.is_special(tokens).tobytes())
        if item.want == "tokens":
            read.pieces = vocabulary.pieces(tokens)
            read.spans = self._model.spans(item.text, tokens).tobytes()
        return read
