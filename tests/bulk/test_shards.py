"""What an unfinished job records about its engine."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeembed.bulk.job import Job, batch_tokens_of
from edgeembed.bulk.outputs import Output
from edgeembed.bulk.shards import JobManifest, JobRules

BEFORE = JobManifest(
    inputs=["a"],
    rules=JobRules(format="npy"),
    model="m",
    digest="d",
    dimensions=8,
    ids="int",
    batch_tokens=96,
    engine="one build",
)


def test_another_build_continues_the_job_with_a_warning() -> None:
    now = msgspec.structs.replace(BEFORE, engine="another build")
    BEFORE.require_same(now)
    warning = BEFORE.last_digits(now)
    assert warning is not None
    assert "one build" in warning
    assert "another build" in warning
    assert BEFORE.last_digits(BEFORE) is None
    unknown = msgspec.structs.replace(BEFORE, engine="", batch_tokens=0)
    assert BEFORE.last_digits(unknown) is None, "a daemon does not report them"
    assert unknown.last_digits(BEFORE) is None, "a job of an older version has none"


def test_a_resumed_job_keeps_its_batch_size(tmp_path: Path) -> None:
    output = Output.of(f"{tmp_path}/v.npy")

    def job(*, resume: bool, overwrite: bool = False) -> Job:
        return Job(inputs=["a"], output=output, rules=BEFORE.rules, resume=resume, overwrite=overwrite)

    assert batch_tokens_of(job(resume=True)) is None
    output.work().folder.mkdir(parents=True)
    output.work().begin(BEFORE)
    assert batch_tokens_of(job(resume=True)) == 96
    assert batch_tokens_of(job(resume=False)) is None
    assert batch_tokens_of(job(resume=True, overwrite=True)) == 96
    assert batch_tokens_of(job(resume=False, overwrite=True)) is None
    output.work().begin(msgspec.structs.replace(BEFORE, batch_tokens=0))
    assert batch_tokens_of(job(resume=True)) is None
