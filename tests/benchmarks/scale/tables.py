"""The tables of docs/scale.md, one function each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

from edgeembed.bulk.fragments import FRAGMENT_ROWS
from tests.benchmarks.scale import limits, serving
from tests.benchmarks.scale.checks import checks
from tests.benchmarks.scale.failures import Job, Outcome, hourly_failures, simulate
from tests.benchmarks.scale.inputs import Inputs, sources, with_values
from tests.benchmarks.scale.rates import (
    LENGTHS,
    MINILM,
    MODELS,
    QWEN,
    WORKERS_A_BOX,
    Kind,
    Model,
    hour_usd,
    million_usd,
    shard_rows,
    store_requests,
    store_usd,
    worker_rate,
)

WORKERS = (1, 10, 100, 1000)
KINDS: dict[Kind, str] = {"cpu": "2 vCPUs", "l4": "L4 (not measured)", "h100": "H100 (not measured)"}
BILLION = 1e9
HOURS_MONTH = 730
SEEDS = range(5)

Table = Callable[[Inputs], Iterator[str]]


def markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def short(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, and commas."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    rounded = round(value, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{rounded:,.{decimals}f}"


def hours(seconds: float) -> str:
    """Return a time in seconds, minutes, hours, days or years."""
    for unit, size, least in (("years", 8760 * 3600, 1), ("days", 86400, 3), ("h", 3600, 1), ("min", 60, 1)):
        if seconds >= least * size:
            return f"{short(seconds / size)} {unit}"
    return f"{short(seconds)} s"


def usd(value: float) -> str:
    """Return money."""
    return short(value) if value < 1000 else f"{round(value, 2 - math.floor(math.log10(value))):,.0f}"


@lru_cache(maxsize=1000)
def outcome(given: Inputs, job: Job, seed: int = 1) -> Outcome:
    """Return a simulated job; the same one is simulated once."""
    return simulate(given, job, seed)


def answer(given: Inputs) -> Iterator[str]:
    """A billion texts of 100 tokens: time by the number of workers, and money with 100."""

    def rows() -> Iterator[list[str]]:
        for model in MODELS:
            for kind, name in KINDS.items():
                if kind == "cpu" and model.products > QWEN.products:
                    continue
                jobs = [outcome(given, Job(model, 100, BILLION, count, kind)) for count in WORKERS]
                spot = outcome(given, Job(model, 100, BILLION, 100, kind, spot=True))
                yield [model.name, name, *(hours(job.seconds) for job in jobs), usd(jobs[2].usd), usd(spot.usd)]

    titles = ["model", "a worker is", *(f"{count:,} worker{'s'[: count - 1]}" for count in WORKERS)]
    return markdown([*titles, "USD, 100 workers", "the same on spot"], rows())


def rates(given: Inputs) -> Iterator[str]:
    """Texts per second and cost per million, for each model, machine and length."""

    def rows() -> Iterator[list[str]]:
        for model in MODELS:
            for kind, name in KINDS.items():
                if kind == "cpu" and model.products > QWEN.products:
                    continue
                for tokens in LENGTHS:
                    rate = worker_rate(given, model, tokens, kind)
                    most = limits.most_texts(given, model, tokens, kind)
                    each = [short(min(rate * count, most)) + ("*" if rate * count > most else "") for count in WORKERS]
                    money = [usd(million_usd(given, model, tokens, kind, spot=spot)) for spot in (False, True)]
                    yield [model.name, name, str(tokens), *each, *money]

    titles = ["model", "a worker is", "tokens", *(f"texts/s, {count:,}" for count in WORKERS)]
    return markdown([*titles, "USD a million", "on spot"], rows())


def bulk_limits(given: Inputs) -> Iterator[str]:
    """What limits bulk jobs."""
    of_case = [limits.bulk_limits(given, model, tokens, kind) for _, model, tokens, kind in limits.BULK_CASES]

    def rows() -> Iterator[list[str]]:
        for number, limit in enumerate(of_case[0]):
            cases = zip(of_case, limits.BULK_CASES, strict=True)
            at = [short(limits.reached_at(given, found[number], case), 2) for found, case in cases]
            texts = short(limit.texts) if math.isfinite(limit.texts) else ""
            yield [limit.name, limit.arithmetic, texts, *at, limit.then]
        shares = [f"{limits.network_share(given, case):.1%} of it" for case in limits.BULK_CASES]
        yield ["network of a worker", f"{given.worker_network / 1e6:g} MB/s", "", *shares, "int8 or fewer dimensions"]

    titles = ["limit", "arithmetic", "texts/s", *(f"workers: {case[0]}" for case in limits.BULK_CASES), "then"]
    return markdown(titles, rows())


def bulk_sizes(given: Inputs) -> Iterator[str]:
    """What grows with a job, but not with its workers."""

    def rows() -> Iterator[list[str]]:
        for texts in (1e6, 1e8, 1e9, 1e10):
            terabytes = [texts * model.bytes_row(given) / 1e12 for model in (MINILM, QWEN)]
            money = texts * store_usd(given, MINILM, 100, FRAGMENT_ROWS)
            month = [1000 * each * given.month_usd for each in terabytes]
            yield [
                f"{texts:,.0f}",
                f"{math.ceil(texts / shard_rows(given, 100)):,}",
                f"{math.ceil(texts / FRAGMENT_ROWS):,}",
                f"{short(limits.driver_mib(given, texts))} MiB",
                *(f"{short(each)} TB" for each in terabytes),
                usd(money),
                *(usd(each) for each in month),
            ]

    titles = ["texts of 100 tokens", "shards", "fragments", "driver", "output, 384 numbers", "1,024 numbers"]
    return markdown([*titles, "USD, requests", "USD a month, 384", "1,024"], rows())


def planning(given: Inputs) -> Iterator[str]:
    """Time to plan Parquet files."""

    def rows() -> Iterator[list[str]]:
        for parallel in (1, int(given.plan_parallel), 64):
            asked = with_values(given, {"plan_parallel": parallel})
            yield [str(parallel), *(hours(limits.plan_seconds(asked, files)) for files in (100, 1000, 10_000, 100_000))]

    return markdown(["footers at a time", "100 files", "1,000", "10,000", "100,000"], rows())


def billion(given: Inputs) -> Iterator[str]:
    """A billion texts, end to end, on workers that vanish."""

    def rows() -> Iterator[list[str]]:
        cases: tuple[tuple[Model, Kind, int, bool], ...] = (
            (MINILM, "cpu", 100, False),
            (MINILM, "cpu", 1000, False),
            (MINILM, "cpu", 100, True),
            (MINILM, "cpu", 1000, True),
            (MINILM, "l4", 10, True),
            (QWEN, "cpu", 1000, True),
            (QWEN, "l4", 100, False),
            (QWEN, "l4", 100, True),
            (QWEN, "h100", 10, True),
        )
        for model, kind, workers, spot in cases:
            job = Job(model, 100, BILLION, workers, kind, spot)
            found = [outcome(given, job, seed) for seed in SEEDS]
            lost = sum(each.lost for each in found) / len(found)
            failures = sorted(each.failures for each in found)
            yield [
                f"{model.name}, {workers:,} × {KINDS[kind]}{', spot' if spot else ''}",
                hours(found[0].ideal),
                hours(sum(each.seconds for each in found) / len(found)),
                f"{failures[2]} ({failures[0]} to {failures[-1]})",
                f"{short(lost, 2)} ({lost / (BILLION / shard_rows(given, 100)):.2%})",
                hours(sum(each.tail for each in found) / len(found)),
                f"{sum(each.idle for each in found) / len(found):.1%}",
                usd(sum(each.usd for each in found) / len(found)),
            ]

    titles = ["job", "without failures and ends", "simulated", "boxes that failed", "shards computed twice"]
    return markdown([*titles, "half of the workers idle", "worker time without work", "USD"], rows())


def fragments(given: Inputs) -> Iterator[str]:
    """The end of a job by the size of its fragments."""

    def rows() -> Iterator[list[str]]:
        for size in (8192, 65_536, 122_880, 1_048_576):
            cells = []
            for workers in (100, 1000):
                job = Job(MINILM, 100, BILLION, workers, "cpu", True, size)
                found = outcome(given, job)
                cells += [f"{found.seconds / found.ideal - 1:.1%}", short(found.lost, 2)]
            yield [f"{size:,}", f"{math.ceil(BILLION / size):,}", *cells]

    titles = ["rows of a fragment", "fragments", "100 workers: longer by", "shards twice"]
    return markdown([*titles, "1,000 workers: longer by", "shards twice"], rows())


def faults(given: Inputs) -> Iterator[str]:
    """What is expected to fail in a job of a billion texts on 1,000 spot workers, and what it costs."""
    job = Job(MINILM, 100, BILLION, 1000, "cpu", True)
    box_hours = outcome(given, job).seconds / 3600 * job.boxes
    requests = BILLION * sum(store_requests(given, job.model, job.tokens, job.fragment_rows))
    shares = {
        "a spot box is taken away": (f"{box_hours:,.0f} box hours × {given.spot_hour:g}", box_hours * given.spot_hour),
        "a box breaks": (f"{box_hours:,.0f} box hours / {given.box_mtbf_h:,.0f} h", box_hours / given.box_mtbf_h),
        "the store answers 5xx": (f"{requests:,.0f} requests × {given.store_error:g}", requests * given.store_error),
        "a processor computes wrongly": (f"{job.boxes} boxes × {given.corrupt_boxes:g}", job.boxes * given.corrupt_boxes),
    }
    costs = [
        f"about {WORKERS_A_BOX[job.kind]} shards, computed again",
        f"about {WORKERS_A_BOX[job.kind]} shards, computed again",
        "another request; a shard only if all attempts fail",
        f"unnoticed if its rows look sound: up to 1/{job.boxes} of all",
    ]
    rows = [[name, how, short(count, 2), cost] for (name, (how, count)), cost in zip(shares.items(), costs, strict=True)]
    shards = BILLION / shard_rows(given, job.tokens) / job.workers
    driver = f"`--resume`: two requests for a shard that is there, {hours(2 * shards * given.first_byte_s)} for each worker"
    return markdown(
        ["fault", "arithmetic", "expected", "each costs"],
        [*rows, ["the driver, or Ray's head node, dies", "one process", "", driver]],
    )


def latency(given: Inputs) -> Iterator[str]:
    """Latency of one box under load."""

    def rows() -> Iterator[list[str]]:
        for share in (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95):
            rate = share * serving.most_texts(given)
            found = serving.opened(given, rate)
            yield [f"{share:.0%}", short(rate), short(found.texts, 2), short(found.p50, 2), short(found.p99, 2)]

    return markdown(["load", "new texts/s", "texts of a pass", "p50, ms", "p99, ms"], rows())


def boxes(given: Inputs) -> Iterator[str]:
    """Boxes for a load, by the p99 that is wanted and by hits."""

    def rows() -> Iterator[list[str]]:
        for rate in (100, 1000, 10_000, 100_000):
            cells = [f"{rate:,}"]
            for hits in (0.0, 0.5, 0.9):
                for bound in (20, 50):
                    cells.append(f"{serving.replicas(given, rate * (1 - hits), bound, rate * hits):,}")
            yield [*cells, usd(int(cells[4].replace(",", "")) * given.price_cpu * HOURS_MONTH)]

    titles = ["requests/s"]
    titles += [f"{name}, p99 ≤ {bound} ms" for name in ("no hits", "half hits", "90 % hits") for bound in (20, 50)]
    return markdown([*titles, "USD a month: half hits, 50 ms"], rows())


def models(given: Inputs) -> Iterator[str]:
    """What a box or a card serves of each model, and how many are needed for 1,000 new texts a second."""

    def rows() -> Iterator[list[str]]:
        for model in MODELS:
            for kind, name in KINDS.items():
                if kind == "h100" or (kind == "cpu" and model.products > QWEN.products):
                    continue
                asked = serving.served(given, model, serving.WORDS_10, kind)
                most = serving.most_texts(asked)
                alone, half = serving.opened(asked, most / 1000, 4000), serving.opened(asked, most / 2)
                count = serving.replicas(asked, 1000, 100)
                month = count * hour_usd(given, kind, spot=False) * HOURS_MONTH
                latencies = [short(each, 2) for each in (alone.p50, half.p50, half.p99)]
                yield [model.name, name, short(most), *latencies, f"{count:,}", usd(month)]

    titles = ["model", "a box is", "new texts/s at most", "p50 alone, ms", "p50 at half load", "p99 at half load"]
    return markdown([*titles, "boxes for 1,000 texts/s, p99 ≤ 100 ms", "USD a month"], rows())


def serving_limits(given: Inputs) -> Iterator[str]:
    """What limits interactive requests."""
    found = limits.serving_limits(given)
    rows = ([each.name, each.arithmetic, short(each.requests), each.then] for each in found)
    return markdown(["limit", "arithmetic", "requests/s", "then"], rows)


def hits(given: Inputs) -> Iterator[str]:
    """Hits of several boxes by text and by round robin."""

    def rows() -> Iterator[list[str]]:
        for different in (1_000_000, 10_000_000, 100_000_000):
            for count in (1, 3, 10, 30):
                text = serving.long_run_hits(given, count, different, hashed=True)
                turns = serving.long_run_hits(given, count, different, hashed=False)
                cells = [f"{different:,}", str(count), *(f"{each:.0%}" for each in (*text, *turns))]
                saved = (1 - turns[1]) / max(1 - text[1], 1e-9)
                ratio = short(saved, 2) if saved < 100 else "none by text"
                yield [*cells, ratio, f"{short(different * given.redis_bytes / 1e9, 2)} GB"]

    titles = ["different texts", "boxes", "by text: memory", "and disk", "round robin: memory", "and disk"]
    return markdown([*titles, "computed: round robin / by text", "a shared cache of all"], rows())


def sensitivity(given: Inputs) -> Iterator[str]:
    """Which inputs matter most for a billion texts of MiniLM on 1,000 spot workers, and of Qwen3-0.6B on 100 L4."""
    cases = (Job(MINILM, 100, BILLION, 1000, "cpu", True), Job(QWEN, 100, BILLION, 100, "l4", True))

    def rows() -> Iterator[tuple[float, list[str]]]:
        for name, value, source in sources():
            if source.low == source.high:
                continue
            spread, cells = 0.0, [f"`{name}`", f"{value:g} ({source.low:g} to {source.high:g})"]
            for job in cases:
                ends = [outcome(with_values(given, {name: end}), job).usd for end in (source.low, source.high)]
                spread = max(spread, max(ends) / min(ends))
                cells.append(" to ".join(usd(end) for end in ends))
            yield spread, cells

    ranked = sorted(rows(), key=lambda row: -row[0])[:10]
    base = [usd(outcome(given, job).usd) for job in cases]
    titles = ["input", "value (range)", f"USD, MiniLM on CPUs ({base[0]})", f"USD, Qwen3-0.6B on L4 ({base[1]})"]
    return markdown(titles, (cells for _, cells in ranked))


def held(given: Inputs) -> Iterator[str]:
    """Predictions against measurements."""

    def rows() -> Iterator[list[str]]:
        for each in checks(given):
            shown = [f"{value:.1%}" if each.share else short(value) for value in (each.predicted, each.measured)]
            error = f"{100 * each.error:+.1f} points" if each.share else f"{each.error:+.1%}"
            yield [each.name, *shown, error, f"{100 * each.bound:g} {'points' if each.share else '%'}", each.where]

    return markdown(["figure", "predicted", "measured", "error", "stated", "where"], rows())


def inputs(given: Inputs) -> Iterator[str]:
    """All inputs."""

    def rows() -> Iterator[list[str]]:
        for name, _, source in sources():
            value = getattr(given, name)
            span = "" if source.low == source.high else f"{source.low:g} to {source.high:g}"
            yield [f"`{name}`", f"{value:,g}" if value < 1e7 else f"{value:g}", source.unit, source.kind, span, source.text]

    return markdown(["input", "value", "unit", "", "range", "source"], rows())


def peers(given: Inputs) -> Iterator[str]:
    """Published figures of others on a card, and what the arithmetic says of their models."""
    each_ms = 2 * 7000e6 / (given.l4_tflops * 1e12 * given.gpu_share) * 1000
    base_ms = 2 * 110e6 * 150 / (given.l4_tflops * 1e12 * given.gpu_share) * 1000
    rows = [
        ["7 billion parameters on an L4, tokens/s", "2,000", short(1000 / each_ms), "Introl, 2025"],
        [
            "gte-modernbert-base (110 M multiplications a token) on an L4 over HTTP, texts/s; 150 tokens assumed",
            "543",
            short(1000 / base_ms),
            "Hugging Face, 2025: 409 USD for a billion at 0.80 USD/h",
        ],
    ]
    return markdown(["peer", "published", "2 · multiplications / (peak · `gpu_share`)", "source"], rows)


TABLES: dict[str, Table] = {
    "answer": answer,
    "rates": rates,
    "bulk limits": bulk_limits,
    "sizes": bulk_sizes,
    "planning": planning,
    "billion": billion,
    "fragments": fragments,
    "faults": faults,
    "latency": latency,
    "boxes": boxes,
    "models": models,
    "serving limits": serving_limits,
    "hits": hits,
    "sensitivity": sensitivity,
    "held": held,
    "peers": peers,
    "inputs": inputs,
}
"""By the names of their marks in the page."""


def own_job(given: Inputs, job: Job) -> Iterator[str]:
    """Describe one job."""
    rate = worker_rate(given, job.model, job.tokens, job.kind)
    found = outcome(given, job)
    spot = " on spot" if job.spot else ""
    rows = [
        ["a worker", f"{short(rate)} texts/s, {hour_usd(given, job.kind, spot=job.spot):.4g} USD an hour"],
        ["all workers", f"{short(rate * job.workers)} texts/s"],
        ["a million texts", f"{usd(million_usd(given, job.model, job.tokens, job.kind, spot=job.spot))} USD"],
        ["the job", f"{hours(found.seconds)}, {usd(found.usd)} USD; without failures and ends {hours(found.ideal)}"],
        ["failures", f"{found.failures} boxes of {job.boxes}, {hourly_failures(given, spot=job.spot):.2g} an hour and box"],
        ["computed twice", f"{short(found.lost, 2)} of {math.ceil(job.texts / shard_rows(given, job.tokens)):,} shards"],
        ["output", f"{short(job.texts * job.model.bytes_row(given) / 1e9)} GB"],
        ["driver", f"{job.fragments:,} fragments, {short(limits.driver_mib(given, job.texts, job.fragment_rows))} MiB"],
    ]
    title = f"{job.texts:,.0f} texts of {job.tokens} tokens, {job.model.name}, {job.workers:,} × {KINDS[job.kind]}{spot}"
    return markdown([title, ""], rows)
