"""The release wheel: what is put into it, and how edgeembed finds it there. Nothing is compiled here."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from edgeembed.engine import execution_modes, llama_package, machine
from edgeembed.engine.gpu.inventory import library_folder
from edgeembed.hub import licenses
from tests.installers.loading import load

METADATA = (
    "Metadata-Version: 2.4\nName: edgeembed\nVersion: 1.2.3\nRequires-Dist: aiohttp<4,>=3.11\n"
    "Requires-Dist: llama-cpp-python==0.3.36\nRequires-Dist: numpy<3,>=1.26\nProvides-Extra: bulk\n"
    'Requires-Dist: pyarrow>=17; extra == "bulk"\n\nRequires-Dist: llama-cpp-python in the description stays\n'
)
PKG_INFO = (
    "Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 0.3.36\nLicense: MIT\nRequires-Dist: jinja2>=2.11.3\n"
    'Provides-Extra: server\nRequires-Dist: fastapi; extra == "server"\nDescription-Content-Type: text/markdown\n'
    "\n# bindings\n"
)
LIBRARIES = ("libllama.so", "libggml.so", "libggml.so.0", "libggml-base.so.0", "libgomp.so.1")
MODULES = ("libggml-cpu-x64.so", "libggml-cpu-haswell.so")


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Return a folder with everything that pack.py takes, with libraries that hold a word."""
    with zipfile.ZipFile(tmp_path / "edgeembed-1.2.3-cp311-cp311-linux_x86_64.whl", "w") as plain:
        plain.writestr("edgeembed/__init__.py", "")
        plain.writestr("edgeembed/engine/kernels/_kernels.cpython-311-x86_64-linux-gnu.so", b"for one Python")
        plain.writestr("edgeembed-1.2.3.dist-info/METADATA", METADATA)
        plain.writestr("edgeembed-1.2.3.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: cp311-cp311-linux_x86_64\n")
        plain.writestr("edgeembed-1.2.3.dist-info/licenses/LICENSE", "ours")
        plain.writestr("edgeembed-1.2.3.dist-info/RECORD", "")
    source = tmp_path / "source"
    for name, text in {
        "llama_cpp/__init__.py": 'from .llama_cpp import *\n\n__version__ = "0.3.36"\n',
        "llama_cpp/llama_cpp.py": "LLAMA = 1\n",
        "llama_cpp/_ctypes_extensions.py": "",
        "llama_cpp/_ggml.py": "",
        "llama_cpp/llama_chat_format.py": "import jinja2\n",
        "LICENSE.md": "bindings' licence",
        "vendor/llama.cpp/LICENSE": "llama.cpp's licence",
        "PKG-INFO": PKG_INFO,
    }.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text, encoding="utf-8")
    (tmp_path / "libraries").mkdir()
    for name in (*LIBRARIES, *MODULES):
        (tmp_path / "libraries" / name).write_bytes(name.encode())
    (tmp_path / "kernels.so").write_bytes(b"for every Python")
    (tmp_path / "gcc.txt").write_text("GCC's licence", encoding="utf-8")
    return tmp_path


def pack(parts: Path) -> Path:
    pack = load("wheel/pack.py")
    vendored = pack.vendored_files(parts / "source", parts / "libraries", parts / "gcc.txt")
    made: Path = pack.pack(next(parts.glob("*.whl")), vendored, b"for every Python", "linux_x86_64", parts / "out")
    return made


