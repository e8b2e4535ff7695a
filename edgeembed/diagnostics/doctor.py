"""The checks of `edgeembed doctor`: machine, folders, settings, model, execution modes, cache, running daemon."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from edgeembed import __version__
from edgeembed.cache.disk import FAULTS, DiskTier
from edgeembed.client import ask, daemon_url, read_health
from edgeembed.common.files import describe_os_error
from edgeembed.common.installation import find_installation
from edgeembed.common.status import Demotion
from edgeembed.config.paths import Paths
from edgeembed.config.resolution import Resolved, files_others_can_read
from edgeembed.engine.execution_modes import GPU_FULL, GPU_PARTIAL
from edgeembed.engine.interface import SandboxInfo
from edgeembed.engine.ipc.activity_table import ActivityTable
from edgeembed.engine.machine import build_fingerprint, usable_threads
from edgeembed.engine.supervisor.fallback_policy import FallbackMemory
from edgeembed.errors import EdgeEmbedError, HubError
from edgeembed.hub.gguf.frames import frame_of_foreign
from edgeembed.hub.install import find_installed
from edgeembed.hub.store import InstalledModel, Store
from edgeembed.runtime.engines import EXECUTION_MODES_FILE, make_engine, make_gpus
from edgeembed.runtime.service import CACHE_FOLDER

log = logging.getLogger(__name__)

REBUILD = (
    "rebuild llama.cpp with `uv sync --reinstall-package llama-cpp-python` in the source tree, which sets compiler flags "
    "that avoid a bug of GCC 12 on CPUs with AMX; then try the mode again: `edgeembed doctor --forget`"
)
_LEAST_FREE = 2**20
"""Bytes without which not even small files can be written."""
_FORGET = "`edgeembed doctor --forget`"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check."""

    subject: str
    verdict: Literal["ok", "note", "warning", "problem"]
    text: str
    advice: str | None = None


def examine(resolved: Resolved, *, forget: bool = False) -> Iterator[Finding]:
    """Run the checks and yield their findings, the slow ones last.

    forget: first forget which execution modes failed.
    """
    logging.getLogger("edgeembed").setLevel(logging.ERROR)  # worker messages are reported as findings
    yield _machine()
    yield from _graphics(resolved)
    yield from _folders(resolved.paths)
    yield from _settings(resolved)
    if resolved.settings.upstream:
        yield asyncio.run(_upstream(resolved))
    else:
        yield from _model(resolved, forget=forget)
    yield from _cache(resolved)
    yield asyncio.run(_daemon(resolved))


def _model(resolved: Resolved, *, forget: bool) -> Iterator[Finding]:
    model, damage = None, None
    try:
        if resolved.settings.model:
            model = find_installed(resolved.settings.model, paths=resolved.paths, settings=resolved.settings)
        damage = Store(resolved.paths).damage(model) if model else None
    except HubError as error:
        yield Finding(subject="model", verdict="problem", text=error.message)
        return
    if damage is not None:
        # It is not loaded: wrong vectors of a damaged file say nothing about llama.cpp.
        yield Finding(subject="model", verdict="problem", text=damage.what, advice=damage.advice)
    elif model is None:
        wanted = resolved.settings.model
        yield Finding(
            subject="model",
            verdict="note",
            text=f"{wanted} is not installed" if wanted else "no model is configured",
            advice=f"install it: edgeembed pull {wanted}" if wanted else "`edgeembed serve` chooses and downloads one",
        )
    else:
        yield Finding(subject="model", verdict="ok", text=f"{model.name} {model.type}, {model.path}")
        yield from _frame(model)
        yield from _policy(resolved, model, forget=forget)


def _frame(model: InstalledModel) -> Iterator[Finding]:
    """Yield what is mended in a file of another converter, and what could not be checked."""
    try:
        frame = frame_of_foreign(model.path)
    except HubError:
        return  # the engine's finding says why
    for mend in frame.mended if frame else ():
        yield Finding(
            subject="model", verdict="note", text=f"mended: {mend}", advice="nothing; a right file would not need it"
        )
    if frame and frame.coarse:
        yield Finding(subject="model", verdict="note", text=frame.coarse, advice="another file, with more bits")
    if frame and frame.unchecked:
        text = f"could not be checked, as the file has no canary rows: {'; '.join(frame.unchecked)}"
        advice = "compare some vectors with those of another program, or convert the checkpoint: edgeembed convert"
        yield Finding(subject="model", verdict="note", text=text, advice=advice)


