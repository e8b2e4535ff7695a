"""The models that can be served, and which of them a request's `model` means."""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgeembed.engine.interface import Task
from edgeembed.errors import EdgeEmbedError, ModelNotFoundError, RequestError, WrongTaskError, quoted
from edgeembed.hub.catalogue import DEFAULT_MODEL, Prompts
from edgeembed.hub.other_names import LATEST, Meaning, meaning
from edgeembed.models.hosted_names import owner_of
from edgeembed.models.pending import PendingModel
from edgeembed.models.prompts import InputType
from edgeembed.models.served_model import ServedModel

RESCAN_SECONDS = 2.0
"""Unknown names trigger a scan of the disk, at most once in this time."""

LONGEST_NAME = 4096
"""Characters; a path is a name, too. A longer one is not looked up."""
_LONGEST_HINTED = 100
"""Characters of a name for which a similar one is looked for, which takes time that grows with the square."""

DEFAULT_RERANKER = "qwen3-reranker-0.6b"
"""Suggested to users without a reranker."""

_PROMPT_SUFFIXES: dict[str, InputType] = {":query": "query", ":document": "document"}
_SUFFIXES: dict[str, InputType | None] = {**_PROMPT_SUFFIXES, LATEST: None}
COSINE = ":cosine"
"""Behind the name of an embedder: it is to score documents."""
_DOES = {
    "embed": "makes vectors; POST /v1/embeddings takes texts for it",
    "rerank": "scores documents against a query; POST /v1/rerank takes them",
    "classify": "finds the classes of texts; POST /classify takes them",
}


@dataclass(frozen=True)
class Target:
    """What a request's model name means."""

    model: ServedModel
    input_type: InputType | None = None
    """Chosen by the suffix of the name: `NAME:query`."""
    cosine: bool = False
    """Whether the suffix of an embedder's name, `NAME:cosine`, says that it may score documents."""

    @property
    def suffix(self) -> str:
        """What the name has behind that of the model."""
        return COSINE if self.cosine else f":{self.input_type}" if self.input_type else ""


@dataclass(frozen=True)
class ModelListing:
    """A name that requests may use."""

    name: str
    target: Target
    alias: bool = False


