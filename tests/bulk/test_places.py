"""Places: what is there, reading and writing in one step, errors that help, and no secrets in them."""

from __future__ import annotations

import contextlib
import gzip
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest

from edgeembed.bulk import file_systems
from edgeembed.bulk.inputs import require_texts
from edgeembed.bulk.places import Place, PlaceError
from edgeembed.errors import ConfigError
from tests.bulk.object_store import ObjectStore, object_store
from tests.bulk.web_server import WebServer, web_server

KEY = "https://user:pa55word@127.0.0.1/a.jsonl?X-Amz-Signature=53cret"


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    with web_server(tmp_path) as running:
        yield running


@pytest.fixture(params=["path", "file", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty folder of each kind that can be written."""
    if request.param == "s3":
        store: ObjectStore = request.getfixturevalue("store")
        return Place.of(f"{store.root}/{tmp_path.name}")
    return Place.of(tmp_path.as_uri() if request.param == "file" else str(tmp_path))


def test_what_is_written_is_there_whole_and_can_be_removed(folder: Place) -> None:
    file = folder.child("year=2024/a b?.bin")
    assert file.status() is None
    assert file.read_bytes() is None
    file.write_bytes(memoryview(b"one"))
    before = file.status()
    file.write_bytes(b"other" * 5_000_000)  # in several parts
    after = file.status()
    assert before is not None
    assert after is not None
    assert (before.kind, before.size, after.size) == ("file", 3, 25_000_000)
    assert before.version
    assert file.read_bytes() == b"other" * 5_000_000
    with file.open() as opened:
        assert opened.seek(24_999_995) == 24_999_995
        assert opened.read() == b"other"
    with contextlib.closing(file.open_arrow()) as arrow:
        assert arrow.read(3) == b"oth"
    compressed = folder.child("a.jsonl.gz")
    compressed.write_bytes(gzip.compress(b"text"))
    assert gzip.decompress(compressed.read_bytes() or b"") == b"text"
    file.remove()
    file.remove()
    assert file.status() is None
    with pytest.raises(FileNotFoundError):
        file.open()
    with pytest.raises(FileNotFoundError):
        file.open_arrow()


def test_a_folder_is_listed_recursively_and_in_order_without_hidden_files(folder: Place) -> None:
    for name in ("b/x.txt", "b.txt", "a/z/y.txt", "_edgeembed/job.json", "a/.hidden", "a/_temporary/part", "b/_SUCCESS"):
        folder.child(name).write_bytes(name.encode())
    found = folder.files()
    assert [file.relative for file in found] == ["a/z/y.txt", "b/x.txt", "b.txt"]
    assert [file.place.read_bytes() for file in found] == [file.relative.encode() for file in found]
    asked = [file.place.require() for file in found]
    assert [file.status for file in found] == [status._replace(etag="") for status in asked], "lists have no ETags"
    assert len({status.etag for status in asked}) == (3 if folder.scheme == "s3" else 1)
    status = folder.child("a").status()
    assert status is not None
    assert status.kind == "folder"


def test_a_place_travels_to_other_processes_and_compares(folder: Place) -> None:
    again = pickle.loads(pickle.dumps(folder.child("a.parquet")))  # noqa: S301 - our own
    assert again == folder.child("a.parquet")
    assert hash(again) == hash(folder.child("a.parquet"))
    assert (again.file_name, again.stem, again.suffix) == ("a.parquet", "a", ".parquet")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ftp://host/x", "unknown kind of URI"),
        ("file://vectors/", "names the machine vectors; a file of this one is file:///"),
        ("s3:///key", "names no bucket"),
        ("http://", "names no host"),
        ("s3://AKIAID:pa55word@bucket/x", "leave it out: .*AWS_ACCESS_KEY_ID"),
        ("gs://user:pa55word@bucket/x", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("abfs://container:pa55word@account.dfs.core.windows.net/x", "AZURE_STORAGE_KEY"),
        ("hdfs://user:pa55word@host/x", "leave it out"),
    ],
)
def test_a_uri_that_cannot_be_used_says_what_to_do_and_keeps_secrets(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Place.of(name)
    assert "pa55word" not in caught.value.message
    assert "AKIAID" not in caught.value.message


def test_secrets_of_a_web_address_are_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    place = Place.of(KEY.replace("https", "http").replace("127.0.0.1", f"127.0.0.1:{port}"))
    with pytest.raises(PlaceError, match="check the address") as caught:
        place.status()
    for shown in (place.name, repr(place), str(place), caught.value.message, repr(caught.value.__context__)):
        assert "53cret" not in shown or shown is repr(caught.value.__context__)
        assert "pa55word" not in shown
    assert caught.value.__suppress_context__
    assert place.name == f"http://127.0.0.1:{port}/a.jsonl?…"


def test_words_of_libraries_lose_queries_and_users() -> None:
    error = OSError(f"cannot open '{KEY}' because https://a:b@c@host/x?sig=1 said no\nmore")
    assert file_systems.reason_of(error) == "cannot open 'https://127.0.0.1/a.jsonl?…' because https://host/x?… said no"


def test_a_missing_bucket_and_wrong_keys_say_what_to_check(store: ObjectStore) -> None:
    with pytest.raises(PlaceError, match=r"cannot list s3://no-such-bucket/x: .*check the bucket's name, AWS_ENDPOINT_URL"):
        Place.of("s3://no-such-bucket/x").files()


def test_a_store_that_stalls_is_an_error(monkeypatch: pytest.MonkeyPatch, store: ObjectStore) -> None:
    monkeypatch.setattr(file_systems, "STALL_SECONDS", 1)
    monkeypatch.setattr(file_systems, "ATTEMPTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{url}")
        for name in ("s3://bucket/x", f"http://{url}/x"):
            with pytest.raises(PlaceError, match="cannot read"):
                Place.of(name).status()


def test_without_the_library_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.fs", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow: .*install"):
        Place.of("s3://bucket/x")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_of_a_web_server_is_read_with_and_without_ranges(server: WebServer, tmp_path: Path, ranges: bool) -> None:
    server.ranges = ranges
    content = bytes(range(256)) * 100_000
    (tmp_path / "a.bin").write_bytes(content)
    place = Place.of(f"{server.url}/a.bin?sig=1")
    status = place.status()
    assert status is not None
    assert (status.kind, status.size, status.ranges) == ("file", len(content), ranges)
    assert place.read_bytes() == content
    assert Place.of(f"{server.url}/none").status() is None
    with place.open() as file:
        assert file.seekable() == ranges
    if ranges:
        with contextlib.closing(place.open_arrow()) as arrow:
            arrow.seek(25_600_000 - 5)
            assert arrow.read() == content[-5:]
    else:
        with pytest.raises(ConfigError, match="has no ranges; download it"):
            place.open_arrow()
    with pytest.raises(ConfigError, match="can only be read"):
        place.write_bytes(b"x")
    with pytest.raises(ConfigError, match="no folders"):
        place.child("x")


@pytest.mark.parametrize("ranges", [True, False])
def test_an_answer_that_breaks_off_is_an_error_and_no_shorter_file(server: WebServer, tmp_path: Path, ranges: bool) -> None:
    server.ranges = ranges
    (tmp_path / "a.bin").write_bytes(b"x" * 1_000_000)
    place = Place.of(f"{server.url}/a.bin")
    status = place.status()
    server.broken = True
    with pytest.raises(PlaceError, match="cannot read"), place.open(status) as file:
        file.read()


@pytest.fixture
def own_file_systems() -> Iterator[None]:
    """Nothing that another test opened, or that this one opens, is used again."""
    made = (file_systems._gs, file_systems._abfs, file_systems._hdfs)
    for each in made:
        each.cache_clear()
    yield
    for each in made:
        each.cache_clear()


@pytest.mark.usefixtures("own_file_systems")
def test_the_other_stores_are_opened_by_their_own_file_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server of theirs runs here: their file systems are replaced by one of a folder, and what they are asked is seen."""
    asked: list[object] = []

    def stand_in(*arguments: object, **options: object) -> object:
        asked.append((*arguments, *options.items()))
        return pyarrow.fs.SubTreeFileSystem(str(tmp_path), pyarrow.fs.LocalFileSystem())

    for name in ("GcsFileSystem", "AzureFileSystem", "HadoopFileSystem"):
        monkeypatch.setattr(pyarrow.fs, name, stand_in)
    monkeypatch.setenv("AZURE_STORAGE_KEY", "a2V5")
    (tmp_path / "bucket").mkdir()
    for name in (
        "gs://bucket/x/a.txt",
        "gcs://bucket/x/a.txt",
        "abfss://bucket@account.dfs.core.windows.net/x/a.txt",
        "hdfs://host:9000/bucket/x/a.txt",
    ):
        place = Place.of(name)
        (tmp_path / "bucket" / "x").mkdir(exist_ok=True)
        place.write_bytes(name.encode())
        assert place.read_bytes() == name.encode()
        assert (tmp_path / "bucket/x/a.txt").read_text() == name
        assert [file.relative for file in Place.of(name.removesuffix("/a.txt")).files()] == ["a.txt"]
        place.remove()
    azure, hadoop = asked[-2:]
    assert azure == ("account", ("account_key", "a2V5"), ("sas_token", None))
    assert hadoop == ("host", 9000)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT", raising=False)
    with pytest.raises(ConfigError, match="names no storage account; set AZURE_STORAGE_ACCOUNT"):
        Place.of("abfs://container/x").status()


@pytest.mark.usefixtures("own_file_systems")
def test_the_real_clients_of_the_other_stores_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    assert file_systems.file_system("gs", "bucket", "gs://bucket").type_name == "gcs"
    assert file_systems.file_system("abfs", "c@account.dfs.core.windows.net", "abfs://c").type_name == "abfs"


def test_a_uri_on_the_command_line_is_no_text() -> None:
    with pytest.raises(ConfigError, match=r"https://host/a.jsonl\?… is a URI; name an output file; .* add --text"):
        require_texts(["https://user:pa55word@host/a.jsonl?sig=53cret"], "name an output file")
    require_texts(["what does s3://bucket mean"], "name an output file")


@pytest.mark.parametrize(
    ("folder", "inside", "outside"),
    [
        ("s3://b/out/", ["s3://b/out", "s3a://b/out/x.parquet"], ["s3://b/output", "s3://b", "s3://c/out/x", "/out/x"]),
        ("s3://b", ["s3://b/x"], ["s3://c/x"]),
        ("file:///data", ["/data/x", "/other/../data"], ["/database", "s3://b/data"]),
    ],
)
def test_what_is_in_a_folder(folder: str, inside: list[str], outside: list[str]) -> None:
    assert all(Place.of(folder).contains(Place.of(name)) for name in inside)
    assert not any(Place.of(folder).contains(Place.of(name)) for name in outside)