async def _upstream(resolved: Resolved) -> Finding:
    """Embed the canary texts with the upstream server, and identify its model by their rows."""
    from edgeembed.runtime.upstream import make_remote
    from edgeembed.upstream.client import UpstreamClient, UpstreamError

    url = resolved.settings.upstream
    try:
        remote = await make_remote(resolved.settings, resolved.paths)
        began = time.monotonic()
        async with UpstreamClient(remote.options) as client:
            identity = remote.recognise(await remote.probe(client))
            fault = await remote.find_fault(client)
    except (UpstreamError, EdgeEmbedError) as error:
        return Finding(subject="upstream", verdict="problem", text=f"{url}: {error}")
    if fault:
        text = f"{url} returns rows that belong to other texts, as shown by {fault}; repair that server"
        return Finding(subject="upstream", verdict="problem", text=text)
    text = (
        f"{url} serves {remote.model} with {identity.dimensions} dimensions, identity {identity.digest[:12]}; "
        f"answered in {time.monotonic() - began:.1f} s"
    )
    advice = None if remote.entry else "the model is not in the catalogue, so input_type adds no prompt"
    return Finding(subject="upstream", verdict="ok", text=text, advice=advice)


def _machine() -> Finding:
    text = (
        f"edgeembed {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{usable_threads()} usable CPUs, llama-cpp-python {build_fingerprint()}"
    )
    return Finding(subject="machine", verdict="ok", text=text)


def _graphics(resolved: Resolved) -> Iterator[Finding]:
    gpus = make_gpus(resolved.settings)
    inventory = gpus.inventory(fresh=True)
    for device in inventory.gpus:
        memory = f", {device.memory_free / 2**30:.1f} of {device.memory_total / 2**30:.1f} GiB free"
        driver = f", driver {inventory.nvidia.driver}" if inventory.nvidia.driver else ""
        text = f"{device.name}: {device.description}{memory if device.memory_total else ''}{driver}"
        yield Finding(subject="GPU", verdict="ok", text=text)
    asked = resolved.settings.device not in ("auto", "cpu")
    for reason in gpus.why_none():
        yield Finding(
            subject="GPU",
            # A machine without a GPU is fine, unless the settings ask for one.
            verdict="warning" if asked or (inventory.nvidia.cards and reason.cause != "device_is_cpu") else "note",
            text=f"not used: {reason.text}",
            advice=reason.advice,
        )


def _folders(paths: Paths) -> Iterator[Finding]:
    for name, path in (("models", paths.models), ("cache", paths.cache), ("state", paths.state)):
        # os.path.exists, unlike Path.exists, is False below a folder that this user may not enter.
        existing = next(folder for folder in (path, *path.parents) if os.path.exists(folder))  # noqa: PTH110
        if not existing.is_dir():
            reason, advice = f"{existing} is not a folder", "remove the file"
        elif not os.access(existing, os.W_OK | os.X_OK):
            reason, advice = f"{existing} is not writable", "make the folder writable for this user"
        elif reason := _full(existing):
            advice = "free some space there"
        else:
            yield Finding(subject=f"folder {name}", verdict="ok", text=str(path))
            continue
        advice += ", or choose another folder with EDGEEMBED_HOME"
        yield Finding(subject=f"folder {name}", verdict="problem", text=reason, advice=advice)
    yield _shared_memory()


def _full(folder: Path) -> str:
    """Return what the disk of a folder has no more of; empty if there is enough of everything."""
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE:
        return f"the disk of {folder} is full: {free:,} bytes are free"
    # Windows has none, and file systems without a fixed number say 0 of 0.
    if hasattr(os, "statvfs") and (status := os.statvfs(folder)).f_files and not status.f_favail:
        return f"the disk of {folder} takes no more files: all {status.f_files:,} inodes are in use"
    return ""


def _shared_memory() -> Finding:
    """Create what a worker needs to start."""
    try:
        table = ActivityTable.create()
    except OSError as error:
        return Finding(subject="shared memory", verdict="problem", text=describe_os_error(error))
    table.close(remove=True)
    return Finding(subject="shared memory", verdict="ok", text=f"in {table.path.parent}" if table.path else "private")


def _settings(resolved: Resolved) -> Iterator[Finding]:
    changed = [f"{name} ({origin})" for name, origin in resolved.origins.items() if origin != "default"]
    text = f"{resolved.paths.config_file}: " + (", ".join(changed) if changed else "all defaults")
    yield Finding(subject="settings", verdict="ok", text=text)
    for file in files_others_can_read(resolved):
        text = f"{file} holds a secret, and other users of this machine can read it"
        yield Finding(subject="settings", verdict="warning", text=text, advice=f"chmod 600 {shlex.quote(str(file))}")


