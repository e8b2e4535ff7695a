"""The models that are loaded: on first use, for as long as they are used, within a memory budget.

A model lives in a slot. Requests hold a lease on it, and so does every text until its row has come; a slot without leases is
idle, and leaves when its keep-alive ends or when another model needs its memory. When only busy models could make room, the
least recently used one drains: it finishes what it has, and requests that come for it meanwhile wait for it to load anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgeembed.engine.interface import Engine, Priority, Row, Text
from edgeembed.errors import EdgeEmbedError, EngineUnavailableError, ModelLoadingError
from edgeembed.models.registry import ServedModel

log = logging.getLogger(__name__)

FAILURE_SECONDS = 10.0
"""A model that failed to load is not tried again for this long; requests get the reason at once."""
PAUSED_SECONDS = 30.0
"""After which clients are asked to come again while the daemon is paused."""
RETRY_SECONDS = 5.0

State = Literal["loading", "ready", "failed", "unloading"]


@dataclass(frozen=True, kw_only=True)
class PoolRules:
    """What the settings say about loaded models. Times are in seconds; None is for ever."""

    budget_bytes: int
    load_wait: float = 60.0
    keep_alive: Callable[[ServedModel], float | None] = lambda _model: None
    pinned: Callable[[ServedModel], bool] = lambda _model: False
    estimate: Callable[[ServedModel], int] = lambda _model: 0
    """Bytes that a model takes, before it is loaded; called in a thread."""
    measure: Callable[[Engine], int | None] = lambda _engine: None
    """Bytes that a loaded model takes."""


_ages = itertools.count()


@dataclass(eq=False)
class Slot:
    """One model on its way in, loaded, or on its way out."""

    model: ServedModel
    keep_alive: float | None
    pinned: bool
    outcome: asyncio.Future[Engine]
    state: State = "loading"
    engine: Engine | None = None
    error: EdgeEmbedError | None = None
    failed_at: float = 0.0
    memory_bytes: int = 0
    """0 until there is room for it."""
    leases: int = 0
    used: int = field(default_factory=lambda: next(_ages))
    """Grows with each use: the least one was used least recently."""
    used_at: float = field(default_factory=time.monotonic)
    began_at: float = field(default_factory=time.monotonic)
    load_seconds: float = 0.0
    """How long loading took, once it is ready."""
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None

    @property
    def reason(self) -> str | None:
        """Why it is not ready."""
        if self.error is not None:
            return self.error.message
        return self.engine.status.reason if self.engine else None


class Lease:
    """A request's hold on a loaded model."""

    def __init__(self, pool: ModelPool, slot: Slot, engine: Engine) -> None:
        self._pool = pool
        self._slot = slot
        self.engine = engine

    def submit(self, texts: Sequence[Text], priority: Priority, *, isolated: bool = False) -> list[asyncio.Future[Row]]:
        """Queue texts; each keeps the model loaded until its row has come, whoever waits for it by then."""
        futures = self.engine.submit(texts, priority, isolated=isolated)
        for future in futures:
            self._slot.leases += 1
            future.add_done_callback(lambda _future: self._pool.release(self._slot))
        return futures


