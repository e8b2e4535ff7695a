"""The lanes, which compute the batches of a queue with the model and send the rows.

Which lane computes which text is decided by the queue (`batching`). ctypes releases the interpreter lock inside llama.cpp,
so texts are read and rows are sent while forward passes run.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Literal

import numpy as np

from edgeembed.common.heap import IdleTrim
from edgeembed.engine import canary
from edgeembed.engine.context_plan import MOST_REDUCTION
from edgeembed.engine.interface import INTERACTIVE, Float32Matrix, Float32Row
from edgeembed.engine.ipc.activity_table import FIRST_BULK, NESTED, ActivityTable
from edgeembed.engine.ipc.messages import ComputedRows, Failed, ModeFailed, RowItem
from edgeembed.engine.ipc.pipe import Pipe
from edgeembed.engine.llama.context import Context
from edgeembed.engine.llama.library import ComputeError, ModelLoadError
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.reading import Reading
from edgeembed.engine.worker.batching import WIDE, BatchQueue
from edgeembed.engine.worker.canary_check import check_model
from edgeembed.engine.worker.packing import QueuedText
from edgeembed.engine.worker.reader import length_before_cut
from edgeembed.engine.worker.thread_priority import lower_priority
from edgeembed.engine.worker.token_outputs import TokenOutputs
from edgeembed.engine.worker_options import WorkerOptions

QUERY_TOKENS = 512
"""Bulk lanes pause during a query's forward pass of up to this many tokens; a longer one would stop them for too long."""

MOST_SECONDS_AT_ONCE = 0.005
"""The longest that a batch may take, judging by the latest one, for the reader to compute it. Meanwhile it reads nothing:
other requests, such as those for tokens, wait."""

IDLE_SECONDS = 30.0
"""A bulk lane without texts for this time frees its context, which takes up to 100 MB; a new one takes milliseconds."""

Queued = QueuedText[Reading]