class ModelRegistry:
    """Names and models. Everything runs on one event loop; the disk is read in a thread."""

    def __init__(
        self,
        default: ServedModel | None,
        others: Sequence[ServedModel] = (),
        *,
        aliases: Mapping[str, str] | None = None,
        scan: Callable[[], Iterable[ServedModel]] = tuple,
        renew: Callable[[ServedModel], ServedModel] = lambda model: model,
        pending: PendingModel | None = None,
    ) -> None:
        """Take the initial models.

        default: serves requests that name no model; with `pending`, it is set later, by `set_default`.
        others: further models outside the store, or already found in it.
        aliases: other names; a value may be any name that a request may use, except another alias.
        scan: returns the models in the store; called in a thread.
        renew: returns the current state of a model whose file may have been replaced; called in a thread.
        """
        self.default = default
        self.pending = pending
        """Why there is no default model yet."""
        self._fixed = [model for model in (default, *others) if model is not None]
        self._aliases = {name.lower(): meant for name, meant in (aliases or {}).items()}
        self._scan = scan
        self._renew = renew
        self.version = 0
        """Increases whenever the meaning of a name may have changed."""
        self._stale = False
        self._scanned_at = float("-inf")
        self._scanning: asyncio.Task[None] | None = None
        self._found: list[ServedModel] = []
        self._by_name: dict[str, ServedModel] = {}
        self._index()

    @property
    def models(self) -> list[ServedModel]:
        """Every model, the default first."""
        return list({model.key: model for model in (*self._fixed, *self._found)}.values())

    async def resolve(
        self, name: str | None, task: Task, *, also: Task | None = None, input_type: InputType | None = None
    ) -> Target:
        """Return the model of a name; None and "" mean the default, or the only model for the task.

        also: a model for this task will do, too; without a name, if there is none for `task`.
        input_type: of the request; an alias NAME:INPUT_TYPE means the model for such texts, of models that have one for each
        task.

        Raises ModelNotFoundError with what to do, WrongTaskError for a model of another task, ModelLoadingError while the
        name may mean a default model that is not known yet.
        """
        if not name:
            if self.pending is not None:
                await self.pending.wait()
            if self._stale:
                await self.refresh()
            return Target(await self._unnamed(await self._task_of_unnamed(task, also)))
        if input_type and self._aliases:
            name = self._name_for(name, input_type)
        target = await self.look_up(name)
        if target is None:
            raise self.unknown(name, task)
        found = target.model.task
        scores = target.cosine or "multi" in target.model.outputs
        if found in (task, also) or (task == "rerank" and scores):
            return target
        cosine = task == "rerank" and target.model.computes("dense")
        instead = f". {quoted(name + COSINE)} ranks them by the cosine of its vectors" if cosine else ""
        raise WrongTaskError(f"{quoted(name)} {_DOES[found]}{instead}", param="model")

    async def task_of(self, name: str | None) -> Task:
        """Return the task of the model that a name means; of the default one without a name. "embed" if there is none."""
        if name:
            target = await self.look_up(name)
            return target.model.task if target else "embed"
        default = await self.default_model()
        return default.task if default else "embed"

    async def default_model(self) -> ServedModel | None:
        """Return the default model, when it is known. Raises ModelLoadingError if that takes too long."""
        if self.pending is not None:
            await self.pending.wait()
        return self.default

    def set_default(self, model: ServedModel) -> None:
        """Take the default model that was pending."""
        self.default, self._fixed = model, [model, *self._fixed]
        self._index()
        if self.pending is not None:
            self.pending.finish()
            self.pending = None

    def change_default(self, model: ServedModel) -> None:
        """Let requests that name no model get another one from now on. The default must be known."""
        assert self.pending is None
        before, others = self.default, self._fixed[1:] if self.default else self._fixed
        if before is not None and not any(found.path == before.path for found in self._found):
            others = [*others, before]  # a file that is served in place is known by nothing else
        self.default, self._fixed = model, [model, *others]
        self._index()

    async def look_up(self, name: str) -> Target | None:
        """Return what a name means, whatever the model's task is; an unknown one may trigger a scan of the disk.

        Raises ModelLoadingError while it may mean a default model that is not known yet.
        """
        if self._stale:
            await self.refresh()
        target = self._lookup(name)
        if target is None and self.pending is not None:
            await self.pending.wait()
            target = self._lookup(name)
        if target is None and time.monotonic() - self._scanned_at > RESCAN_SECONDS:
            await self.refresh()
            target = self._lookup(name)
        return target

    async def refresh(self) -> None:
        """Scan the disk; concurrent calls share one scan, unless a file changed after it began."""
        while True:
            if self._scanning is None or self._scanning.done():
                self._scanning = asyncio.create_task(self._rescan(), name="registry")
            await asyncio.shield(self._scanning)
            if not self._stale:
                return

    def mark_stale(self) -> None:
        """Record that a file has changed: the next request scans the disk first. May be called from any thread."""
        self._stale = True
        self.version += 1

    def find(self, name: str) -> Target | None:
        """Return the model of a name without scanning the disk, whatever its task is."""
        return self._lookup(name)

    def is_configured(self, model: ServedModel) -> bool:
        """Return whether the settings name a model: as the default, or to be loaded."""
        return any(model.path == fixed.path for fixed in self._fixed)

    def aliases_of(self, model: ServedModel) -> list[str]:
        """Return the aliases that mean a model."""
        return [alias for alias in self._aliases if (meant := self._lookup(alias)) and meant.model.key == model.key]

    def is_alias(self, name: str) -> bool:
        """Return whether a name is an alias."""
        return name.lower() in self._aliases

    def set_alias(self, alias: str, meant: str | None) -> None:
        """Add or change an alias, which a request may use at once; None removes it."""
        if meant is None:
            self._aliases.pop(alias.lower(), None)
        else:
            self._aliases[alias.lower()] = meant
        self.version += 1

    def listings(self) -> list[ModelListing]:
        """Return all names that a request may use: models, their types, prompts by suffix, aliases."""
        found: list[ModelListing] = []
        for model in self.models:
            target = Target(model)
            short = self._by_name[model.name.lower()] is model
            if short:
                found.append(ModelListing(model.name, target))
                if model.prompts and model.prompts != Prompts():
                    found += [
                        ModelListing(model.name + suffix, Target(model, kind)) for suffix, kind in _PROMPT_SUFFIXES.items()
                    ]
            if not short or not (model.type == "unknown" or model.name.endswith(f"-{model.type}")):
                found.append(ModelListing(model.spec, target))
        for alias in self._aliases:
            if (meant := self._lookup(alias)) is not None:
                found.append(ModelListing(alias, meant, alias=True))
        return found

    # --- names --------------------------------------------------------------------------------------------------------

    def _name_for(self, name: str, input_type: InputType) -> str:
        """Return the alias for texts of this kind, if there is one, else the name."""
        if len(name) > LONGEST_NAME:
            return name
        own = f"{name.lower().removesuffix(COSINE).removesuffix(LATEST)}:{input_type}"
        return own if own in self._aliases else name

    async def _task_of_unnamed(self, task: Task, also: Task | None) -> Task:
        """Return which of two tasks a request without a name means."""
        if also is None or await self._able(task):
            return task
        return also

    async def _unnamed(self, task: Task) -> ServedModel:
        if self.default is not None and self.default.does(task):
            return self.default
        able = await self._able(task)
        able = [model for model in able if model.task == task] or able
        if len({model.name for model in able}) == 1:
            return self._by_name[able[0].name.lower()]
        if able:
            names = ", ".join(sorted({model.name for model in able}))
            raise RequestError(f"'model' is missing, and several models can do this: {names}", param="model")
        if task == "classify":
            advice = "make one with `edgeembed convert`, of a checkpoint on the model hub"
            raise ModelNotFoundError(f"no classifier is installed; {advice}", param="model")
        what, suggested = ("reranker", DEFAULT_RERANKER) if task == "rerank" else ("embedding model", DEFAULT_MODEL)
        raise ModelNotFoundError(f"no {what} is installed; `edgeembed pull {suggested}` installs one", param="model")

    async def _able(self, task: Task) -> list[ServedModel]:
        """Return all models for a task. If none is known, the disk is scanned."""
        able = [model for model in self.models if model.does(task)]
        if able or time.monotonic() - self._scanned_at <= RESCAN_SECONDS:
            return able
        await self.refresh()
        return [model for model in self.models if model.does(task)]

    def _lookup(self, name: str) -> Target | None:
        """Return what a name means: an alias or the name of a model, with one suffix at most."""
        if len(name) > LONGEST_NAME:
            return None
        folded = name.lower()
        # An alias that ends in a suffix is not another alias with this suffix, even if its model is not known yet.
        return self._alias_or_model(folded) if folded in self._aliases else _with_suffix(self._alias_or_model, folded)

    def _alias_or_model(self, folded: str) -> Target | None:
        meant = self._aliases.get(folded)
        return self._model(folded) if meant is None else _with_suffix(self._model, meant.lower())

    def _model(self, folded: str) -> Target | None:
        model = self._by_name.get(folded)
        if model is None and (found := meaning(folded)) is not None:
            model = self._by_name.get(found.spec.lower())
        return Target(model) if model else None

    def unknown(self, name: str, task: Task) -> EdgeEmbedError:
        """Return the error for a name that means no model, with what to do about it."""
        if self.pending is not None:
            return self.pending.error()
        meant = self._aliases.get(name.lower(), name) if len(name) <= LONGEST_NAME else name
        alias = "" if meant == name else f" (an alias of {meant!r})"
        short = len(meant) <= _LONGEST_HINTED
        if short and (found := _in_catalogue(meant.lower())) is not None:
            same = "" if found.spec.lower() == meant.lower() or alias else f", {found.spec} here,"
            return ModelNotFoundError(
                f"the model {quoted(name)}{alias}{same} is not installed; run `edgeembed pull {found.spec}`; "
                "no restart is needed",
                param="model",
            )
        if short and (owner := owner_of(meant.lower())) is not None:
            return ModelNotFoundError(
                f"there is no model {quoted(name)}{alias} here; it is one of {owner}'s. To make its name an alias of a "
                f"model that you have, run `edgeembed config add aliases {meant.lower()}={self._suggested(task)}` and "
                "restart the daemon; the results are then that model's",
                param="model",
            )
        listed = [listing.name for listing in self.listings()]
        near = difflib.get_close_matches(meant.lower(), listed, n=1) if short else []
        hint = f" Did you mean {near[0]!r}?" if near else ""
        names = ", ".join(dict.fromkeys(model.name for model in self.models)) or "none"
        return ModelNotFoundError(
            f"there is no model {quoted(name)}{alias}.{hint} Installed: {names}. GET /v1/models lists all names",
            param="model",
        )

    def _suggested(self, task: Task) -> str:
        """Return the name of a model for a task: the default one, or another, or one that can be installed."""
        models = [model for model in self.models if model.task == task]
        return models[0].name if models else DEFAULT_RERANKER if task == "rerank" else DEFAULT_MODEL

    async def _rescan(self) -> None:
        self._stale = False
        before = self._fixed
        self._found, fixed = await asyncio.to_thread(lambda: (list(self._scan()), [*map(self._renew, before)]))
        if self._fixed is before:
            self._fixed = fixed
            if self.default is not None:
                self.default = fixed[0]
        else:  # another default model meanwhile
            self._stale = True
        self._scanned_at = time.monotonic()
        self._index()

    def _index(self) -> None:
        self.version += 1
        self._by_name = {}
        for model in self.models:
            # The first one gets a short name: the default, then the catalogue's preferred type (see `scan`).
            for name in (model.name, model.spec, model.path.name, str(model.path)):
                if name:
                    self._by_name.setdefault(name.lower(), model)
        for model in self.models:
            for name in model.other_names:
                self._by_name.setdefault(name.lower(), model)
                self._by_name.setdefault(f"{name}:{model.type}".lower(), model)


def _in_catalogue(folded: str) -> Meaning | None:
    """Return what a name means in the catalogue, without the suffix that chooses a prompt."""
    suffix = next((suffix for suffix in (*_PROMPT_SUFFIXES, COSINE) if folded.endswith(suffix)), "")
    return meaning(folded.removesuffix(suffix))


def _with_suffix(find: Callable[[str], Target | None], folded: str) -> Target | None:
    """Return what `find` has for a name, or for the name without its suffix."""
    if found := find(folded):
        return found
    for suffix, kind in _SUFFIXES.items():
        if folded.endswith(suffix) and (found := find(folded.removesuffix(suffix))):
            return Target(found.model, kind) if kind else found
    if folded.endswith(COSINE) and (found := find(folded.removesuffix(COSINE))) and found.model.task == "embed":
        return Target(found.model, cosine=True)
    return None
