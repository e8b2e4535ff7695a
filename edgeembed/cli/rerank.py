"""`edgeembed rerank`."""

from __future__ import annotations

from typing import Any

import click

from edgeembed.cli.printing import to_stderr
from edgeembed.cli.settings import setting_options
from edgeembed.common.log_content import printable


@click.command()
@click.argument("query")
@click.argument("documents", nargs=-1, metavar="[DOC…|-]")
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="Print only the N best.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each document.")
@click.option("--text", "literal", is_flag=True, help="Take the arguments as texts, even those that look like files.")
@setting_options("model", "host", "port", "uds", "threads", "context_tokens", "offline")
def rerank(query: str, documents: tuple[str, ...], top: int | None, as_json: bool, literal: bool, **flags: Any) -> None:
    """Score documents against QUERY with a reranker. Prints score (0 to 1), tab and document, the best first.

    Without documents, or with -, each line of standard input is a document. The running daemon computes; without one, the
    model is loaded in this process. What is too long is cut at the end; a line on standard error says so.

    \b
    edgeembed rerank "rain" "a dry desert" "an umbrella"
    grep -i error log.txt | edgeembed rerank "why did the disk fail" --top 5
    edgeembed rerank "rain" --model qwen3-reranker-0.6b --json < documents.txt
    """
    import asyncio

    import orjson

    from edgeembed.bulk.embedders import rerank as score
    from edgeembed.bulk.inputs import require_texts
    from edgeembed.bulk.lines import stdin_lines
    from edgeembed.common.logs import setup_logging
    from edgeembed.config.resolution import resolve
    from edgeembed.errors import ConfigError

    resolved = resolve(flags)
    setup_logging("warning")
    texts: list[str] = []
    if not literal:
        require_texts(documents, "to score its lines, send them to standard input: edgeembed rerank QUERY < FILE")
    for document in documents or ("-",):
        if document == "-" and not literal:
            texts += stdin_lines()
        else:
            texts.append(document)
    if not texts:
        raise ConfigError("no documents; give some as arguments, or one per line on standard input")
    found = asyncio.run(score(resolved, query, texts, flags.get("model"), to_stderr))
    if found.cut:
        to_stderr(f"{found.cut} of {len(texts)} documents are too long with their query, and were cut")
    for index in sorted(range(len(texts)), key=lambda index: -found.scores[index])[:top]:
        if as_json:
            click.echo(orjson.dumps({"index": index, "score": found.scores[index], "document": texts[index]}))
        else:
            click.echo(f"{found.scores[index]:.4f}\t{printable(texts[index])}")
