"""`from edgeembed import Embedder` in programs of users: real models, a real daemon, and how such programs end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edgeembed import Embedder
from edgeembed.engine.interface import Output
from tests.convert.tiny_encoders import make_tiny_cross_encoder, make_tiny_m3
from tests.convert.without_proof import convert_checkpoint
from tests.e2e.daemon import Daemon, running
from tests.e2e.models import install
from tests.ports import free_port
from tests.signals import listening_to_sigint
from tests.waiting import until

MODEL = "all-minilm-l6-v2"
TEXTS = ["The rain falls.", "A dry desert.", "Umbrellas are sold out."]


@pytest.fixture(scope="module")
def home(minilm: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python")
    home = folder / "home"
    home.mkdir()
    make_tiny_cross_encoder(folder / "ranker")
    convert_checkpoint(folder / "ranker", folder / "ranker.gguf", quantization="F32", license="Apache-2.0")
    install(home, MODEL, "Q8_0", minilm("Q8_0"))
    install(home, "tiny-ranker", "F32", folder / "ranker.gguf")
    make_tiny_m3(folder / "m3")
    convert_checkpoint(folder / "m3", folder / "m3.gguf", quantization="F32", license="MIT")
    install(home, "tiny-m3", "F32", folder / "m3.gguf")
    return home


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEEMBED_HOME", str(home))


@pytest.fixture(scope="module")
def daemon(home: Path) -> Iterator[Daemon]:
    with running("--model", MODEL, home=home) as made:
        yield made


def port_of(daemon: Daemon) -> int:
    return int(daemon.url.rpartition(":")[2])


def started(home: Path, code: str) -> subprocess.Popen[str]:
    """Start a program that finds no daemon; `embedder` is its Embedder."""
    begin = f"from edgeembed import Embedder\nembedder = Embedder({MODEL!r}, port={free_port()})\n"
    with listening_to_sigint():
        return subprocess.Popen(
            [sys.executable, "-c", begin + textwrap.dedent(code)],
            stdin=subprocess.PIPE,  # under pytest-xdist the inherited one is at its end: input() would not wait
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"EDGEEMBED_HOME": str(home)},
        )


def printed(home: Path, code: str) -> Any:
    """Return the JSON that a program prints; it has to end by itself, without a word on stderr."""
    program = started(home, code)
    out, errors = program.communicate(timeout=120)
    assert (program.returncode, errors) == (0, "")
    return json.loads(out)


def exists(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.usefixtures("at_home")
def test_daemon_and_engine_give_the_same(daemon: Daemon) -> None:
    with (
        Embedder(MODEL, port=port_of(daemon), daemon=True) as one,
        Embedder(MODEL, daemon=False) as other,
        Embedder("tiny-ranker", port=port_of(daemon), daemon=True) as ranker,
        Embedder("tiny-ranker", daemon=False) as own_ranker,
    ):
        rows = one.embed(TEXTS)
        assert np.allclose(rows, daemon.embed(TEXTS), atol=1e-6)
        assert np.allclose(rows, other.embed(TEXTS), atol=1e-6)
        assert np.allclose(one.embed(TEXTS[0]), other.embed(TEXTS[0]), atol=1e-6)
        cosines = rows @ one.embed("Is it raining?")
        for each in (one, other):
            for ranked in each.rerank("Is it raining?", TEXTS):
                assert ranked.score == pytest.approx(cosines[ranked.index], abs=1e-4)
        ranks, own = (each.rerank("Is it raining?", TEXTS) for each in (ranker, own_ranker))
        assert [ranked.index for ranked in ranks] == [ranked.index for ranked in own]
        assert np.allclose([ranked.score for ranked in ranks], [ranked.score for ranked in own], atol=1e-5)


@pytest.mark.usefixtures("at_home")
def test_all_outputs_are_the_same_through_daemon_and_engine(daemon: Daemon) -> None:
    wanted: list[Output] = ["dense", "multi", "sparse", "tokens"]
    with (
        Embedder("tiny-m3", port=port_of(daemon), daemon=True) as one,
        Embedder("tiny-m3", daemon=False) as other,
    ):
        for ours, theirs in zip(one.outputs(TEXTS, wanted), other.outputs(TEXTS, wanted), strict=True):
            for output in ("dense", "multi", "tokens"):
                assert np.allclose(getattr(ours, output), getattr(theirs, output), atol=1e-5), output
            assert ours.sparse is not None and theirs.sparse is not None
            assert np.array_equal(ours.sparse.indices, theirs.sparse.indices)
            assert np.allclose(ours.sparse.values, theirs.sparse.values, atol=1e-5)
        query, documents = other.multi("Is it raining?", input_type="query"), other.multi(TEXTS, input_type="document")
        expected = [float((query @ document.T).max(axis=1).mean()) for document in documents]
        for each in (one, other):
            ranked = sorted(each.rerank("Is it raining?", TEXTS), key=lambda found: found.index)
            assert np.allclose([found.score for found in ranked], expected, atol=1e-4)
        together = other.outputs(TEXTS[0], wanted)
        assert together.dense is not None and together.multi is not None and together.sparse is not None
        assert np.allclose(other.embed(TEXTS[0]), together.dense, atol=1e-5)
        assert np.allclose(one.multi(TEXTS[0]), together.multi, atol=1e-5)
        assert one.sparse(TEXTS[0]) @ together.sparse == pytest.approx(together.sparse @ together.sparse, abs=1e-4)


@pytest.mark.usefixtures("at_home")
def test_a_file_is_not_taken_for_one_of_the_daemons_with_the_same_name(
    daemon: Daemon, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [served] = (home / "models" / MODEL).glob("*.gguf")
    (tmp_path / served.name).write_bytes((home.parent / "ranker.gguf").read_bytes())
    monkeypatch.chdir(tmp_path)
    with Embedder(served.name, port=port_of(daemon)) as ranker, Embedder(str(served), port=port_of(daemon)) as same:
        assert ranker._backend.open().description == "this process"
        assert len(ranker.rerank("Is it raining?", TEXTS)) == 3
        assert same._backend.open().description == f"the daemon at {daemon.url}"


def test_a_program_without_a_daemon_fills_the_cache_of_daemons(home: Path) -> None:
    texts = ["A text of a program that just ends.", "Another one."]
    first = printed(home, f"import json; print(json.dumps(embedder.embed({texts}).tolist()))")
    code = """
        import json
        rows = embedder.embed(%s).tolist()
        stats = embedder._backend._backend._service.cache.stats
        print(json.dumps([rows, stats.disk_hits, stats.misses]))
    """
    assert printed(home, code % texts) == [first, 2, 0]
    with running("--model", MODEL, home=home) as daemon:
        assert np.allclose(daemon.embed(texts), first, atol=1e-7)
        [model] = daemon.get("/v1/status")[1]["cache"]["models"].values()
        assert (model["disk_hits"], model["misses"]) == (2, 0)


def test_no_server_is_imported_and_the_worker_ends_with_the_program(home: Path) -> None:
    code = """
        import json, sys, psutil
        embedder.embed("a text")
        [worker] = psutil.Process().children()
        servers = [name for name in sys.modules if name.startswith(("aiohttp.web", "edgeembed.server"))]
        print(json.dumps([worker.pid, servers]))
    """
    worker, modules = printed(home, code)
    assert modules == []
    assert not exists(worker)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_interrupts_and_the_next_call_works(home: Path) -> None:
    code = """
        import json, sys
        embedder.embed("a text")
        print("ready", flush=True)
        try:
            for row in embedder.embed((f"{number} " + "word " * 200 for number in range(10**9)), batch_size=64):
                pass
        except KeyboardInterrupt:
            print(json.dumps(embedder.embed("a text").shape))
    """
    program = started(home, code)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    [worker] = psutil.Process(program.pid).children()
    program.send_signal(signal.SIGINT)
    out, errors = program.communicate(timeout=60)
    assert (json.loads(out), errors, program.returncode) == ([384], "", 0)
    assert not exists(worker.pid)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_the_worker_ends_when_the_program_is_killed(home: Path) -> None:
    program = started(home, "embedder.embed('a text'); print('ready', flush=True); input()")
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    [worker] = psutil.Process(program.pid).children()
    program.kill()
    program.communicate(timeout=60)
    assert program.returncode == -signal.SIGKILL  # it had not ended by itself
    until(lambda: not exists(worker.pid))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks of POSIX")
def test_a_fork_says_what_to_do_and_leaves_the_parent_alone(home: Path) -> None:
    code = """
        import json, multiprocessing, os
        fork = multiprocessing.get_context("fork")
        def use(queue):
            try:
                queue.put(list(embedder.embed("a text").shape))
            except RuntimeError as error:
                queue.put(str(error))
        def in_a_fork():
            queue = fork.SimpleQueue()
            child = fork.Process(target=use, args=(queue,))
            child.start(); found = queue.get(); child.join()
            return found, child.exitcode
        before = in_a_fork()                      # each process finds its own model
        shape = embedder.embed("a text").shape
        print(json.dumps([before, shape, in_a_fork(), embedder.embed("another text").shape]))
    """
    before, shape, (said, status), again = printed(home, code)
    assert (before, shape, status, again) == ([[384], 0], [384], 0, [384])
    assert "make one in each process" in said
