"""Engines of local models, made from the settings: execution modes, worker options, and what autotuning found."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeembed.common.files import FileIdentity
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.engine.execution_modes import GPU_FULL, ExecutionMode, cpu_modes
from edgeembed.engine.gpu.placement import Gpus, for_card
from edgeembed.engine.interface import ModelInfo, Task
from edgeembed.engine.machine import usable_threads
from edgeembed.engine.supervisor.fallback_policy import FallbackMemory, FallbackPolicy
from edgeembed.engine.supervisor.worker_engine import WorkerEngine, WorkerTimeouts
from edgeembed.engine.worker_options import MetadataValue, WorkerOptions
from edgeembed.errors import EngineUnavailableError, HubError, ModelReplacedError, WrongFrameError
from edgeembed.hub.gguf.frames import frame_of_foreign
from edgeembed.hub.gguf.weights import fits_cards, read_weights
from edgeembed.hub.store import InstalledModel, Store
from edgeembed.models.profiles import RunProfile, TuningResult, TuningResults, longest_text
from edgeembed.models.served_model import ServedModel

log = logging.getLogger(__name__)

EXECUTION_MODES_FILE = "execution-modes.json"


def make_gpus(settings: Settings) -> Gpus:
    """Return the graphics cards that the settings allow; none is looked for yet."""
    return Gpus(settings.device, settings.gpu_layers, settings.gpu_memory_utilization)


def make_engine(
    settings: Settings,
    paths: Paths,
    model: InstalledModel | ServedModel,
    profile: RunProfile | None = None,
    gpus: Gpus | None = None,
    on_replaced: Callable[[], None] = lambda: None,
) -> WorkerEngine:
    """Return the engine of a model; nothing starts yet. Raises HubError for a file that llama.cpp must not open.

    profile: how to run the model; by default what the settings say, then what `edgeembed tune` found. A model that was never
    tuned on this machine is autotuned when it loads, and the result is kept. gpus: shared by the models of a daemon.
    on_replaced: called, in any thread, when a worker is to start and the model's file has another content.
    """
    configurator = WorkerConfigurator(settings, paths, model, profile, gpus or make_gpus(settings), on_replaced)
    memory = FallbackMemory(paths.state / EXECUTION_MODES_FILE, model.digest)
    return WorkerEngine(
        configurator.options,
        FallbackPolicy(configurator.modes(), memory),
        timeouts=WorkerTimeouts(load=settings.load_timeout),
        on_ready=configurator.on_ready,
        require_room=configurator.require_room,
    )


class WorkerConfigurator:
    """Decides how the workers of one model run: which modes there are, the options in each, and the autotuned profile."""

    def __init__(
        self,
        settings: Settings,
        paths: Paths,
        model: InstalledModel | ServedModel,
        profile: RunProfile | None,
        gpus: Gpus,
        on_replaced: Callable[[], None] = lambda: None,
    ) -> None:
        """Check the model's file.

        Raises:
            HubError: llama.cpp must not open the file, or its bytes are not those that were installed.
            ModelReplacedError: It is not the file that was installed.
        """
        self._settings = settings
        self._model = model
        self._store = Store(paths)
        self._on_replaced = on_replaced
        self._failed_to_load = False
        """Whether the last worker that was started has not become ready."""
        self._require_same()
        self._store.require_sound(model)
        self._tuning_results = TuningResults(paths.state)
        tuned = self._tuning_results.find(model.digest)
        self._autotune = profile is None and (tuned is None or tuned.lacks_padding)
        self._profile = profile or chosen_profile(settings, paths, model.digest)
        self._gpus = gpus
        on_cards = gpus.possible and fits_cards(model.path)
        self._sizes = read_weights(model.path) if on_cards else None
        if gpus.possible and not on_cards:
            log.info("%s: llama.cpp lacks its architecture, so it is computed on the processor", model.path.name)
        self._key = str(model.path)
        self._metadata = dict(self._frame_mends())

    def _frame_mends(self) -> Mapping[str, MetadataValue]:
        """Log how the file's frame is mended, and return the metadata. Raises WrongFrameError if it cannot be mended."""
        frame = frame_of_foreign(self._model.path)
        if frame is None:
            return {}
        if frame.refusal:
            raise WrongFrameError(f"{self._model.path} would give wrong results: {frame.refusal}")
        for mend in frame.mended:
            log.warning("%s: mended: %s", self._model.path.name, mend)
        if frame.coarse:
            log.warning("%s: %s", self._model.path.name, frame.coarse)
        for what in frame.unchecked:
            log.info("%s: could not be checked: %s", self._model.path.name, what)
        return frame.mends

    def modes(self) -> tuple[ExecutionMode, ...]:
        """Return the execution modes of the model, fastest first."""
        on_cards = self._gpus.modes(self._sizes, self._card_options(GPU_FULL)) if self._sizes is not None else ()
        return (*on_cards, *cpu_modes())

    def options(self, mode: ExecutionMode) -> WorkerOptions:
        """Return the options of a worker in a mode. Raises ModeUnavailableError or EngineUnavailableError."""
        try:
            file = self._require_same()
            if self._failed_to_load and (damage := self._store.damage(self._model)):
                raise damage  # no other mode can help
        except HubError as error:
            raise EngineUnavailableError(error.message) from error
        self._failed_to_load = True
        return msgspec.structs.replace(self._options_in(mode), file=file)

    def _options_in(self, mode: ExecutionMode) -> WorkerOptions:
        if mode.gpu != "none" and self._sizes is not None:
            return self._gpus.place(mode, self._key, self._sizes, self._card_options(mode))
        self._gpus.unloaded(self._key)
        return self._cpu_options(mode)

    def _require_same(self) -> FileIdentity:
        """Return the identity of the model's file.

        Raises:
            ModelReplacedError: Its content has changed; its rows would be cached under this model's digest.
            HubError: It cannot be read, or its bytes are not those that were installed.
        """
        found = self._store.identify(self._model.path)
        if found.sha256 != self._model.digest:
            if damage := self._store.damage(self._model, read_again=False):
                raise damage
            self._on_replaced()
            raise ModelReplacedError(f"{self._model.path} was replaced by another file")
        return found.file

    def require_room(self, mode: ExecutionMode) -> None:
        """Raise ModeUnavailableError when the model cannot be loaded in a mode now."""
        if self._sizes is not None:
            self._gpus.require_room(mode, self._key, self._sizes, self._card_options(mode))

    def on_ready(self, info: ModelInfo) -> None:
        """Note that a worker has loaded the model, and keep what it found when it was autotuned."""
        self._failed_to_load = False
        self._gpus.loaded(self._key)
        found = info.autotune
        if found is None:
            return
        # What the settings say is not part of the result.
        initial = RunProfile(threads=usable_threads())
        kept = result = self._tuning_results.find(self._model.digest) or TuningResult(
            profile=initial, made_at=time.time(), thorough=False, measured=[]
        )
        if self._autotune and found.pad_from_tokens is not None:  # else there was no time to measure it: the next load does
            self._autotune = False
            self._profile = msgspec.structs.replace(self._profile, pad_from_tokens=found.pad_from_tokens)
            result = result.with_profile(pad_from_tokens=found.pad_from_tokens)
        if self._profile.left_types is None and found.left_types is not None:
            self._profile = msgspec.structs.replace(self._profile, left_types=found.left_types)
            result = result.with_profile(left_types=found.left_types)
        if result == kept:
            return
        try:
            self._tuning_results.keep(self._model.digest, result)
        except OSError as error:
            log.warning("cannot keep the tuning result of %s: %s", self._model.spec, error)

    def _card_options(self, mode: ExecutionMode) -> WorkerOptions:
        batch_tokens = self._settings.batch_tokens or self._profile.card_batch_tokens
        return for_card(self._cpu_options(mode), batch_tokens)

    def _cpu_options(self, mode: ExecutionMode) -> WorkerOptions:
        profile = self._profile
        return WorkerOptions(
            path=str(self._model.path),
            threads=profile.threads,
            context_tokens=longest_text(self._settings.context_tokens, self._model.max_seq_length),
            batch_tokens=profile.batch_tokens,
            bulk_lanes=profile.bulk_lanes,
            pad_from_tokens=profile.pad_from_tokens,
            autotune=self._autotune,
            mode=mode.name,
            extra_buffers=mode.extra_buffers,
            metadata=self._metadata,
            own_kernels=self._settings.kernels == "auto",
            left_types=profile.left_types,
            oldest_kernels=mode.oldest_kernels,
            sandbox=self._settings.sandbox == "auto",
            task=self._model.task,
            verbose=self._settings.log_level == "debug",
        )


