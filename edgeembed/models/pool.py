"""The loaded models: each loads on first use and stays while it is used, within a memory budget.

A model is held in a slot. Requests hold a lease on it, and so does every text until its row has come. A slot without
leases is idle, and is unloaded when its keep-alive ends or when another model needs its memory. If only busy models
could make room, the least recently used one drains: it finishes its texts, and new requests for it wait until it is
loaded again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from edgeembed.common.log_content import describe_error
from edgeembed.engine.interface import DENSE, Engine, Output, Priority, Row, Text
from edgeembed.errors import EdgeEmbedError, EngineUnavailableError, ModelLoadingError
from edgeembed.models.served_model import ServedModel
from edgeembed.models.slot import Slot

log = logging.getLogger(__name__)

FAILURE_SECONDS = 10.0
"""A model that failed to load is not tried again for this long; requests fail at once with the reason."""
PAUSED_SECONDS = 30.0
"""Retry-After while the daemon is paused."""
RETRY_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class PoolRules:
    """The settings for loaded models. Times in seconds; None means forever."""

    budget_bytes: int
    load_wait: float = 60.0
    keep_alive: Callable[[ServedModel], float | None] = lambda _model: None
    pinned: Callable[[ServedModel], bool] = lambda _model: False
    estimate: Callable[[ServedModel], int] = lambda _model: 0
    """Returns the bytes that a model will take, before it is loaded; called in a thread."""
    measure: Callable[[Engine], int | None] = lambda _engine: None
    """Returns the bytes that a loaded model takes."""


class Lease:
    """A request's hold on a loaded model."""

    def __init__(self, pool: ModelPool, slot: Slot, engine: Engine) -> None:
        self._pool = pool
        self._slot = slot
        self.engine = engine

    @property
    def is_recalled(self) -> bool:
        """Whether it should be given back soon: another model needs the memory, or the daemon is paused."""
        return self._slot.state == "unloading" or self._pool.paused

    def release(self) -> None:
        """End the hold. The texts that were submitted hold it on their own."""
        self._pool.release(self._slot)

    def submit(
        self, texts: Sequence[Text], priority: Priority, *, isolated: bool = False, outputs: tuple[Output, ...] = DENSE
    ) -> list[asyncio.Future[Row]]:
        """Queue texts; each keeps the model loaded until its row has come, even if its request is gone by then."""
        futures = self.engine.submit(texts, priority, isolated=isolated, outputs=outputs)
        for future in futures:
            self._slot.leases += 1
            future.add_done_callback(self._release_text)
        return futures

    def _release_text(self, _future: asyncio.Future[Row]) -> None:
        self._pool.release(self._slot)


