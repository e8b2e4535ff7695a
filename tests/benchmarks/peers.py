"""The peers: how each is set up in a folder of its own, started with its best settings, and queried.

"Best" was found with `python -m tests.benchmarks.compare tune PEER`, which starts a peer with one set of settings after the
other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmarks.place import (
    LLAMA_CPP_PYTHON,
    REPAIRED,
    ModelName,
    Place,
    Weights,
    absent,
    install,
    llama_cpp_source,
)
from tests.benchmarks.processes import ROOT, Loop, Server
from tests.ports import free_port


class Peer(ABC):
    """One competitor."""

    name: str
    about: str
    models: tuple[ModelName, ...] = ("minilm", "qwen3")
    loop: bool = False
    """It is no server: one caller, whose calls hold the texts of all clients."""

    def __init__(self, flags: Sequence[str] = ()) -> None:
        """Prepare. flags: settings to take instead of the best known ones."""
        self._flags = tuple(flags)

    @abstractmethod
    def setup(self, place: Place, weights: Weights) -> None:
        """Build or install it. Raises subprocess.CalledProcessError."""

    @abstractmethod
    def missing(self, place: Place) -> str | None:
        """Return why it cannot run here; None if it can."""

    @abstractmethod
    def start(self, place: Place, weights: Weights) -> Server | Loop:
        """Start it; it is not ready yet."""

    def settings(self, weights: Weights) -> tuple[str, ...]:
        """Return the settings that it runs with, besides threads and paths."""
        return self._flags


class _OwnServer(Server):
    """Our daemon, which reports its cache's hits."""

    def cache_hits(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/status", timeout=60) as response:
            cache = json.load(response)["cache"]
        return int(cache["memory_hits"] + cache["disk_hits"]) if cache else 0


class Edgeembed(Peer):
    """Our daemon as shipped."""

    name = "edgeembed"
    about = "our daemon, settings as shipped: cache on"

    def __init__(self, flags: Sequence[str] = (), tree: Path = ROOT, home: Path | None = None) -> None:
        """Prepare. tree: the source tree to run. home: an EDGEEMBED_HOME with a tuned profile; None takes an empty one."""
        super().__init__(flags)
        self._tree = tree
        self._home = home

    def setup(self, place: Place, weights: Weights) -> None:
        pass

    def missing(self, place: Place) -> str | None:
        return None if (self._tree / "edgeembed").is_dir() else f"no source tree in {self._tree}"

    def start(self, place: Place, weights: Weights) -> Server:
        home = self._home
        if home is None:
            home = place.folder / "homes" / f"{self.name}-{weights.name}"
            shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True, exist_ok=True)
        port = free_port()
        command = [sys.executable, "-m", "edgeembed", "serve", "--model", str(weights.gguf), "--port", str(port)]
        command += ["--threads", str(place.threads), "--log-level", "warning", *self.settings(weights)]
        # The second folder gives convert/ and models/ of this tree their import names.
        path = os.pathsep.join([str(self._tree), str(self._tree / ".ci" / "typed")])
        environment = {"EDGEEMBED_HOME": str(home), "PYTHONPATH": path}
        return _OwnServer(
            self.name, command, environment, place.log(self.name), port=port, body={}, query_body={"input_type": "query"}
        )


class EdgeembedNoCache(Edgeembed):
    """Our daemon without a cache."""

    name = "edgeembed-nocache"
    about = "our daemon, --no-cache"

    def settings(self, weights: Weights) -> tuple[str, ...]:
        return ("--no-cache", *self._flags)