@dataclass(frozen=True)
class PlannedModel:
    """A model that is not installed, as far as `card_options` needs it."""

    path: Path
    max_seq_length: int | None
    task: Task


def card_options(settings: Settings, model: InstalledModel | ServedModel | PlannedModel) -> WorkerOptions:
    """Return the options of a worker on a graphics card, as far as they decide about memory."""
    base = WorkerOptions(
        path=str(model.path),
        threads=1,
        context_tokens=longest_text(settings.context_tokens, model.max_seq_length),
        batch_tokens=settings.batch_tokens,
        mode=GPU_FULL.name,
        extra_buffers=False,
        task=model.task,
    )
    return for_card(base, settings.batch_tokens)


def chosen_profile(settings: Settings, paths: Paths, digest: str) -> RunProfile:
    """Return how a model runs: the settings override what was measured, and that overrides the defaults."""
    tuned = TuningResults(paths.state).find(digest)
    found = tuned.profile if tuned else RunProfile(threads=usable_threads())
    if settings.threads:
        found = msgspec.structs.replace(found, threads=settings.threads)
    if settings.batch_tokens:
        found = msgspec.structs.replace(found, batch_tokens=settings.batch_tokens)
    if tuned:
        log.info("%s: using the run profile of %s", digest[:12], time.strftime("%Y-%m-%d", time.localtime(tuned.made_at)))
    return found