def install(wheel: Path, folder: Path) -> Path:
    # Works on other platforms, too: nothing in it is run.
    options = ["--no-deps", "--no-index", "--quiet", "--target", str(folder)]
    if sys.platform != "linux":
        options += ["--platform", "linux_x86_64", "--only-binary=:all:"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    return folder


def test_pip_installs_the_wheel_which_requires_nothing_that_must_be_compiled(parts: Path) -> None:
    wheel = pack(parts)
    assert wheel.name == "edgeembed-1.2.3-py3-none-linux_x86_64.whl"
    site = install(wheel, parts / "site")
    found = PathDistribution(site / "edgeembed-1.2.3.dist-info")
    assert found.requires == [
        "aiohttp<4,>=3.11", "typing-extensions>=4.5.0", "numpy<3,>=1.26", 'pyarrow>=17; extra == "bulk"'
    ]  # fmt: skip
    assert "llama-cpp-python in the description stays" in (found.read_text("METADATA") or "")
    assert "Tag: py3-none-linux_x86_64" in (found.read_text("WHEEL") or "")
    kernels = site / "edgeembed" / "engine" / "kernels"
    assert [file.name for file in kernels.iterdir()] == ["_kernels.so"]
    assert (kernels / "_kernels.so").read_bytes() == b"for every Python"
    # An installed llama-cpp-python keeps its files.
    assert not (site / "llama_cpp").exists()
    licences = {path.read_text(encoding="utf-8") for path in site.rglob("licenses/*")}
    assert licences == {"ours", "bindings' licence", "llama.cpp's licence", "GCC's licence"}


def test_the_copy_inside_is_used_without_an_installed_package(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vendored = install(pack(parts), parts / "site") / "edgeembed" / "engine" / "vendored"
    installed = machine.build_fingerprint()
    monkeypatch.setattr(llama_package, "VENDORED", vendored)
    monkeypatch.setattr(licenses, "VENDORED", vendored)
    spec = llama_package.find_package()
    assert spec is not None and spec.origin == str(vendored / "llama_cpp" / "__init__.py")
    assert library_folder({}) == vendored / "llama_cpp" / "lib"
    assert execution_modes.cpu_modes() == execution_modes.PORTABLE_CPU_MODES
    assert machine.build_fingerprint() != installed and machine.build_fingerprint().startswith("0.3.36-")
    assert {row.name: row.license for row in licenses.dependencies("edgeembed")}["llama_cpp_python"] == "MIT"


def test_another_build_is_another_fingerprint(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = install(pack(parts), parts / "site")
    (parts / "libraries" / "libllama.so").write_bytes(b"repaired")
    second = install(pack(parts), parts / "other")
    module = parts / "libggml-vulkan.so"
    module.write_bytes(b"for cards")
    with_module = load("wheel/add_module.py").add_module(pack(parts), module, "vulkan", parts / "vulkan")
    assert with_module.name == "edgeembed-1.2.3+vulkan-py3-none-linux_x86_64.whl"
    third = install(with_module, parts / "third")
    assert (third / "edgeembed/engine/vendored/llama_cpp/lib/libggml-vulkan.so").read_bytes() == b"for cards"
    fingerprints = set()
    for site in (first, second, third):
        monkeypatch.setattr(llama_package, "VENDORED", site / "edgeembed" / "engine" / "vendored")
        fingerprints.add(machine.build_fingerprint())
    assert len(fingerprints) == 3


def test_without_any_llama_cpp_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_package, "VENDORED", tmp_path / "absent")
    monkeypatch.setattr(llama_package, "PACKAGE", "llama_cpp_that_nobody_has")
    monkeypatch.setattr(llama_package, "DISTRIBUTION", "llama-cpp-python-that-nobody-has")
    assert llama_package.package_folder() is None and library_folder({}) is None
    assert machine.build_fingerprint() == "none"
    assert execution_modes.cpu_modes() == execution_modes.CPU_MODES


@pytest.mark.parametrize(
    ("lost", "words"),
    [("libggml-base.so.0", "has no libggml-base.so.0"), (MODULES, "has no modules for processors")],
)
def test_libraries_that_would_not_work_are_refused(parts: Path, lost: str | tuple[str, ...], words: str) -> None:
    for name in (lost,) if isinstance(lost, str) else lost:
        (parts / "libraries" / name).unlink()
    with pytest.raises(ValueError, match=words):
        pack(parts)


def test_a_wheel_that_is_packed_already_is_refused(parts: Path) -> None:
    packed = pack(parts)
    next(parts.glob("*.whl")).unlink()
    packed.rename(parts / packed.name)
    with pytest.raises(ValueError, match="does not require llama-cpp-python"):
        pack(parts)


def test_the_same_parts_make_the_same_wheel(parts: Path) -> None:
    first = pack(parts).read_bytes()
    assert pack(parts).read_bytes() == first


@pytest.mark.parametrize(
    ("platform", "libraries"),
    [
        (
            "macosx_11_0_arm64",
            ("libllama.dylib", "libggml.dylib", "libggml-base.dylib", "libggml-cpu.dylib", "libggml-metal.dylib"),
        ),
        ("win_amd64", ("llama.dll", "ggml.dll", "ggml-base.dll", "ggml-cpu-x64.dll", "msvcp140.dll")),
    ],
)
def test_the_wheels_of_other_systems_have_their_libraries_and_no_kernels(
    parts: Path, tmp_path: Path, platform: str, libraries: tuple[str, ...]
) -> None:
    """As build_here.py makes them, of a wheel of llama-cpp-python that was compiled there."""
    here, pack = load("wheel/build_here.py"), load("wheel/pack.py")
    llama = tmp_path / "llama_cpp_python-0.3.36-py3-none-any.whl"
    with zipfile.ZipFile(llama, "w") as packed:
        for name in libraries:
            packed.writestr(f"llama_cpp/lib/{name}", name)
            packed.writestr(f"lib/{name}", "a second copy, which CMake installs")
        packed.writestr("llama_cpp/lib/llama.lib", "for linkers")
    folder = here.extract_libraries(llama, tmp_path / "extracted")
    assert sorted(path.name for path in folder.iterdir()) == sorted(libraries)
    made = pack.pack(
        next(parts.glob("edgeembed-*.whl")),
        pack.vendored_files(parts / "source", folder, None),
        None,
        platform,
        tmp_path / "out",
    )
    assert made.name == f"edgeembed-1.2.3-py3-none-{platform}.whl"
    names = zipfile.ZipFile(made).namelist()
    assert {f"edgeembed/engine/vendored/llama_cpp/lib/{name}" for name in libraries} <= set(names)
    assert not [name for name in names if "_kernels" in name or name.endswith("gcc.txt")]
    (folder / libraries[1]).unlink()
    with pytest.raises(ValueError, match=f"has no {libraries[1]}"):
        pack.vendored_files(parts / "source", folder, None)


@pytest.mark.parametrize(
    ("system", "machine", "tag"),
    [("darwin", "arm64", "macosx_11_0_arm64"), ("darwin", "x86_64", "macosx_11_0_x86_64"), ("win32", "AMD64", "win_amd64")],
)
def test_wheels_are_named_after_the_system_that_they_were_compiled_for(system: str, machine: str, tag: str) -> None:
    here = load("wheel/build_here.py")
    assert here.platform_tag(system, machine) == tag
    with pytest.raises(ValueError, match="no wheel is made for win32 on arm64"):
        here.platform_tag("win32", "ARM64")