class LlamaServer(Peer):
    """llama-server, built from the llama.cpp that llama-cpp-python brings along."""

    name = "llama-server"
    about = "llama.cpp's own server, built from the source in the sdist of llama-cpp-python, native, repaired flags"

    BEST: Mapping[ModelName, tuple[str, ...]] = {
        "minilm": ("-b", "256", "-ub", "256", "-np", "8", "-c", "4096", "-fa", "on"),
        "qwen3": ("-b", "2048", "-ub", "512", "-np", "8", "-c", "4096", "-fa", "on"),
    }
    POOLING: Mapping[ModelName, str] = {"minilm": "mean", "qwen3": "last"}

    def binary(self, place: Place) -> Path:
        return place.folder / "llama-server" / "build" / "bin" / ("llama-server.exe" if os.name == "nt" else "llama-server")

    def setup(self, place: Place, weights: Weights) -> None:
        if self.binary(place).exists():
            return
        folder = place.folder / "llama-server"
        source = llama_cpp_source(folder)
        build = folder / "build"
        flags = [
            "-DCMAKE_BUILD_TYPE=Release",
            "-DGGML_NATIVE=ON",
            *(f"-DLLAMA_BUILD_{part}=OFF" for part in ("TESTS", "EXAMPLES", "APP", "UI")),
            *("-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_CURL=OFF", "-DBUILD_SHARED_LIBS=OFF"),
        ]
        environment = {**os.environ, **REPAIRED}
        subprocess.run(["cmake", "-S", source, "-B", build, *flags], check=True, env=environment)
        jobs = str(os.cpu_count() or 1)
        subprocess.run(
            ["cmake", "--build", build, "--config", "Release", "--target", "llama-server", "-j", jobs],
            check=True,
            env=environment,
        )

    def missing(self, place: Place) -> str | None:
        return None if self.binary(place).exists() else "it is not built; `compare setup --peers llama-server` does it"

    def settings(self, weights: Weights) -> tuple[str, ...]:
        return self._flags or self.BEST[weights.name]

    def start(self, place: Place, weights: Weights) -> Server:
        port = free_port()
        threads = str(place.threads)
        command = [str(self.binary(place)), "-m", str(weights.gguf), "--embeddings", "--pooling", self.POOLING[weights.name]]
        command += ["--host", "127.0.0.1", "--port", str(port), "-t", threads, "-tb", threads, *self.settings(weights)]
        return Server(self.name, command, place.environment(), place.log(self.name), port=port, body={})


class LlamaCppPython(Peer):
    """llama-cpp-python's own server."""

    name = "llama-cpp-python"
    about = "the server that comes with llama-cpp-python, repaired flags"

    BEST: Mapping[ModelName, tuple[str, ...]] = {
        "minilm": ("--n_ctx", "512", "--n_batch", "512", "--n_ubatch", "512", "--flash_attn", "true"),
        "qwen3": ("--n_ctx", "2048", "--n_batch", "512", "--n_ubatch", "512", "--flash_attn", "true"),
    }

    def setup(self, place: Place, weights: Weights) -> None:
        environment = {**os.environ, **REPAIRED, "CMAKE_ARGS": "-DLLAVA_BUILD=OFF"}
        install(place, self.name, [LLAMA_CPP_PYTHON.replace("==", "[server]==")], environment)

    def missing(self, place: Place) -> str | None:
        return absent(place, self.name, self.name)

    def settings(self, weights: Weights) -> tuple[str, ...]:
        return self._flags or self.BEST[weights.name]

    def start(self, place: Place, weights: Weights) -> Server:
        port = free_port()
        threads = str(place.threads)
        command = [str(place.python(self.name)), "-m", "llama_cpp.server", "--model", str(weights.gguf)]
        command += ["--embedding", "true", "--host", "127.0.0.1", "--port", str(port), "--verbose", "false"]
        command += ["--n_threads", threads, "--n_threads_batch", threads, *self.settings(weights)]
        # It logs every request, and writing the log takes time.
        environment = {**place.environment(), "UVICORN_LOG_LEVEL": "warning"}
        return Server(self.name, command, environment, place.log(self.name), port=port, body={})