def _policy(resolved: Resolved, model: InstalledModel, *, forget: bool) -> Iterator[Finding]:
    memory = FallbackMemory(resolved.paths.state / EXECUTION_MODES_FILE, model.digest)
    if forget:
        memory.save([])
    for demotion in memory.load():
        yield Finding(
            subject=f"mode {demotion.mode}",
            verdict="warning",
            text=f"failed on {_date(demotion)}: {demotion.reason}",
            advice=_advice(demotion),
        )
    known = {(demotion.mode, demotion.at) for demotion in memory.load()}
    began = time.monotonic()
    try:
        engine = make_engine(resolved.settings, resolved.paths, model)
    except EdgeEmbedError as error:
        yield Finding(subject="engine", verdict="problem", text=f"cannot serve {model.name}: {error.message}")
        return

    async def load() -> str | None:
        try:
            await engine.start()
        except EdgeEmbedError as error:
            return error.message
        finally:
            await engine.close()
        return None

    reason = asyncio.run(load())
    for demotion in engine.status.demotions:
        if (demotion.mode, demotion.at) not in known:
            yield Finding(
                subject=f"mode {demotion.mode}",
                verdict="warning",
                text=f"failed now: {demotion.reason}",
                advice=_advice(demotion),
            )
    info = engine.info
    if reason or info is None:
        yield Finding(subject="engine", verdict="problem", text=f"cannot serve {model.name}: {reason}")
        return
    yield Finding(
        subject="engine",
        verdict="ok",
        text=f"canary texts are correct in mode {engine.status.mode}; loaded in {time.monotonic() - began:.1f} s; "
        f"{info.dimensions} dimensions, {info.pooling} pooling, texts up to {info.context_tokens} tokens; "
        + info.llama_cpp.replace(" = 1", "").replace(" |", ""),
    )
    yield _sandbox(info.sandbox)


def _sandbox(held: SandboxInfo) -> Finding:
    whole = bool(held.landlock and held.seccomp)
    return Finding(subject="sandbox", verdict="ok" if whole else "note", text=held.words)


def _rebuild() -> str:
    """Return advice for a failed mode; the llama.cpp of a package cannot be rebuilt in place."""
    installation = find_installation()
    if not installation.packaged:
        return REBUILD
    return (
        f"this llama.cpp comes with {installation.title}: install a newer version, or build from source, then try "
        "the mode again: `edgeembed doctor --forget`. Until then the next mode is used"
    )


def _cache(resolved: Resolved) -> Iterator[Finding]:
    settings = resolved.settings
    folder: Path = resolved.paths.cache / CACHE_FOLDER
    if not settings.cache or not settings.cache_disk_mib:
        yield Finding(subject="cache", verdict="note", text="disabled" if not settings.cache else "in memory only")
        return
    if not os.path.exists(folder):  # noqa: PTH110
        yield Finding(subject="cache", verdict="ok", text=f"{folder}: empty")
        return
    try:
        with contextlib.closing(DiskTier(folder, settings.cache_disk_mib * 2**20)) as tier:
            text = f"{folder}: {len(tier):,} vectors, {tier.size_bytes / 2**20:.1f} of {settings.cache_disk_mib} MiB"
        yield Finding(subject="cache", verdict="ok", text=text)
    except FAULTS as error:
        advice = "if the disk is not full, and the folder is writable for this user, remove the folder: it is built again"
        yield Finding(subject="cache", verdict="problem", text=f"cannot use {folder}: {error}", advice=advice)


async def _daemon(resolved: Resolved) -> Finding:
    url = f"{daemon_url(resolved.settings)}/health"
    reply = await ask(resolved.settings, "/health")
    if reply is None:
        return Finding(subject="daemon", verdict="note", text=f"not running at {url}", advice="start it: edgeembed serve")
    if not reply.ours:
        return Finding(
            subject="daemon", verdict="problem", text=f"another program answers at {url}", advice="choose another port"
        )
    if reply.status not in (200, 503):
        text = f"{url} answers with status {reply.status}: {reply.reason}"
        return Finding(subject="daemon", verdict="problem", text=text)
    try:
        health = read_health(reply)
    except EdgeEmbedError as error:
        return Finding(subject="daemon", verdict="problem", text=error.message)
    demotions = "".join(f"; mode {demotion.mode} failed: {demotion.reason}" for demotion in health.demotions)
    if health.reduction:
        demotions += f"; the worker is smaller by {health.reduction} of 3 steps, because workers died for want of memory"
    if health.status in ("ok", "degraded"):
        unlike = f"; vectors differ from earlier ones: {health.vectors}" if health.vectors else ""
        return Finding(
            subject="daemon",
            verdict="warning" if demotions or unlike else "ok",
            text=f"{url}: {health.status}, {health.model} in mode {health.mode}{demotions}{unlike}",
        )
    reason = health.reason or "no reason given"
    return Finding(subject="daemon", verdict="problem", text=f"{url}: {health.status}, {reason}{demotions}")


def _advice(demotion: Demotion) -> str:
    if demotion.cause == "refused":
        return "if the sandbox refused what the worker needs here, turn it off: `edgeembed config set sandbox off`"
    if demotion.mode in (GPU_FULL.name, GPU_PARTIAL.name):
        return "see `edgeembed devices`; a running daemon tries the GPU again by itself"
    if demotion.cause in ("out_of_memory", "killed"):
        return f"close other programs, or choose a smaller quantisation type; then try the mode again: {_FORGET}"
    # Another build helps against kernels that crash or compute wrong vectors, and not against a full disk.
    return _rebuild() if demotion.cause in ("crash", "hang", "wrong_vectors") else f"to try the mode again: {_FORGET}"


def _date(demotion: Demotion) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(demotion.at))
