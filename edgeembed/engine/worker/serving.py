"""A worker's work: load the model, check it, and compute the texts that arrive through the pipe.

The reader thread decodes messages; it and the threads of `tokenizing` tokenise; lanes compute; the writer sends results.
ctypes releases the interpreter lock inside llama.cpp, so texts are read and rows are sent while forward passes run.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from typing import Literal

import msgspec
import numpy as np

from edgeembed.common.heap import IdleTrim, trim_heap
from edgeembed.engine import canary
from edgeembed.engine.context_plan import MOST_REDUCTION
from edgeembed.engine.interface import (
    INTERACTIVE,
    Float32Matrix,
    Float32Row,
    ModelInfo,
    Pair,
    Prompted,
    Reference,
    Role,
)
from edgeembed.engine.ipc.activity_table import FIRST_BULK, NESTED, READING, ActivityTable
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
from edgeembed.engine.llama.context import Context
from edgeembed.engine.llama.library import ComputeError, ModelLoadError
from edgeembed.engine.llama.model import LlamaModel, load_libraries
from edgeembed.engine.reading import Reading, Tokens
from edgeembed.engine.sandbox import Sandbox
from edgeembed.engine.worker.batching import WIDE, BatchQueue, QueuedText
from edgeembed.engine.worker.guard import start_guard
from edgeembed.engine.worker.reader import BadIdsError, CutReading, NoRoomError, TextReader, TooLongError
from edgeembed.engine.worker.thread_priority import lower_priority
from edgeembed.engine.worker.token_outputs import TokenOutputs
from edgeembed.engine.worker.tokenizing import Tokenizing, start_reading_thread
from edgeembed.engine.worker_options import WorkerOptions

QUERY_TOKENS = 512
"""Bulk lanes pause during a query's forward pass of up to this many tokens; a longer one would stop them for too long."""

MOST_SECONDS_AT_ONCE = 0.005
"""The longest that a batch may take, judging by the latest one, for the reader to compute it. Meanwhile it reads nothing:
other requests, such as those for tokens, wait."""

IDLE_SECONDS = 30.0
"""A bulk lane without texts for this time frees its context, which takes up to 100 MB; a new one takes milliseconds."""