class ModelPool:
    """Loads and unloads models. Everything runs on one event loop."""

    def __init__(self, make_engine: Callable[[ServedModel], Engine], rules: PoolRules) -> None:
        """Prepare; nothing is loaded yet.

        make_engine: checks the model's file and makes its engine, in a thread; raises EdgeEmbedError.
        """
        self._make_engine = make_engine
        self._rules = rules
        self._slots: dict[tuple[str, str], Slot] = {}
        self._leaving: set[Slot] = set()
        self._admission = asyncio.Lock()
        self._changed = asyncio.Event()
        self._closed = False
        self.loads: Counter[str] = Counter()
        """How often each model, by name and type, was loaded; in the same way `unloads` and `failures`."""
        self.unloads: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.paused = False
        """Requests get no model, so that nothing new is computed; what the cache has is answered still."""

    @property
    def budget_bytes(self) -> int:
        return self._rules.budget_bytes

    @property
    def slots(self) -> list[Slot]:
        """What is loaded, loading, failed or leaving."""
        self._measure()
        return [*self._slots.values(), *self._leaving]

    @property
    def used_bytes(self) -> int:
        """Memory that loaded models take."""
        return sum(slot.memory_bytes for slot in self.slots)

    def slot_of(self, model: ServedModel) -> Slot | None:
        """Give a model's slot; None when it is not loaded."""
        return self._slots.get(model.key)

    @contextlib.asynccontextmanager
    async def lease(self, model: ServedModel) -> AsyncIterator[Lease]:
        """Hold a model, loading it first where needed.

        Raises ModelLoadingError when it is not ready in time, EngineUnavailableError with the reason when it cannot load.
        """
        if self.paused:
            raise EngineUnavailableError("edgeembed is paused; its tray icon's menu resumes it", retry_after=PAUSED_SECONDS)
        slot = self._slot(model)
        slot.leases += 1
        if slot.timer is not None:
            slot.timer.cancel()
            slot.timer = None
        try:
            yield Lease(self, slot, slot.engine if slot.state == "ready" and slot.engine else await self._loaded(slot))
        finally:
            self.release(slot)

    async def load(self, model: ServedModel) -> Engine:
        """Load a model, however long that takes, and give its engine. Raises EngineUnavailableError."""
        return await asyncio.shield(self._slot(model).outcome)

    def release(self, slot: Slot) -> None:
        """Give a lease back."""
        slot.leases -= 1
        slot.used, slot.used_at = next(_ages), time.monotonic()
        if slot.leases:
            return
        self._changed.set()  # an idle model can make room
        if slot in self._leaving:
            self._close_soon(slot)
        else:
            self._wind(slot)

    def keep(self, model: ServedModel, seconds: float | None) -> None:
        """Let a loaded model stay so long after its last use, as a client asks; None is for ever.

        What the settings keep for ever stays: one client's wish must not cost another one its model.
        """
        slot = self._slots.get(model.key)
        if slot is None or slot.pinned or self._rules.keep_alive(model) is None:
            return
        slot.keep_alive = seconds
        if slot.timer is not None:
            slot.timer.cancel()
            slot.timer = None
        if not slot.leases:
            self._wind(slot)

    async def unload(self, model: ServedModel) -> None:
        """Unload a model once it has finished what it has; nothing happens when it is not loaded."""
        slot = self._slots.get(model.key)
        if slot is not None and slot.state == "ready":
            self._retire(slot, "asked to")
            while slot in self._leaving:
                await self._wait_for_change()

    async def close(self) -> None:
        """Unload everything at once."""
        self._closed = True
        slots = [*self._slots.values(), *self._leaving]
        for slot in slots:
            if slot.timer:
                slot.timer.cancel()
            if slot.task and slot.state == "loading":
                slot.task.cancel()
        await asyncio.gather(*(slot.task for slot in slots if slot.task), return_exceptions=True)
        await asyncio.gather(*(slot.engine.close() for slot in slots if slot.engine))
        self._slots.clear()
        self._leaving.clear()

    # --- coming -------------------------------------------------------------------------------------------------------

    def _slot(self, model: ServedModel) -> Slot:
        """Give the model's slot, a new one where there is none that could serve. Raises EngineUnavailableError."""
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
                f"model {slot.model.name!r} is still loading, for {took:.0f} s now; ask again soon",
                retry_after=RETRY_SECONDS,
            ) from None
        except EngineUnavailableError as error:
            raise EngineUnavailableError(error.message, retry_after=FAILURE_SECONDS) from error

    async def _load(self, slot: Slot) -> None:
        model = slot.model
        try:
            while any(other.model.key == model.key for other in self._leaving):
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
            log.info("%s is loaded, %.1f s", model.spec, time.monotonic() - began)
            self._shrink(slot)
        except EdgeEmbedError as error:
            await self._give_up(slot, error)
        except asyncio.CancelledError:
            await self._give_up(slot, EngineUnavailableError("the daemon is stopping"))
            raise
        except Exception as error:  # its waiters must hear of a bug too
            log.exception("loading %s failed for a reason that nobody foresaw", model.spec)
            await self._give_up(slot, EngineUnavailableError(f"internal error: {error!r}"))
        finally:
            self._changed.set()
            # What was only preloaded is idle from now on.
            if slot.state == "ready" and not slot.leases:
                slot.leases += 1
                self.release(slot)

    async def _give_up(self, slot: Slot, error: EdgeEmbedError) -> None:
        message = f"model {slot.model.name!r} cannot be served: {error.message}"
        failure = EngineUnavailableError(message)
        engine = slot.engine
        self._fail(slot, failure)
        if engine is not None:
            await engine.close()
        if not slot.outcome.done():
            slot.outcome.set_exception(failure)
        log.error("%s", message)

    def _fail(self, slot: Slot, error: EdgeEmbedError) -> None:
        slot.state, slot.error, slot.failed_at, slot.memory_bytes = "failed", error, time.monotonic(), 0
        self.failures[slot.model.spec] += 1
        self._changed.set()

    # --- room ---------------------------------------------------------------------------------------------------------

    async def _make_room(self, slot: Slot) -> None:
        """Wait until the model fits the budget, sending others away. Raises EngineUnavailableError when it never can."""
        needed = await asyncio.to_thread(self._rules.estimate, slot.model)
        async with self._admission:  # one after the other: what one frees, the next one must not take
            while True:
                self._measure()
                others = [other for other in (*self._slots.values(), *self._leaving) if other is not slot]
                pinned = sum(other.memory_bytes for other in others if other.pinned)
                if needed + pinned > self._rules.budget_bytes:
                    raise EngineUnavailableError(self._does_not_fit(slot.model, needed, pinned))
                staying = sum(other.memory_bytes for other in others if other not in self._leaving)
                going = sum(other.memory_bytes for other in self._leaving)
                if needed + staying + going <= self._rules.budget_bytes:
                    slot.memory_bytes = needed
                    return
                if needed + staying <= self._rules.budget_bytes:
                    await self._wait_for_change()  # those that are leaving make the room
                    continue
                movable = [other for other in others if other.state == "ready" and not other.pinned]
                idle = [other for other in movable if not other.leases]
                # A busy one drains, or a model under steady load would keep every other one out.
                if victims := idle or movable:
                    self._retire(min(victims, key=lambda other: other.used), f"{slot.model.spec} needs its memory")
                await self._wait_for_change()

    def _does_not_fit(self, model: ServedModel, needed: int, pinned: int) -> str:
        words = f"it takes about {needed / 1e9:.1f} GB, and loaded models may take {self._rules.budget_bytes / 1e9:.1f} GB"
        if pinned:
            words += f", of which pinned ones hold {pinned / 1e9:.1f} GB"
        return f"{words}; a smaller type of it may fit, or raise memory_budget_mib"

    def _shrink(self, newest: Slot) -> None:
        """Send idle models away when the newest one turned out larger than it was thought to be."""
        while self.used_bytes > self._rules.budget_bytes:
            idle = [
                slot
                for slot in self._slots.values()
                if slot is not newest and slot.state == "ready" and not slot.leases and not slot.pinned
            ]
            if not idle:
                log.warning("loaded models take %.1f GB, more than the budget", self.used_bytes / 1e9)
                return
            victim = min(idle, key=lambda slot: slot.used)
            self._retire(victim, f"{newest.model.spec} turned out larger than expected")
            victim.memory_bytes = 0

    def _measure(self) -> None:
        for slot in (*self._slots.values(), *self._leaving):
            if slot.engine is not None and slot.state in ("ready", "unloading"):
                slot.memory_bytes = self._rules.measure(slot.engine) or slot.memory_bytes

    # --- going --------------------------------------------------------------------------------------------------------

    def _wind(self, slot: Slot) -> None:
        """Start the timer of an idle model."""
        if slot.state == "ready" and not slot.pinned and slot.keep_alive is not None and not self._closed:
            slot.timer = asyncio.get_running_loop().call_later(slot.keep_alive, self._expire, slot)

    def _expire(self, slot: Slot) -> None:
        slot.timer = None
        if not slot.leases and self._slots.get(slot.model.key) is slot:
            self._retire(slot, f"idle for {slot.keep_alive:g} s")

    def _retire(self, slot: Slot, why: str) -> None:
        """Take no more requests; end when the last lease is given back."""
        log.info("%s is unloaded: %s", slot.model.spec, why)
        slot.state = "unloading"
        self.unloads[slot.model.spec] += 1
        del self._slots[slot.model.key]
        self._leaving.add(slot)
        if slot.timer:
            slot.timer.cancel()
        if not slot.leases:
            self._close_soon(slot)

    def _close_soon(self, slot: Slot) -> None:
        slot.task = asyncio.create_task(self._close_slot(slot), name=f"unload {slot.model.spec}")

    async def _close_slot(self, slot: Slot) -> None:
        try:
            assert slot.engine is not None
            await slot.engine.close()
        finally:
            self._leaving.discard(slot)
            self._changed.set()

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _retrieve(outcome: asyncio.Future[Engine]) -> None:
    """Mark a failure as seen: whoever waits for it is told, and there may be nobody."""
    if not outcome.cancelled():
        outcome.exception()
