"""How far do kinds of text move a model's vectors? The table behind the bands of `edgeembed.inference.row_watch`.

    python -m tests.benchmarks.vector_bands MODEL.gguf

Texts are what lies on the machine: Python's own documentation and sources, licences, translations of programs' messages,
single words, queries of random words, numbers. For each kind: the geometric mean of the norms before normalising, the
standard deviation of their logarithm, the length of the mean unit row; then the cosines between mean directions.
"""

from __future__ import annotations

import asyncio
import contextlib
import gettext
import pydoc_data.topics
import random
import re
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.engine.interface import BULK
from edgeembed.hub.store import Store
from edgeembed.runtime.engines import make_engine

TEXTS = 250
LANGUAGES = ("de", "fr", "ja", "zh_CN", "ru")
MESSAGES = Path("/usr/share/locale")
LICENCES = Path("/usr/share/common-licenses")


def paragraphs(texts: Iterable[str]) -> list[str]:
    return [part.strip()[:200] for text in texts for part in re.split(r"\n\s*\n", text) if len(part.strip()) > 40]


def messages(language: str) -> list[str]:
    """Return the translated messages of installed programs."""
    found: list[str] = []
    for file in (MESSAGES / language / "LC_MESSAGES").glob("*.mo"):
        # Some programs keep theirs in an encoding of their own, which they do not name.
        with file.open("rb") as opened, contextlib.suppress(UnicodeDecodeError):
            catalogue = gettext.GNUTranslations(opened)._catalog  # type: ignore[attr-defined]
            found += [text[:200] for text in catalogue.values() if isinstance(text, str) and len(text) > 30]
    return found


def collect() -> dict[str, list[str]]:
    """Return texts by kind, as far as this machine has them."""
    docs = paragraphs(pydoc_data.topics.topics.values())
    code = paragraphs(file.read_text("utf-8", "replace") for file in Path(sysconfig.get_path("stdlib")).glob("a*.py"))
    words = " ".join(docs).split()
    kinds = {
        "docs": docs,
        "code": code,
        "licences": paragraphs(file.read_text("utf-8", "replace") for file in LICENCES.glob("*")),
        "queries": [" ".join(random.sample(words, random.randint(1, 5))) for _ in range(2 * TEXTS)],
        "words": sorted({word for text in code for word in re.findall("[A-Za-z_]{6,}", text)}),
        "numbers": [str(random.random()) for _ in range(2 * TEXTS)],
        **{language: messages(language) for language in LANGUAGES},
    }
    return {
        kind: random.sample(unique, TEXTS) for kind, texts in kinds.items() if len(unique := sorted(set(texts))) >= TEXTS
    }


async def main(model: Path) -> None:
    paths = Paths.resolve()
    engine = make_engine(Settings(), paths, Store(paths).local(model))
    await engine.start()
    means: dict[str, np.ndarray] = {}
    print(f"{'kind':10} {'norm':>7} {'ln dev':>7} {'length':>7}")
    for kind, texts in collect().items():
        rows = np.stack([row.vector for row in await asyncio.gather(*engine.submit(texts, BULK))])
        norms = np.linalg.norm(rows, axis=1)
        means[kind] = (rows / norms[:, None]).mean(0)
        logs = np.log(norms)
        print(f"{kind:10} {np.exp(logs.mean()):7.3f} {logs.std():7.3f} {np.linalg.norm(means[kind]):7.3f}")
    await engine.close()
    print(f"\n{'cosine':10}", *(f"{kind[:8]:>8}" for kind in means))
    for kind, one in means.items():
        cosines = (one @ other / np.linalg.norm(one) / np.linalg.norm(other) for other in means.values())
        print(f"{kind:10}", *(f"{cosine:8.2f}" for cosine in cosines))


if __name__ == "__main__":
    random.seed(1)
    asyncio.run(main(Path(sys.argv[1])))
