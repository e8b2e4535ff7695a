"""What an unfinished job remembers of the engine that it began with."""

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


def test_another_build_is_no_reason_to_stop_but_is_told() -> None:
    now = msgspec.structs.replace(BEFORE, engine="another build")
    BEFORE.require_same(now)
    told = BEFORE.last_digits(now)
    assert told is not None
    assert "one build" in told
    assert "another build" in told
    assert BEFORE.last_digits(BEFORE) is None
    unknown = msgspec.structs.replace(BEFORE, engine="", batch_tokens=0)
    assert BEFORE.last_digits(unknown) is None, "a daemon does not tell"
    assert unknown.last_digits(BEFORE) is None, "a job of an older version did not ask"


def test_a_job_goes_on_with_batches_of_the_size_that_it_began_with(tmp_path: Path) -> None:
    output = Output.of(f"{tmp_path}/v.npy")

    def job(*, resume: bool, overwrite: bool = False) -> Job:
        return Job(inputs=["a"], output=output, rules=BEFORE.rules, resume=resume, overwrite=overwrite)

    assert batch_tokens_of(job(resume=True)) is None
    output.work().folder.mkdir(parents=True)
    output.work().begin(BEFORE)
    assert batch_tokens_of(job(resume=True)) == 96
    assert batch_tokens_of(job(resume=False)) is None
    assert batch_tokens_of(job(resume=True, overwrite=True)) is None
    output.work().begin(msgspec.structs.replace(BEFORE, batch_tokens=0))
    assert batch_tokens_of(job(resume=True)) is None
