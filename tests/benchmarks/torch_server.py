"""The least server around sentence-transformers that answers /v1/embeddings. Runs in the peer's own virtual environment.

    PYTHONPATH=ROOT VENV/python -m tests.benchmarks.torch_server FOLDER --port N --threads N

Requests wait for each other: torch uses all threads for one call, and calls side by side would only get in each other's way.
"""

from __future__ import annotations

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import uvicorn
from sentence_transformers import SentenceTransformer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def make_app(folder: str) -> Starlette:
    """Make the application."""
    model = SentenceTransformer(folder, device="cpu")
    thread = ThreadPoolExecutor(1)

    def embed(texts: list[str]) -> list[list[float]]:
        rows = model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        return [row.tolist() for row in rows]

    async def embeddings(request: Request) -> JSONResponse:
        given: Any = (await request.json())["input"]
        texts = [given] if isinstance(given, str) else given
        rows = await asyncio.get_running_loop().run_in_executor(thread, embed, texts)
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        return JSONResponse({"object": "list", "data": data, "model": "model"})

    async def health(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    return Starlette(routes=[Route("/v1/embeddings", embeddings, methods=["POST"]), Route("/health", health)])


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    uvicorn.run(make_app(options.folder), host="127.0.0.1", port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
