"""The tools of the MCP server: what each does, and what an agent reads about it. The SDK speaks the protocol."""

from __future__ import annotations

import asyncio
import functools
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, ParamSpec, TypeVar

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import ToolAnnotations
from pydantic import Field

from edgeembed import __version__
from edgeembed.bulk.embedders import DaemonEmbedder, EmbedOptions, LocalEmbedder, open_embedder
from edgeembed.bulk.embedders import rerank as score
from edgeembed.common.retry import with_retries
from edgeembed.config.resolution import Resolved
from edgeembed.errors import ConfigError, EdgeEmbedError
from edgeembed.mcp.folder_index import FolderIndex, Passage, describe_indexes

INSTRUCTIONS = """Private semantic search over folders of this machine, vectors and relevance scores by a local model.
To find code or text by what it means, call index_folder once for a folder, then search_folder as often as needed: it looks
for changed files itself. Prefer a whole question or a description over single words."""
MOST_TEXTS = 256
MOST_FOUND = 100
MOST_SKIPPED = 20
"""Skipped files that are named in an answer."""

P = ParamSpec("P")
T = TypeVar("T")
Texts = Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS)]


@dataclass
class Embedded:
    """Vectors of length 1, in the texts' order."""

    model: str
    dimensions: int
    vectors: list[list[float]]


@dataclass
class Relevance:
    """The relevance of a document, from 0 to 1. index: its place among those that were given."""

    index: int
    score: float
    document: str


@dataclass
class Ranking:
    """Documents, the most relevant one first."""

    model: str
    results: list[Relevance]


@dataclass
class IndexReport:
    """What is in an index now, and what was done for it."""

    folder: str
    model: str
    files: int
    parts: int
    files_computed: int
    files_removed: int
    skipped: list[str]
    note: str


@dataclass
class Passages:
    """The parts of files that are nearest to a query, the best first."""

    folder: str
    model: str
    results: list[Passage]


@dataclass
class IndexedFolder:
    """An index that exists."""

    folder: str
    model: str
    files: int
    parts: int
    exists: bool = field(metadata={"description": "whether the folder is still there"})


class Machine:
    """What the tools share: the model of this process, if there is no daemon, and an index for each folder."""

    def __init__(self, resolved: Resolved, roots: tuple[Path, ...]) -> None:
        """roots: folders that may be searched, with all that is below them; empty for any."""
        self.resolved = resolved
        self.indexes = resolved.paths.state / "folders"
        self._roots = tuple(root.resolve() for root in roots)
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._local: LocalEmbedder | None = None
        self._busy: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def embedder(self) -> AsyncIterator[DaemonEmbedder | LocalEmbedder]:
        """Yield the embedder for a call: the running daemon, or a model that is loaded in this process and kept.

        The daemon is asked anew for its model: it may have been restarted with another one since the last call.
        """
        async with AsyncExitStack() as stack:
            async with self._opening:
                found: DaemonEmbedder | LocalEmbedder | None = self._local
                if found is None:
                    opened = open_embedder(self.resolved, EmbedOptions(self._named_model()), _say_nothing)
                    found = await stack.enter_async_context(opened)
                if isinstance(found, LocalEmbedder) and self._local is None:
                    self._local = found
                    self._stack.push_async_callback(stack.pop_all().aclose)
            yield found

    @asynccontextmanager
    async def index_of(self, folder: str) -> AsyncIterator[FolderIndex]:
        """Yield the index of a folder, for this call alone. Raises ConfigError for one that may not be searched."""
        path = self._folder(folder)
        async with self._busy[path]:
            yield FolderIndex(path, self.indexes)

    async def close(self) -> None:
        """End the worker, and close the connections."""
        await self._stack.aclose()

    def _named_model(self) -> str | None:
        """Return the model that this server was started with; without one, it is the daemon's own default."""
        given = self.resolved.origins["model"] in ("flag", "environment")
        return self.resolved.settings.model if given else None

    def _folder(self, folder: str) -> Path:
        path = Path(folder).expanduser()
        if not path.is_absolute():
            if len(self._roots) != 1:
                raise ConfigError(f"{folder!r} is not an absolute path; name the whole path of the folder")
            path = self._roots[0] / path
        path = path.resolve()
        if self._roots and not any(path == root or root in path.parents for root in self._roots):
            allowed = ", ".join(map(str, self._roots))
            raise ConfigError(f"{path} is outside of what this server may read: {allowed} (its option --root)")
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder")
        return path


def make_server(machine: Machine) -> MCPServer[None]:
    """Return the server with its tools."""

    @asynccontextmanager
    async def lifespan(_server: MCPServer[None]) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await machine.close()

    server: MCPServer[None] = MCPServer(
        "edgeembed",
        title="edgeembed",
        instructions=INSTRUCTIONS,
        version=__version__,
        lifespan=lifespan,
        log_level="WARNING",
    )
    _add_models(server, machine)
    _add_folders(server, machine)
    return server