class ModelPool:
    """Loads and unloads models. Everything runs on one event loop."""

    def __init__(self, make_engine: Callable[[ServedModel], Engine], rules: PoolRules) -> None:
        """Load nothing yet.

        make_engine: checks a model's file and returns its engine; called in a thread; raises EdgeEmbedError.
        """
        self._make_engine = make_engine
        self._rules = rules
        self._slots: dict[tuple[str, str], Slot] = {}
        self._unloading: set[Slot] = set()
        self._memory_lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._closed = False
        self.loads: Counter[str] = Counter()
        """Loads by name and type of the model; `unloads` and `failures` likewise."""
        self.unloads: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.paused = False
        """Leases are refused, so that nothing new is computed; cached texts are still answered."""

    @property
    def budget_bytes(self) -> int:
        return self._rules.budget_bytes

    @property
    def slots(self) -> list[Slot]:
        """Models that are loaded, loading, failed or being unloaded."""
        self._measure()
        return [*self._slots.values(), *self._unloading]

    @property
    def used_bytes(self) -> int:
        """Memory that loaded models take."""
        return sum(slot.memory_bytes for slot in self.slots)

    def slot_of(self, model: ServedModel) -> Slot | None:
        """Return a model's slot; None if it has none."""
        return self._slots.get(model.key)

    @contextlib.asynccontextmanager
    async def lease(self, model: ServedModel) -> AsyncIterator[Lease]:
        """Hold a model as `take` does, until the end of the context."""
        lease = await self.take(model)
        try:
            yield lease
        finally:
            lease.release()

    async def take(self, model: ServedModel) -> Lease:
        """Hold a model until `Lease.release`; it is loaded first if necessary.

        Raises ModelLoadingError when it is not ready in time, EngineUnavailableError with the reason when it cannot load.
        """
        if self.paused:
            raise EngineUnavailableError(
                "edgeembed is paused; resume it in the tray menu or with POST /v1/admin/resume", retry_after=PAUSED_SECONDS
            )
        slot = self._slot(model)
        slot.leases += 1
        slot.stop_timer()
        try:
            return Lease(self, slot, slot.engine if slot.state == "ready" and slot.engine else await self._loaded(slot))
        except BaseException:  # cancellation included
            self.release(slot)
            raise

    async def load(self, model: ServedModel) -> Engine:
        """Load a model, without a time limit, and return its engine. Raises EngineUnavailableError."""
        return await asyncio.shield(self._slot(model).outcome)

    def release(self, slot: Slot) -> None:
        """Release a lease."""
        slot.leases -= 1
        slot.note_use()
        if slot.leases:
            return
        self._changed.set()  # an idle model can make room
        if slot in self._unloading:
            self._close_soon(slot)
        else:
            self._start_keep_alive(slot)

    def keep(self, model: ServedModel, seconds: float | None) -> None:
        """Set how long a loaded model stays after its last use, as a client asks; None means forever.

        A model that the settings keep forever is only unloaded at once (0), which somebody asks for who needs its memory:
        otherwise the last request of a client that sends a time with each would unload what others rely on. A pinned model
        stays.
        """
        slot = self._slots.get(model.key)
        if slot is not None and (seconds == 0 or self._rules.keep_alive(model) is not None):
            self._keep(slot, seconds)

    def keep_by_rules(self, model: ServedModel) -> None:
        """Set how long a loaded model stays as the rules have it, which depends on whether it is the default one."""
        if (slot := self._slots.get(model.key)) is not None:
            self._keep(slot, self._rules.keep_alive(model))

    def _keep(self, slot: Slot, seconds: float | None) -> None:
        if slot.pinned:
            return
        slot.keep_alive = seconds
        slot.stop_timer()
        if not slot.leases:
            self._start_keep_alive(slot)

    async def unload(self, model: ServedModel) -> None:
        """Unload a model when it has finished its texts, or forget that it failed to load; do nothing in other states."""
        slot = self._slots.get(model.key)
        if slot is not None and slot.state == "failed":
            del self._slots[model.key]
        elif slot is not None and slot.state == "ready":
            self._retire(slot, "by request")
            while slot in self._unloading:
                await self._wait_for_change()

    async def close(self) -> None:
        """Unload everything at once."""
        self._closed = True
        slots = [*self._slots.values(), *self._unloading]
        for slot in slots:
            slot.stop_timer()
            if slot.task and slot.state == "loading":
                slot.task.cancel()
        await asyncio.gather(*(slot.task for slot in slots if slot.task), return_exceptions=True)
        await asyncio.gather(*(slot.engine.close() for slot in slots if slot.engine))
        self._slots.clear()
        self._unloading.clear()

    # --- loading -------------------------------------------------------------------------------------------------------

    def _slot(self, model: ServedModel) -> Slot:
        """Return the model's slot, a new one if there is none that can serve. Raises EngineUnavailableError."""
        slot = self._slots.get(model.key)
        if slot is not None and slot.state == "ready" and slot.engine and slot.engine.is_over:
            reason = slot.engine.status.reason or "the engine stopped"
            self._fail(slot, EngineUnavailableError(f"model {model.name!r} cannot be served: {reason}"))
            slot.task = asyncio.create_task(slot.engine.close())
        if slot is not None and slot.state == "failed":
            waited = time.monotonic() - slot.failed_at
            if waited < FAILURE_SECONDS:
                assert slot.error is not None
                raise EngineUnavailableError(slot.error.message, retry_after=math.ceil(FAILURE_SECONDS - waited))
            slot = None
        if slot is None:
            if self._closed:
                raise EngineUnavailableError("the daemon is stopping")
            slot = Slot(
                model, self._rules.keep_alive(model), self._rules.pinned(model), asyncio.get_running_loop().create_future()
            )
            slot.outcome.add_done_callback(_retrieve)
            self._slots[model.key] = slot
            slot.task = asyncio.create_task(self._load(slot), name=f"load {model.spec}")
        return slot

    async def _loaded(self, slot: Slot) -> Engine:
        try:
            async with asyncio.timeout(self._rules.load_wait):
                return await asyncio.shield(slot.outcome)
        except TimeoutError:
            took = time.monotonic() - slot.began_at
            raise ModelLoadingError(
                f"model {slot.model.name!r} is still loading after {took:.0f} s; try again soon",
                retry_after=RETRY_SECONDS,
            ) from None
        except EngineUnavailableError as error:
            raise EngineUnavailableError(error.message, retry_after=FAILURE_SECONDS) from error

    async def _load(self, slot: Slot) -> None:
        model = slot.model
        try:
            while any(other.model.key == model.key for other in self._unloading):
                await self._wait_for_change()
            await self._make_room(slot)
            began = time.monotonic()
            engine = slot.engine = await asyncio.to_thread(self._make_engine, model)
            await engine.start()
            slot.memory_bytes = self._rules.measure(engine) or slot.memory_bytes
            slot.state = "ready"
            slot.load_seconds = time.monotonic() - slot.began_at
            slot.outcome.set_result(engine)
            self.loads[model.spec] += 1
            log.info("loaded %s in %.1f s", model.spec, time.monotonic() - began)
            self._shrink(slot)
        except EdgeEmbedError as error:
            await self._give_up(slot, error)
        except asyncio.CancelledError:
            await self._give_up(slot, EngineUnavailableError("the daemon is stopping"))
            raise
        except Exception as error:  # a bug must not leave its waiters waiting
            log.exception("unexpected error while loading %s", model.spec)
            await self._give_up(slot, EngineUnavailableError(f"internal error: {describe_error(error)}"))
        finally:
            self._changed.set()
            # A model that was only preloaded is idle from now on.
            if slot.state == "ready" and not slot.leases:
                slot.leases += 1
                self.release(slot)

    async def _give_up(self, slot: Slot, error: EdgeEmbedError) -> None:
        message = f"model {slot.model.name!r} cannot be served: {error.message}"
        failure = EngineUnavailableError(message)
        engine = slot.engine
        self._fail(slot, failure)
        try:
            if engine is not None:
                await engine.close()
        except Exception:
            log.exception("unexpected error while closing %s", slot.model.spec)
        finally:  # nobody may wait for the model any more
            if not slot.outcome.done():
                slot.outcome.set_exception(failure)
            if not self._closed:  # otherwise it was interrupted, which is no fault
                log.error("%s", message)

    def _fail(self, slot: Slot, error: EdgeEmbedError) -> None:
        slot.state, slot.error, slot.failed_at, slot.memory_bytes = "failed", error, time.monotonic(), 0
        self.failures[slot.model.spec] += 1
        self._changed.set()

    # --- memory ---------------------------------------------------------------------------------------------------------

    async def _make_room(self, slot: Slot) -> None:
        """Wait until the model fits the budget, and unload others for it. Raises EngineUnavailableError if it never can."""
        needed = await asyncio.to_thread(self._rules.estimate, slot.model)
        async with self._memory_lock:  # one at a time: no other load may take the memory that this one frees
            while True:
                self._measure()
                others = [other for other in (*self._slots.values(), *self._unloading) if other is not slot]
                pinned = sum(other.memory_bytes for other in others if other.pinned)
                if needed + pinned > self._rules.budget_bytes:
                    raise EngineUnavailableError(self._does_not_fit(slot.model, needed, pinned))
                staying = sum(other.memory_bytes for other in others if other not in self._unloading)
                going = sum(other.memory_bytes for other in self._unloading)
                if needed + staying + going <= self._rules.budget_bytes:
                    slot.memory_bytes = needed
                    return
                if needed + staying <= self._rules.budget_bytes:
                    await self._wait_for_change()  # models that are being unloaded free enough
                    continue
                movable = [other for other in others if other.is_movable]
                idle = [other for other in movable if not other.leases]
                # A busy one drains; otherwise a model under steady load would keep every other one out.
                if victims := idle or movable:
                    self._retire(min(victims, key=lambda other: other.used), f"{slot.model.spec} needs its memory")
                await self._wait_for_change()

    def _does_not_fit(self, model: ServedModel, needed: int, pinned: int) -> str:
        words = (
            f"it needs about {needed / 1e9:.1f} GB; the budget for loaded models is {self._rules.budget_bytes / 1e9:.1f} GB"
        )
        if pinned:
            words += f", of which pinned models take {pinned / 1e9:.1f} GB"
        return f"{words}. Use a smaller type of this model, or raise memory_budget_mib"

    def _shrink(self, newest: Slot) -> None:
        """Unload idle models if the newest one takes more memory than estimated."""
        while self.used_bytes > self._rules.budget_bytes:
            idle = [slot for slot in self._slots.values() if slot is not newest and slot.is_movable and not slot.leases]
            if not idle:
                log.warning("loaded models take %.1f GB, which is over the budget", self.used_bytes / 1e9)
                return
            victim = min(idle, key=lambda slot: slot.used)
            self._retire(victim, f"{newest.model.spec} takes more memory than estimated")
            victim.memory_bytes = 0

    def _measure(self) -> None:
        for slot in (*self._slots.values(), *self._unloading):
            if slot.engine is not None and slot.state in ("ready", "unloading"):
                slot.memory_bytes = self._rules.measure(slot.engine) or slot.memory_bytes

    # --- unloading --------------------------------------------------------------------------------------------------------

    def _start_keep_alive(self, slot: Slot) -> None:
        """Start the keep-alive timer of an idle model."""
        if slot.is_movable and slot.keep_alive is not None and not self._closed:
            slot.timer = asyncio.get_running_loop().call_later(slot.keep_alive, self._expire, slot)

    def _expire(self, slot: Slot) -> None:
        slot.timer = None
        if not slot.leases and self._slots.get(slot.model.key) is slot:
            self._retire(slot, f"idle for {slot.keep_alive:g} s")

    def _retire(self, slot: Slot, why: str) -> None:
        """Take no more requests; unload when the last lease is given back."""
        log.info("unloading %s: %s", slot.model.spec, why)
        slot.state = "unloading"
        self.unloads[slot.model.spec] += 1
        del self._slots[slot.model.key]
        self._unloading.add(slot)
        slot.stop_timer()
        if not slot.leases:
            self._close_soon(slot)

    def _close_soon(self, slot: Slot) -> None:
        slot.task = asyncio.create_task(self._close_slot(slot), name=f"unload {slot.model.spec}")

    async def _close_slot(self, slot: Slot) -> None:
        try:
            assert slot.engine is not None
            await slot.engine.close()
        finally:
            self._unloading.discard(slot)
            self._changed.set()

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _retrieve(outcome: asyncio.Future[Engine]) -> None:
    """Mark an exception as retrieved: nobody may be waiting for it."""
    if not outcome.cancelled():
        outcome.exception()
