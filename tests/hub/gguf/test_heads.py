"""The keys of heads for other outputs than the dense row: a file whose keys do not describe them is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeembed.errors import HubError
from edgeembed.hub.facts import facts_of
from edgeembed.hub.gguf.check import check_gguf
from edgeembed.hub.gguf.file import UINT32
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.sparse import make_bert, make_bge_m3
from tests.hub.gguf.parts import STRING, read, write

pytestmark = pytest.mark.model
MAKERS = {"splade": make_bert, "bge-m3": make_bge_m3}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("heads")
    return {
        name: convert_checkpoint(make(folder / name), folder / f"{name}.gguf", quantization="Q8_0").path
        for name, make in MAKERS.items()
    }


def test_files_with_heads_are_read(files: dict[str, Path]) -> None:
    assert facts_of(check_gguf(files["splade"]), files["splade"]).outputs == ("sparse",)
    assert facts_of(check_gguf(files["bge-m3"]), files["bge-m3"]).outputs == ("dense", "multi", "sparse")


@pytest.mark.parametrize(
    ("name", "key", "kind", "value", "said"),
    [
        ("splade", "edgeembed.outputs", STRING, b"sparse,loud", "'loud' is no output"),
        ("splade", "edgeembed.outputs", STRING, b"dense,sparse", "'bert.pooling_type' is 0"),
        ("splade", "edgeembed.outputs", STRING, b"multi", "is missing"),
        ("splade", "edgeembed.sparse.kind", STRING, b"song", "expected text or vocabulary"),
        ("splade", "edgeembed.sparse.kind", STRING, b"text", "'edgeembed.sparse.bias' is missing"),
        ("splade", "edgeembed.sparse.logarithms", UINT32, 3, "expected 1 or 2"),
        ("splade", "edgeembed.sparse.bias", STRING, b"AAAA", "does not have"),
        ("splade", "edgeembed.sparse.transform.weight", STRING, b"?" * 21848, "is not base64"),
        ("bge-m3", "edgeembed.sparse.excluded", STRING, b"0,999999", "ids of tokens below"),
        ("bge-m3", "edgeembed.sparse.excluded", STRING, b"0," * 5000 + b"0", "at most 4096 ids"),
        ("bge-m3", "edgeembed.multi.0.outputs", UINT32, 2**14, "a number from 1 to 8192"),
        ("bge-m3", "edgeembed.multi.document_marker", UINT32, 999_999, "a number below"),
        ("bge-m3", "edgeembed.sparse.weight", STRING, b"AAAA", "does not have 64 numbers"),
    ],
)
def test_a_key_of_a_head(
    tmp_path: Path, files: dict[str, Path], name: str, key: str, kind: int, value: int | bytes, said: str
) -> None:
    file = read(files[name].read_bytes())
    file.put(key, kind, value)
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(write(file))
    with pytest.raises(HubError) as raised:
        check_gguf(changed)
    assert said in str(raised.value)