async def serve_http(server: MCPServer[None], port: int) -> None:
    """Listen on this machine, for programs alone: the SDK's own rules let pages of any server on localhost in."""
    rules = TransportSecuritySettings(allowed_hosts=[f"127.0.0.1:{port}", f"localhost:{port}"], allowed_origins=[])
    await server.run_streamable_http_async(host="127.0.0.1", port=port, transport_security=rules)


def _with_reasons(tool: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Return a tool whose errors reach the agent with their message; the SDK sends those of no other exception."""

    @functools.wraps(tool)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await tool(*args, **kwargs)
        except EdgeEmbedError as error:
            raise ToolError(error.message) from error

    return call


def _add_models(server: MCPServer[None], machine: Machine) -> None:
    @server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
    @_with_reasons
    async def embed(
        texts: Texts,
        input_type: Annotated[Literal["query", "document"], Field(description="what they are in a search")] = "document",
    ) -> Embedded:
        """Return the vector of each text, by a model on this machine. For searching files, use search_folder instead."""
        async with machine.embedder() as opened:
            embedder = opened.reading_as(input_type)
            rows = (await with_retries(lambda: embedder.embed(texts))).dense
            return Embedded(embedder.info.model, embedder.info.dimensions, [[float(each) for each in row] for row in rows])

    @server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
    @_with_reasons
    async def rerank(
        query: str,
        documents: Texts,
        top: Annotated[int, Field(ge=1, description="how many to return")] = 10,
    ) -> Ranking:
        """Return the documents that are most relevant to a query, with a score from 0 to 1, the best first."""
        found = await score(machine.resolved, query, documents, None, _say_nothing)
        best = sorted(range(len(documents)), key=lambda index: -found.scores[index])[:top]
        return Ranking(found.model, [Relevance(index, found.scores[index], documents[index]) for index in best])


Folder = Annotated[str, Field(description="absolute path of a folder on this machine, such as the root of a repository")]


def _add_folders(server: MCPServer[None], machine: Machine) -> None:
    @server.tool(annotations=ToolAnnotations(idempotent_hint=True, destructive_hint=False, open_world_hint=False))
    @_with_reasons
    async def index_folder(folder: Folder, context: Context) -> IndexReport:
        """Index the text files of a folder for search_folder, or bring its index up to date.

        Only files whose contents changed are computed, so calling it again is cheap, also after an interruption. Left out
        are hidden files, those that Git ignores, links, and files of more than 1 MiB.
        """
        async with machine.index_of(folder) as index, machine.embedder() as embedder:
            return await _updated(index, embedder, context)

    @server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
    @_with_reasons
    async def search_folder(
        folder: Folder,
        query: Annotated[str, Field(description="what to look for: a question or a description, in any language")],
        context: Context,
        limit: Annotated[int, Field(ge=1, le=MOST_FOUND)] = 8,
        below: Annotated[str, Field(description="only this file or subfolder, relative to the folder")] = "",
        refresh: Annotated[bool, Field(description="look for changed files first")] = True,
    ) -> Passages:
        """Find the parts of a folder's files that are nearest in meaning to a query, with path, lines and text.

        The folder needs an index: call index_folder once before.
        """
        async with machine.index_of(folder) as index, machine.embedder() as embedder:
            if refresh and index.exists():
                await _updated(index, embedder, context)
            found = await index.search(embedder.reading_as("query"), query, limit, below)
            return Passages(str(index.folder), embedder.info.model, found)

    @server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
    @_with_reasons
    async def list_indexes() -> list[IndexedFolder]:
        """List the folders that have an index."""
        found = await asyncio.to_thread(lambda: list(describe_indexes(machine.indexes)))
        return [IndexedFolder(str(path), info.model, files, parts, path.is_dir()) for path, info, files, parts in found]

    @server.tool(annotations=ToolAnnotations(destructive_hint=True, idempotent_hint=True, open_world_hint=False))
    @_with_reasons
    async def forget_folder(folder: Folder) -> str:
        """Remove the index of a folder. The folder itself and its files stay."""
        async with machine.index_of(folder) as index:
            return f"removed the index of {index.folder}" if index.remove() else f"{index.folder} has no index"


async def _updated(index: FolderIndex, embedder: DaemonEmbedder | LocalEmbedder, context: Context) -> IndexReport:
    async def progress(done: int, total: int, path: str) -> None:
        await context.report_progress(done, total, path)

    found = await index.update(embedder.reading_as("document"), progress)
    skipped = [f"{each.path}: {each.reason}" for each in found.skipped[:MOST_SKIPPED]]
    if len(found.skipped) > MOST_SKIPPED:
        skipped.append(f"and {len(found.skipped) - MOST_SKIPPED} more")
    return IndexReport(
        folder=str(index.folder),
        model=embedder.info.model,
        files=found.files,
        parts=found.parts,
        files_computed=found.computed,
        files_removed=found.removed,
        skipped=skipped,
        note=f"the index was made anew: {found.rebuilt}" if found.rebuilt else "",
    )


def _say_nothing(_line: str) -> None:
    """Standard output belongs to the protocol."""
