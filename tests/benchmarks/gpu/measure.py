"""Measure edgeembed on a card against sentence-transformers (bfloat16, SDPA) on the same card, in one run.

    python -m tests.benchmarks.gpu.measure FOLDER [--models qwen3 minilm] [--types F16 Q8_0] [--rounds 3] [--json FILE]

FOLDER was made by setup.sh. Our figures are over HTTP, with the cache off; the peer's are of a loop in its own process.
All are loaded at once and measured in turns. Without a card everything runs on the processor, to show that it runs.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeembed.diagnostics.bench.texts import TextMaker
from tests.benchmarks.driver import Group, Job, Outcome
from tests.benchmarks.gpu.missing import Card, card, missing
from tests.benchmarks.processes import ROOT, Loop, Running, Server
from tests.ports import free_port

SCENARIOS = {
    "one": Group(clients=1, texts=1, words=86),
    "sixteen": Group(clients=1, texts=16, words=86),
    "bulk128": Group(clients=4, texts=64, words=109),
    "bulk512": Group(clients=4, texts=32, words=400),
    "clients": Group(clients=32, texts=1, words=86),
}
"""86 words are 100 tokens of Qwen's vocabulary in the mean, 109 are 127, and 400 are 464."""
GOALS = {"one": ("p50 ms", 4.0), "sixteen": ("p50 ms", 10.0)}
"""Goals for Qwen3-0.6B's shape. In bulk: at least the peer's tokens per second."""
PEER_BATCHES = (32, 128, 512)
CANARY_WORDS = (3, 8, 20, 60, 120, 250, 400)
BUSY_CLIENT = 0.5
"""Share of one processor: a client that needs more may itself be the bottleneck."""


@dataclass
class Contender:
    """A server or a loop that is measured."""

    name: str
    running: Server | Loop
    memory_mib: int = 0
    mode: str = ""
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Return the median over the rounds of each scenario's figure: p50 in ms, or tokens a second (clients: texts)."""
        found: dict[str, float] = {}
        for name, outcomes in self.outcomes.items():
            if name in GOALS:
                found[name] = statistics.median(1e3 * statistics.median(each.latencies) for each in outcomes)
                continue
            factor = 1.0 if name == "clients" else self.tokens.get(name, math.nan)
            found[name] = statistics.median(factor * each.texts / each.seconds for each in outcomes)
        return found


def our_daemon(name: str, gguf: Path, work: Path, *flags: str) -> Server:
    """Start a daemon with the cache off and a home of its own."""
    port = free_port()
    command = [sys.executable, "-m", "edgeembed", "serve", "--model", str(gguf), "--port", str(port), "--no-cache"]
    environment = {
        "EDGEEMBED_HOME": str(work / f"home-{name}"),
        "PYTHONPATH": os.environ.get("PYTHONPATH", "") + os.pathsep + str(ROOT),
    }
    body = {"encoding_format": "base64"}  # as OpenAI's clients ask
    return Server(name, [*command, "--offline", *flags], environment, work / f"{name}.log", port=port, body=body)


def mode_of(server: Server) -> str:
    """Wait until a daemon embeds, and return the execution mode of its model."""
    server.wait()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health", timeout=60) as answer:
        return str(json.load(answer).get("mode"))