class Infinity(Peer):
    """infinity-emb on torch."""

    name = "infinity"
    about = "infinity-emb with its torch engine, float32"
    models = ("minilm",)

    def setup(self, place: Place, weights: Weights) -> None:
        # Its own pins choose the rest: sentence-transformers 3, transformers 4.
        install(place, self.name, ["infinity-emb[server,torch]", place.torch])

    def missing(self, place: Place) -> str | None:
        return absent(place, self.name, self.name)

    def settings(self, weights: Weights) -> tuple[str, ...]:
        return self._flags or ("--batch-size", "32", "--dtype", "float32", "--no-bettertransformer")

    def start(self, place: Place, weights: Weights) -> Server:
        port = free_port()
        command = [str(place.python(self.name).with_name("infinity_emb")), "v2", "--model-id", str(weights.checkpoint)]
        command += [
            "--engine",
            "torch",
            "--device",
            "cpu",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--url-prefix",
            "/v1",
        ]
        command += ["--served-model-name", "minilm", "--no-model-warmup", "--log-level", "warning", *self.settings(weights)]
        environment = {**place.environment(), "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
        return Server(self.name, command, environment, place.log(self.name), port=port, body={"model": "minilm"})


class _InTorch(Peer):
    """What runs in the virtual environment with torch."""

    def setup(self, place: Place, weights: Weights) -> None:
        wanted = [place.torch, "sentence-transformers", "starlette", "uvicorn", "onnx", "onnxscript", "onnxruntime"]
        install(place, "torch", wanted)

    def missing(self, place: Place) -> str | None:
        return absent(place, "torch", self.name)

    def _environment(self, place: Place) -> dict[str, str]:
        return {**place.environment(), "PYTHONPATH": str(ROOT)}


class TorchServer(_InTorch):
    """sentence-transformers behind a minimal server."""

    name = "torch-server"
    about = "sentence-transformers (torch, float32) behind a minimal server"
    models = ("minilm",)

    def start(self, place: Place, weights: Weights) -> Server:
        port = free_port()
        command = [str(place.python("torch")), "-m", "tests.benchmarks.torch_server", str(weights.checkpoint)]
        command += ["--port", str(port), "--threads", str(place.threads)]
        return Server(self.name, command, self._environment(place), place.log(self.name), port=port, body={})


class _Raw(_InTorch):
    loop = True

    def start(self, place: Place, weights: Weights) -> Loop:
        command = [
            str(place.python("torch")),
            "-m",
            "tests.benchmarks.raw_peer",
            self.name,
            str(self._folder(place, weights)),
        ]
        command += ["--threads", str(place.threads), *self.settings(weights)]
        return Loop(self.name, command, self._environment(place), place.log(self.name))

    def _folder(self, place: Place, weights: Weights) -> Path:
        return weights.checkpoint


class SentenceTransformers(_Raw):
    """sentence-transformers in a loop."""

    name = "sentence-transformers"
    about = "sentence-transformers (torch, float32) in a loop, no server"
    models = ("minilm",)


class OnnxInt8(_Raw):
    """ONNX Runtime in a loop, texts in and vectors out."""

    name = "onnx-int8"
    about = "ONNX Runtime, dynamic int8, in a loop: tokenizing, computing, pooling; no server"
    models = ("minilm",)

    def setup(self, place: Place, weights: Weights) -> None:
        super().setup(place, weights)
        folder = self._folder(place, weights)
        if not (folder / "model-int8-fused.onnx").exists():
            script = Path(__file__).with_name("export_onnx.py")
            subprocess.run([place.python("torch"), script, weights.checkpoint, folder], check=True)

    def missing(self, place: Place) -> str | None:
        exported = place.folder / "models" / "onnx" / "model-int8-fused.onnx"
        return super().missing(place) or (None if exported.exists() else f"{exported} is missing; `compare setup` makes it")

    def _folder(self, place: Place, weights: Weights) -> Path:
        return place.folder / "models" / "onnx"


class OnnxInt8Compute(OnnxInt8):
    """ONNX Runtime, its computing alone."""

    name = "onnx-int8-compute"
    about = "the same, only the seconds inside ONNX Runtime: the yardstick of raw computing"


class TransformersBf16(_Raw):
    """transformers in bfloat16 in a loop."""

    name = "transformers-bf16"
    about = "transformers (torch, bfloat16) in a loop, last token's row, no LM head, no server"
    models = ("qwen3",)

    def settings(self, weights: Weights) -> tuple[str, ...]:
        return self._flags or ("--batch", "16")


PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        Edgeembed,
        EdgeembedNoCache,
        LlamaServer,
        LlamaCppPython,
        Infinity,
        TorchServer,
        SentenceTransformers,
        OnnxInt8,
        OnnxInt8Compute,
        TransformersBf16,
    )
}
