"""`edgeembed search`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.completion import complete_file, complete_model
from edgeembed.cli.printing import to_stderr
from edgeembed.cli.settings import setting_options, split_flags
from edgeembed.common.log_content import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeembed.bulk.stores.interface import Found, Searchable

_SHOWN_CHARACTERS = 600


@dataclass(frozen=True, kw_only=True)
class SearchFlags:
    """The flags of the command, apart from those that are settings."""

    top: int
    where: tuple[str, ...]
    instruction: str | None
    rerank: str | None
    as_json: bool
    no_daemon: bool


@click.command()
@click.argument("out", metavar="OUT", shell_complete=complete_file)
@click.argument("query")
@click.option("-k", "--top", type=click.IntRange(min=1), default=10, show_default=True, help="How many rows to show.")
@click.option("--where", metavar="COLUMN=VALUE", multiple=True, help="Only rows with this value; may be repeated.")
@click.option("--instruction", metavar="TEXT", help="Task description, for models that accept one.")
@click.option(
    "--rerank",
    metavar="MODEL",
    shell_complete=complete_model,
    help="Let a reranker put the rows in order. OUT must hold texts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each row.")
@click.option("--no-daemon", is_flag=True, help="Load the model in this process even if a daemon is running.")
@setting_options("model", "host", "port", "uds", "threads", "context_tokens", "offline")
def search(out: str, query: str, **flags: Any) -> None:
    """Show the rows of OUT that are nearest to QUERY: what `edgeembed embed -o OUT` wrote, a file, a folder or a store.

    \b
    edgeembed embed notes/ -o sqlite:notes.db --with-text
    edgeembed search sqlite:notes.db "why is the sky blue"
    edgeembed search vectors.parquet "rain" -k 3 --json
    edgeembed search sqlite:notes.db#work "rain" --where author=Ann --rerank qwen3-reranker-0.6b

    The query is embedded with the model that made OUT, and with that model's prompt for queries. Another model is refused;
    .jsonl and .npy files do not record theirs. Scores are cosine similarities, or with --rerank a reranker's, from 0 to 1. A
    reranker sees four times as many rows as are shown, and at least 32.

    Files are compared row by row. Several --where of one column mean any of the values, of different columns all of them.
    """
    from contextlib import closing

    from edgeembed.bulk.searching import open_rows
    from edgeembed.common.logs import setup_logging

    settings, options = split_flags(flags, SearchFlags)
    setup_logging("warning")
    with closing(open_rows(out)) as rows:
        found = _search(rows, out, query, settings, options)
    for number, row in enumerate(found, 1):
        _print(number, row, as_json=options.as_json)
    if not found:
        to_stderr("no rows were found")


def _search(rows: Searchable, out: str, query: str, settings: dict[str, Any], options: SearchFlags) -> Sequence[Found]:
    import asyncio

    from edgeembed.bulk.embedders import EmbedOptions, open_embedder
    from edgeembed.bulk.embedders import rerank as score
    from edgeembed.bulk.searching import candidates, parse_where, query_vector, recorded_model, reranked
    from edgeembed.config.resolution import resolve
    from edgeembed.errors import ConfigError, UnknownModelError

    where = parse_where(options.where)
    model = settings.get("model") or recorded_model(rows.info, resolve(settings).settings.model, out)
    resolved = resolve({**settings, "model": model})
    wanted = EmbedOptions(model, "query", options.instruction)

    async def vector_of_query() -> Any:
        async with open_embedder(resolved, wanted, to_stderr, in_process=options.no_daemon) as embedder:
            if not rows.info.model:
                to_stderr(f"{out} does not record its model; searching with {embedder.info.model}")
            return await query_vector(embedder, query, rows, out)

    async def scores(query: str, texts: Sequence[str]) -> Sequence[float]:
        reranker = resolve({**settings, "model": options.rerank})
        found = await score(reranker, query, texts, options.rerank, to_stderr)
        return found.scores

    try:
        vector = asyncio.run(vector_of_query())
    except UnknownModelError as error:
        if settings.get("model"):
            raise
        raise ConfigError(
            f"{out} was made with {model}, which is neither installed nor in the catalogue; name its file with --model"
        ) from error
    found = rows.search(vector, candidates(options.top, rerank=options.rerank is not None), where)
    if options.rerank is None:
        return found
    return asyncio.run(reranked(found, query, options.top, out, scores))


def _print(number: int, row: Found, *, as_json: bool) -> None:
    if as_json:
        import orjson

        line: dict[str, Any] = {"id": row.id, "score": row.score}
        if row.text is not None:
            line["text"] = row.text
        click.echo(orjson.dumps(line | row.columns, default=str))
        return
    columns = "".join(f"  {printable(f'{name}={value}')}" for name, value in row.columns.items() if value is not None)
    click.echo(f"{number}. {row.score:.4f}  {printable(str(row.id))}{columns}")
    if row.text is not None:
        import shutil
        import textwrap

        text = " ".join(row.text.split())
        shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
        width = max(min(shutil.get_terminal_size().columns, 100), 40)
        click.echo(textwrap.indent(textwrap.fill(printable(shown), width - 4), "    "))