def rows_of(running: Server | Loop, texts: list[str]) -> npt.NDArray[np.float64]:
    """Embed texts one by one and return unit rows, shape (texts, dimensions)."""
    found = [running.embed([text])[0] for text in texts]
    rows = np.array(
        [np.frombuffer(base64.b64decode(row), "<f4") if isinstance(row, str) else row for row in found], dtype=np.float64
    )
    unit: npt.NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def compare(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the least cosine between rows of the same texts, and the same without the mean row.

    Random weights give very similar rows, so the plain cosine says little.
    """
    mean = other.mean(axis=0)
    a, b = one - mean, other - mean
    centred = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float((one * other).sum(1).min()), float(centred.min())


def flops_per_token(checkpoint: Path, tokens: float) -> float:
    """Return the floating-point operations of a forward pass per token, in texts of `tokens` tokens.

    Two for each weight of a matrix that is multiplied (embeddings are looked up), and for attention 4 times layers, width of
    all heads, and tokens seen, which is half of them in a causal model.
    """
    with (checkpoint / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    looked_up = ("embed", "lm_head", "pooler")
    shapes = [
        entry["shape"]
        for name, entry in header.items()
        if name != "__metadata__" and not any(part in name for part in looked_up)
    ]
    weights = sum(math.prod(shape) for shape in shapes if len(shape) == 2)
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    heads = config["num_attention_heads"]
    width = heads * config.get("head_dim", config["hidden_size"] // heads)
    seen = tokens if config["model_type"] == "bert" else tokens / 2
    return 2 * weights + 4 * config["num_hidden_layers"] * width * seen


def peak(python: str) -> dict[str, float] | None:
    """Measure the peak of the card with torch in the peer's interpreter; None if that fails."""
    command = [python, "-m", "tests.benchmarks.gpu.torch_peer", "peak"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300)
    return None if done.returncode else json.loads(done.stdout.splitlines()[-1])


def held(before: Card | None) -> int:
    """Return the MiB of the card's memory that were taken since `before`."""
    now = card()
    return now.memory_used - before.memory_used if now and before else 0


def measure_model(options: argparse.Namespace, model: str, work: Path) -> tuple[list[Contender], dict[str, Any]]:
    """Measure one model in all ways; return the contenders and how their rows compare."""
    folder: Path = options.folder / model
    running: list[Running] = []
    contenders: list[Contender] = []
    maker = TextMaker(99)
    texts = [maker.text(words) for words in CANARY_WORDS for _ in range(3)]
    likeness: dict[str, Any] = {}
    try:
        for type_ in options.types:
            before = card()
            server = our_daemon(f"{model}-{type_}", folder / f"{type_}.gguf", work)
            running.append(server)
            mode = mode_of(server)
            ours = Contender(f"edgeembed {type_}", server, held(before), mode)
            contenders.append(ours)
            processor = our_daemon(f"{model}-{type_}-cpu", folder / f"{type_}.gguf", work, "--device", "cpu")
            running.append(processor)
            processor.wait()
            likeness[ours.name] = compare(rows_of(server, texts), rows_of(processor, texts))
            processor.end()
        for batch in options.peer_batches:
            before = card()
            name = f"sentence-transformers, batch {batch}"
            command = [options.peer_python, "-m", "tests.benchmarks.gpu.torch_peer", "sentence-transformers-gpu"]
            command += [str(folder / "checkpoint"), "--threads", str(os.cpu_count()), "--batch", str(batch)]
            peer = Loop(name, command, {"PYTHONPATH": str(ROOT)}, work / f"peer-{model}-{batch}.log")
            running.append(peer)
            try:
                peer.wait()
            except RuntimeError as error:
                print(f"not measured: {str(error).splitlines()[0]} ({str(error).splitlines()[-1]})", flush=True)
                break
            contenders.append(Contender(name, peer))
            if batch == options.peer_batches[0]:
                likeness[name] = compare(rows_of(peer, texts), rows_of(contenders[0].running, texts))
            contenders[-1].memory_mib = held(before)
        for number in range(options.rounds):
            for scenario in options.scenarios:
                order = contenders[number % len(contenders) :] + contenders[: number % len(contenders)]
                for each in order:
                    _measure(each, scenario, options.seconds, seed=1000 * number + len(scenario), small=card() is None)
    finally:
        for process in running:
            process.end()
    for each in contenders:  # the peer does not count its tokens; its texts are the same
        each.tokens = {**contenders[0].tokens, **each.tokens}
    return contenders, likeness


def _measure(contender: Contender, scenario: str, seconds: float, seed: int, *, small: bool) -> None:
    group = SCENARIOS[scenario]
    if small:
        group = replace(group, clients=min(2, group.clients), texts=min(4, group.texts))
    job = Job(port=0, groups=(group,), seconds=seconds, seed=seed, warm_seconds=min(1.0, seconds))
    outcomes, took = contender.running.do(job)
    (outcome,) = outcomes.values()
    contender.outcomes.setdefault(scenario, []).append(outcome)
    if outcome.tokens_per_text:
        contender.tokens[scenario] = outcome.tokens_per_text
    if took > BUSY_CLIENT * outcome.seconds:
        print(f"{contender.name}, {scenario}: the driver was busy {took / outcome.seconds:.0%} of the time", flush=True)


def report(
    model: str, contenders: list[Contender], likeness: dict[str, Any], top: dict[str, float] | None, checkpoint: Path
) -> list[dict[str, Any]]:
    """Print the table of a model and return its rows."""
    best_peer = {
        name: max((each.figures().get(name, 0.0) for each in contenders if isinstance(each.running, Loop)), default=0.0)
        for name in ("bulk128", "bulk512")
    }
    rows = []
    print(f"\n## {model}\n")
    titles = ["", "mode", "one, p50", "16, p50", "bulk 128, tokens/s", "bulk 512, tokens/s", "32 clients, texts/s"]
    titles += ["card memory", "of the peak"]
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    for each in contenders:
        figures = each.figures()
        shares = {
            name: figures[name] * flops_per_token(checkpoint, each.tokens[name]) / (1e12 * top["tflops"])
            for name in ("bulk128", "bulk512")
            if top and name in figures and name in each.tokens
        }
        cells = [each.name, each.mode or "loop"]
        cells += [f"{figures[name]:.2f} ms" if name in figures else "" for name in GOALS]
        for name in ("bulk128", "bulk512"):
            ratio = f" ({figures[name] / best_peer[name]:.2f})" if best_peer[name] and name in figures and each.mode else ""
            cells.append(f"{figures[name]:,.0f}{ratio}" if name in figures else "")
        cells.append(f"{figures['clients']:,.0f}" if "clients" in figures else "")
        cells.append(f"{each.memory_mib:,} MiB" if each.memory_mib else "")
        cells.append(f"{max(shares.values()):.1%}" if shares else "")
        print("| " + " | ".join(cells) + " |")
        identity = {"model": model, "name": each.name, "mode": each.mode, "memory_mib": each.memory_mib}
        rows.append({**identity, **figures, "share_of_peak": shares})
    print()
    for name, (plain, centred) in likeness.items():
        against = "our first row above" if name.startswith("sentence") else "the same file on the processor"
        print(f"{name}: least cosine to {against} {plain:.6f}; without the mean row {centred:.6f}")
    return [*rows, {"model": model, "least_cosines": likeness}]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=["qwen3", "minilm"])
    parser.add_argument("--types", nargs="+", default=["F16", "Q8_0"])
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with torch and sentence-transformers")
    parser.add_argument("--peer-batches", type=int, nargs="+", default=list(PEER_BATCHES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    here = card()
    print(f"card: {here.name}, driver {here.driver}, {here.memory_total} MiB" if here else "card: none", flush=True)
    print(f"processor: {platform.processor() or platform.machine()}, {os.cpu_count()} threads", flush=True)
    for line in missing(options.peer_python):
        print(f"MISSING {line}", flush=True)
    if here is None:
        print("NO CARD: the figures below are the processor's, and show only that this runs (smaller loads)", flush=True)
    top = peak(options.peer_python) if here else None
    if top:
        print(f"bfloat16 products: {top['tflops']:.0f} TFLOP/s; copies: {top['copy_gbs']:,.0f} GB/s", flush=True)
    rows: list[dict[str, Any]] = []
    for model in options.models:
        if not (options.folder / model / "checkpoint").exists():
            print(f"not measured: {model} is not in {options.folder.name} (setup.sh)", flush=True)
            continue
        contenders, likeness = measure_model(options, model, options.folder / "work")
        rows += report(model, contenders, likeness, top, options.folder / model / "checkpoint")
    if options.json:
        options.json.write_text(json.dumps({"card": here.__dict__ if here else None, "peak": top, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
