"""The workflows: what they call exists, permissions are as small as steps allow, a tag is checked before anything is built.

They run on another company's machines only. `actionlint` checks their grammar; these tests, what it cannot know.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.installers.loading import ROOT

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS: dict[str, dict[Any, Any]] = {
    path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yml"))
}
RELEASE = WORKFLOWS["release.yml"]["jobs"]
WRITES = {
    "release": {"contents": "write", "id-token": "write", "attestations": "write"},
    "pypi": {"id-token": "write"},
    "container": {"packages": "write"},
}
"""All that any job may write, and why it has a job of its own."""
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")


def steps() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return workflow and job, the job, and a step of it, for all steps."""
    return [
        (f"{file}: {name}", job, step)
        for file, workflow in WORKFLOWS.items()
        for name, job in workflow["jobs"].items()
        for step in job.get("steps", [])
    ]


def test_each_script_that_a_step_runs_exists() -> None:
    found = set()
    for name, _job, step in steps():
        for path in re.findall(r"(?<![\w/.])(?:\./)?((?:\.ci/run\b|installers/[\w./-]*\w))", step.get("run", "")):
            assert (ROOT / path).is_file(), f"{name}: {path}"
            found.add(path)
    assert {
        ".ci/run",
        "installers/release.py",
        "installers/manifests.py",
        "installers/wheel/build.sh",
        "installers/wheel/build_here.py",
        "installers/deb/build.sh",
        "installers/bundle/build.sh",
        "installers/windows/build.ps1",
        "installers/macos/build.sh",
        "installers/docker/Dockerfile",
    } <= found


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not on this machine (apt install shellcheck)")
def test_commands_of_steps_pass_shellcheck(tmp_path: Path) -> None:
    checked = 0
    for name, job, step in steps():
        if "run" not in step or "windows" in str(job["runs-on"]):
            continue
        assert "${{" not in step["run"], f"{name}: pass values as variables, which the shell does not interpret"
        shell = "sh" if "container" in job and not job.get("defaults") else "bash"  # what runners take without a setting
        script = tmp_path / "step"
        script.write_text(f"#!/usr/bin/env {shell}\nset -e\n{step['run']}")
        done = subprocess.run(
            ["shellcheck", "-s", shell, "-e", "SC1091", script], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{name}\n{done.stdout}"
        checked += 1
    assert checked > 10


def test_actions_are_pinned_to_commits() -> None:
    """A tag of someone else's repository can be moved; whoever moves it would build our packages."""
    for name, _job, step in steps():
        assert "uses" not in step or PINNED.fullmatch(step["uses"]), f"{name}: {step['uses']}"
    reused = [job["uses"] for workflow in WORKFLOWS.values() for job in workflow["jobs"].values() if "uses" in job]
    assert reused == ["./.github/workflows/ci.yml"]


def test_permissions_are_what_each_job_needs() -> None:
    for file, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {"contents": "read"}, file
        for name, job in workflow["jobs"].items():
            assert job.get("permissions", {}) == (WRITES.get(name, {}) if file == "release.yml" else {}), f"{file}: {name}"
    for name, job, step in steps():
        if "actions/checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False, f"{name}: its steps would find the token in .git/config"
        # A job that may write runs our scripts, the runner's programs and nothing that it downloads and does not pin.
        if "permissions" in job:
            assert not re.search(r"\b(pip|npm|apt-get|curl|choco)\b", step.get("run", "")), name


def needed(name: str) -> set[str]:
    """Return the jobs that end before a job starts."""
    found = RELEASE[name].get("needs", [])
    first = {found} if isinstance(found, str) else set(found)
    return first.union(*(needed(other) for other in first)) if first else set()


def test_nothing_is_built_before_the_tag_is_checked_and_nothing_published_before_all_is_built() -> None:
    checks = [step for step in RELEASE["version"]["steps"] if "release.py --check" in step.get("run", "")]
    assert [step["if"] for step in checks] == ["github.ref_type == 'tag'"]
    builds = set(RELEASE) - {"version", *WRITES}
    for name in builds:
        assert "version" in needed(name), name
    for name in WRITES:
        assert builds <= needed(name), name
        assert RELEASE[name]["if"] == "github.ref_type == 'tag'", name


def test_jobs_end_in_time() -> None:
    for file, workflow in WORKFLOWS.items():
        for name, job in workflow["jobs"].items():
            assert "uses" in job or job["timeout-minutes"] <= 90, f"{file}: {name}"


def test_every_platform_is_built() -> None:
    for name in ("musllinux-wheels", "linux-packages"):
        assert [one["arch"] for one in RELEASE[name]["strategy"]["matrix"]["include"]] == ["x86_64", "aarch64"], name
    assert RELEASE["manylinux-wheels"]["strategy"]["matrix"]["arch"] == ["x86_64", "aarch64"]
    assert RELEASE["other-wheels"]["strategy"]["matrix"]["system"] == ["macos-15", "macos-15-intel", "windows-2025"]
    uploads = [step["with"]["path"] for _, _, step in steps() if "upload-artifact" in step.get("uses", "")]
    for ending in (".whl", ".deb", ".tar.xz", "windows-x64.exe", ".dmg", "image-*.tar.gz"):
        assert any(ending in path for path in uploads), ending