class Lanes:
    """Computes the texts of a queue: the wide lane, the bulk lanes, and the reader in the wide lane's place."""

    def __init__(
        self,
        model: LlamaModel,
        queue: BatchQueue[Reading],
        options: WorkerOptions,
        pipe: Pipe,
        activity_table: ActivityTable,
        trim: IdleTrim,
        *,
        computes_at_once: bool,
    ) -> None:
        """Start no thread. computes_at_once: the reader may compute in the wide lane's place."""
        self._model = model
        self._queue = queue
        self._options = options
        self._pipe = pipe
        self._activity_table = activity_table
        self._trim = trim
        self._computes_at_once = computes_at_once
        self._token_seconds = float("inf")
        """Seconds per token of the wide lane's latest batch."""

    def start_bulk_lanes(self) -> None:
        """Start a thread for each."""
        for number in range(1, self._model.plan.bulk_lanes + 1):
            threading.Thread(target=self._run_bulk_lane, args=(number,), name=f"bulk-{number}", daemon=True).start()

    def add_queries(self, texts: list[Queued]) -> None:
        """Queue texts; if the wide lane could begin with them now, compute them here: waking its thread takes longer.

        The reader reads nothing meanwhile, so this is for short batches only, and while nothing else has arrived.
        """
        if not (self._computes_at_once and self._is_quick(texts) and self._pipe.is_quiet):
            self._queue.add(texts)
        elif batch := self._queue.take_at_once(texts, self._is_quick):  # maybe with others that wait
            try:
                self._compute(WIDE, self._model.wide, batch)
            finally:
                self._queue.give_back()

    def _is_quick(self, batch: list[Queued]) -> bool:
        """Return whether the reader may compute a batch: nobody has to wait for it for long."""
        seconds = self._token_seconds * sum(text.count for text in batch)
        first = batch[0]
        return seconds <= MOST_SECONDS_AT_ONCE and first.is_dense and not first.alone and _is_query(WIDE, batch)

    def run_wide_lane(self) -> None:
        """Be the wide lane, until the queue is closed."""
        outputs = TokenOutputs(self._model)
        while (batch := self._queue.take(WIDE, IDLE_SECONDS if outputs.in_use else None)) or not self._queue.closed:
            if batch and not batch[0].is_dense:
                self._compute_outputs(WIDE, outputs, batch)
            elif batch:
                self._compute(WIDE, self._model.wide, batch)
            self._free_unused(outputs, idle=not batch)

    def _run_bulk_lane(self, number: int) -> None:
        lower_priority(self._options.bulk_niceness)
        self._model.kernels.be_bulk()
        queue, entry = self._queue, FIRST_BULK + number - 1
        outputs = TokenOutputs(self._model, bulk=True)
        context: Context | None = None
        while (batch := queue.take(number, IDLE_SECONDS if context or outputs.in_use else None)) or not queue.closed:
            if batch and not batch[0].is_dense:
                self._compute_outputs(entry, outputs, batch)
            elif batch:
                if context is None:  # created with the first bulk text: without bulk loads, lanes use no memory
                    try:
                        context = self._model.new_bulk_context()
                    except ModelLoadError:  # out of memory: the other lanes go on
                        outputs.close()
                        queue.retire(number, batch)
                        return
                self._compute(entry, context, batch)
            elif context is not None:
                context.close()
                context = None
                self._trim.note_work()
            self._free_unused(outputs, idle=not batch)

    def _free_unused(self, outputs: TokenOutputs, *, idle: bool) -> None:
        """Free what a lane needs for other outputs if nobody has asked for them for a while; it may have other work."""
        if outputs.in_use and (idle or outputs.unused_seconds > IDLE_SECONDS):
            outputs.close()
            self._trim.note_work()

    def _compute(self, entry: int, context: Context, batch: list[Queued]) -> None:
        """Compute a batch and send its rows. entry: its place in the activity table."""
        self._begin(entry, batch)
        began = time.perf_counter()
        try:
            rows = context.compute(
                [text.tokens for text in batch],
                between=lambda: self._compute_queries(context),
                isolated=bool(batch[0].batch),
            )
        except ComputeError as error:
            self._end(entry, batch)
            self._retry_or_fail(batch, "engine", ModeFailed(str(error), error.cause))
        else:
            if entry == WIDE:
                self._token_seconds = (time.perf_counter() - began) / sum(text.count for text in batch)
            self._end(entry, batch)
            self._send_rows(batch, rows)

    def _compute_outputs(self, entry: int, outputs: TokenOutputs, batch: list[Queued]) -> None:
        """Compute a batch of texts with other outputs than a dense row, and send their packed rows; see `_compute`."""
        self._begin(entry, batch)
        try:
            rows = outputs.compute(batch)
        except (ComputeError, ModelLoadError, canary.CanaryError) as error:
            self._end(entry, batch)
            self._retry_or_fail(batch, "engine", ModeFailed(str(error), error.cause))
        else:
            self._end(entry, batch)
            self._send_rows(batch, rows)

    def _begin(self, entry: int, batch: list[Queued]) -> None:
        """Note that a thread computes a batch from now on; bulk lanes pause for one of queries."""
        self._activity_table.begin(entry, [text.id for text in batch])
        if _is_query(entry, batch):
            self._model.kernels.begin_query()

    def _end(self, entry: int, batch: list[Queued]) -> None:
        if _is_query(entry, batch):
            self._model.kernels.end_query()
        self._activity_table.end(entry)

    def _compute_queries(self, context: Context) -> None:
        """Compute waiting queries between two pieces of a long text."""
        while context is self._model.wide and (batch := self._queue.take_query(context.shape.batch)):
            self._compute(NESTED, context, batch)

    def _send_rows(self, batch: list[Queued], rows: Float32Matrix | list[Float32Row]) -> None:
        self._trim.note_work()
        usable = _usable(rows)
        self._pipe.send(
            ComputedRows(
                [
                    RowItem(text.id, text.count, row.tobytes(), length_before_cut(text.tokens), text.alone)
                    for text, row, ok in zip(batch, rows, usable, strict=True)
                    if ok
                ]
            )
        )
        if not all(usable):
            for text, row in zip(batch, rows, strict=True):
                if reason := canary.defect(row):
                    failure = ModeFailed(f"the model computed a row that is {reason}", "wrong_vectors")
                    self._retry_or_fail([text], "bad_vector", failure)

    def _retry_or_fail(self, batch: list[Queued], kind: Literal["bad_vector", "engine"], failure: ModeFailed) -> None:
        """Compute each text again, alone. A second failure is the text's fault, unless it is this worker's."""
        for text in batch:
            if text.retried:
                if fault := self._own_fault(kind, failure):
                    # No result for the text: the next worker computes it.
                    self._pipe.send_now(fault)
                    os._exit(1)
                self._pipe.send(Failed(text.id, kind, failure.reason))
            else:
                text.retried, text.alone, text.batch = True, True, 0
                self._queue.add([text])

    def _own_fault(self, kind: Literal["bad_vector", "engine"], failure: ModeFailed) -> ModeFailed | None:
        """Return the fault of this worker, on which a text failed twice; None when the text is at fault.

        Either the card failed, or there is too little memory for a worker of this size.
        """
        if not self._options.gpu_layers:
            smaller = self._options.reduction < MOST_REDUCTION
            return failure if failure.cause == "out_of_memory" and smaller else None
        if kind == "engine":
            return failure  # main memory may be enough where the card's is not
        if self._model.plan.bulk_lanes:
            return failure  # canary texts need the wide context, which belongs to another thread
        try:
            check_model(self._model, self._options.task)
        except (canary.CanaryError, ComputeError) as error:
            return ModeFailed(f"{failure.reason}, and the canary texts fail too: {error}", failure.cause)
        return None


def _is_query(entry: int, batch: list[Queued]) -> bool:
    """Return whether a batch is one of queries, short enough that bulk lanes pause meanwhile."""
    return entry in (WIDE, NESTED) and batch[0].priority == INTERACTIVE and sum(text.count for text in batch) <= QUERY_TOKENS


def _usable(rows: Float32Matrix | list[Float32Row]) -> list[bool]:
    """Return for each row whether it has an answer: all finite, and a dense one not zero."""
    if isinstance(rows, list):
        return [bool(np.isfinite(row).all()) for row in rows]
    squares = np.einsum("ij,ij->i", rows, rows)
    if 0.0 < squares.min() <= squares.max() < np.inf:  # as nearly always; NaN makes this False, too
        return [True] * len(rows)
    usable: list[bool] = np.logical_and(np.isfinite(rows).all(axis=1), rows.any(axis=1)).tolist()
    return usable