Queued = QueuedText[Reading]


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
        self._computes_at_once = False
        self._token_seconds = float("inf")
        """Seconds per token of the wide lane's latest batch."""
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
                self._check_canary(model), batch_tokens=model.batch_budget, sandbox=self._sandbox.info
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
        # What a card computes stays on one thread.
        self._computes_at_once = not self._options.gpu_layers and start_guard()
        self._tokenizing = Tokenizing(self._tokenize, queue, self._add_queries)
        for number in range(1, plan.bulk_lanes + 1):
            threading.Thread(target=self._run_bulk_lane, args=(number, queue), name=f"bulk-{number}", daemon=True).start()
        self._loaded.set()
        gc.freeze()  # these objects live as long as the process: garbage collections that skip them are short
        gc.enable()  # `main` has disabled it
        trim_heap()  # what loading took
        self._pipe.send(Ready(info))
        self._run_wide_lane(model, queue)
        self._pipe.finish()
        return 0

    def _give_up(self, failure: ModeFailed) -> int:
        self._pipe.send(failure)
        self._pipe.finish()
        return 1

    def _check_canary(self, model: LlamaModel) -> ModelInfo:
        """Check the rows of fixed texts and of those in the file. Raises CanaryError, ComputeError."""
        limit, scores = model.info.context_tokens, model.info.pooling == "rank"
        tokenized = (model.read(text).tokens for text in canary.texts_for(self._options.task))
        texts = [tokens[:limit] for tokens in tokenized if len(tokens)]
        # As many as fit into one batch, shortest first.
        together: list[Tokens] = []
        for tokens in sorted(texts, key=len):
            if sum(map(len, together)) + len(tokens) <= model.batch_capacity:
                together.append(tokens)
        # A reranker's template alone may be longer than a batch.
        canary.check(model.embed, together or [min(texts, key=len)], model.info.file_type, scores=scores)
        in_file, rows = model.metadata(canary.TEXTS_KEY), model.metadata(canary.ROWS_KEY)
        if in_file is None or rows is None:
            return msgspec.structs.replace(model.info, reference=self._own_reference(model, scores=scores))
        # Only those that fit into the context that the settings allow.
        stored = canary.read_rows(in_file, rows)
        expected = [(text, row) for text, row in stored if len(model.read(text).tokens) <= limit]
        found = canary.check_file(
            model.embed, lambda text: model.read(text).tokens, expected, model.info.file_type, scores=scores
        )
        least = canary.least_again(model.info.file_type, scores=scores)
        given = [
            Reference(text=text, row=row.tobytes(), least=least, given=True)
            for text, row in expected
            if isinstance(text, str | Pair)
        ]
        return msgspec.structs.replace(
            model.info,
            canary_cosines=tuple(found),
            reference=given[0] if given else self._own_reference(model, scores=scores),
        )

    def _own_reference(self, model: LlamaModel, *, scores: bool) -> Reference | None:
        """Compute the first canary text; None if it does not fit. Raises ComputeError."""
        text, *_ = canary.texts_for(self._options.task)
        tokens = model.read(text).tokens
        if not 0 < len(tokens) <= model.info.context_tokens:
            return None
        least = canary.least_again(model.info.file_type, scores=scores)
        (row,) = model.embed([tokens])
        return Reference(text=text, row=row.tobytes(), least=least, given=False, made_at=time.time())

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

    def _add_queries(self, texts: list[Queued]) -> None:
        """Queue texts; if the wide lane could begin with them now, compute them here: waking its thread takes longer.

        The reader reads nothing meanwhile, so this is for short batches only, and while nothing else has arrived.
        """
        assert self._queue is not None and self._model is not None
        if not (self._computes_at_once and self._is_quick(texts) and self._pipe.is_quiet):
            self._queue.add(texts)
        elif batch := self._queue.take_at_once(texts, self._is_quick):  # maybe with others that wait
            try:
                self._compute(WIDE, self._model.wide, self._queue, batch)
            finally:
                self._queue.give_back()

    def _is_quick(self, batch: list[Queued]) -> bool:
        """Return whether the reader may compute a batch: nobody has to wait for it for long."""
        seconds = self._token_seconds * sum(text.count for text in batch)
        first = batch[0]
        return seconds <= MOST_SECONDS_AT_ONCE and first.is_dense and not first.alone and _is_query(WIDE, batch)

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
        row = self._model.packed_row(np.empty((0, self._model.width), dtype=np.float32), reading, item.outputs, role)
        self._pipe.send(ComputedRows([RowItem(item.id, len(reading.tokens), row.tobytes(), _full(reading))]))

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

    # --- lanes --------------------------------------------------------------------------------------------------------

    def _run_wide_lane(self, model: LlamaModel, queue: BatchQueue[Reading]) -> None:
        outputs = TokenOutputs(model)
        while (batch := queue.take(WIDE, IDLE_SECONDS if outputs.in_use else None)) or not queue.closed:
            if batch and not batch[0].is_dense:
                self._compute_outputs(WIDE, outputs, queue, batch)
            elif batch:
                self._compute(WIDE, model.wide, queue, batch)
            self._free_unused(outputs, idle=not batch)

    def _run_bulk_lane(self, number: int, queue: BatchQueue[Reading]) -> None:
        assert self._model is not None
        lower_priority(self._options.bulk_niceness)
        self._model.kernels.be_bulk()
        entry = FIRST_BULK + number - 1
        outputs = TokenOutputs(self._model, bulk=True)
        context: Context | None = None
        while (batch := queue.take(number, IDLE_SECONDS if context or outputs.in_use else None)) or not queue.closed:
            if batch and not batch[0].is_dense:
                self._compute_outputs(entry, outputs, queue, batch)
            elif batch:
                if context is None:  # created with the first bulk text: without bulk loads, lanes use no memory
                    try:
                        context = self._model.new_bulk_context()
                    except ModelLoadError:  # out of memory: the other lanes go on
                        outputs.close()
                        queue.retire(number, batch)
                        return
                self._compute(entry, context, queue, batch)
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

    def _compute(self, entry: int, context: Context, queue: BatchQueue[Reading], batch: list[Queued]) -> None:
        """Compute a batch and send its rows. entry: its place in the activity table."""
        self._begin(entry, batch)
        began = time.perf_counter()
        try:
            rows = context.compute(
                [text.tokens for text in batch],
                between=lambda: self._compute_queries(context, queue),
                isolated=bool(batch[0].batch),
            )
        except ComputeError as error:
            self._end(entry, batch)
            self._retry_or_fail(queue, batch, "engine", ModeFailed(str(error), error.cause))
        else:
            if entry == WIDE:
                self._token_seconds = (time.perf_counter() - began) / sum(text.count for text in batch)
            self._end(entry, batch)
            self._send_rows(queue, batch, rows)

    def _compute_outputs(self, entry: int, outputs: TokenOutputs, queue: BatchQueue[Reading], batch: list[Queued]) -> None:
        """Compute a batch of texts with other outputs than a dense row, and send their packed rows; see `_compute`."""
        self._begin(entry, batch)
        try:
            rows = outputs.compute(batch)
        except (ComputeError, ModelLoadError, canary.CanaryError) as error:
            self._end(entry, batch)
            self._retry_or_fail(queue, batch, "engine", ModeFailed(str(error), error.cause))
        else:
            self._end(entry, batch)
            self._send_rows(queue, batch, rows)

    def _begin(self, entry: int, batch: list[Queued]) -> None:
        """Note that a thread computes a batch from now on; bulk lanes pause for one of queries."""
        assert self._model is not None
        self._activity_table.begin(entry, [text.id for text in batch])
        if _is_query(entry, batch):
            self._model.kernels.begin_query()

    def _end(self, entry: int, batch: list[Queued]) -> None:
        assert self._model is not None
        if _is_query(entry, batch):
            self._model.kernels.end_query()
        self._activity_table.end(entry)

    def _compute_queries(self, context: Context, queue: BatchQueue[Reading]) -> None:
        """Compute waiting queries between two pieces of a long text."""
        while context is self._wide and (batch := queue.take_query(context.shape.batch)):
            self._compute(NESTED, context, queue, batch)

    @property
    def _wide(self) -> Context | None:
        return self._model.wide if self._model else None

    def _send_rows(self, queue: BatchQueue[Reading], batch: list[Queued], rows: Float32Matrix | list[Float32Row]) -> None:
        self._trim.note_work()
        usable = _usable(rows)
        self._pipe.send(
            ComputedRows(
                [
                    RowItem(text.id, text.count, row.tobytes(), _full(text.tokens))
                    for text, row, ok in zip(batch, rows, usable, strict=True)
                    if ok
                ]
            )
        )
        if not all(usable):
            for text, row in zip(batch, rows, strict=True):
                if reason := canary.defect(row):
                    failure = ModeFailed(f"the model computed a row that is {reason}", "wrong_vectors")
                    self._retry_or_fail(queue, [text], "bad_vector", failure)

    def _retry_or_fail(
        self, queue: BatchQueue[Reading], batch: list[Queued], kind: Literal["bad_vector", "engine"], failure: ModeFailed
    ) -> None:
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
                queue.add([text])

    def _own_fault(self, kind: Literal["bad_vector", "engine"], failure: ModeFailed) -> ModeFailed | None:
        """Return the fault of this worker, on which a text failed twice; None when the text is at fault.

        Either the card failed, or there is too little memory for a worker of this size.
        """
        if not self._options.gpu_layers:
            smaller = self._options.reduction < MOST_REDUCTION
            return failure if failure.cause == "out_of_memory" and smaller else None
        if kind == "engine":
            return failure  # main memory may be enough where the card's is not
        assert self._model is not None
        if self._model.plan.bulk_lanes:
            return failure  # canary texts need the wide context, which belongs to another thread
        try:
            self._check_canary(self._model)
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


def _full(reading: Reading) -> int:
    return reading.full if isinstance(reading, CutReading) else 0
