"""What an edit changes, key by key, and what each change takes."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from supervisor.config import load, spelled
from supervisor.config.changes import changes, clashes, without_restart
from supervisor.core.limits import ApiLimits, GpuLimits, JobLimits, Limits, MemoryLimits, ScheduleSpec, SupervisorLimits, Watchdog, WorkerSpec

WORDS = WorkerSpec(command=("words",))
NIGHTLY = ScheduleSpec(cron="0 3 * * *", kind="words.count")
OLD = Limits(workers={"words": WORDS})
EDITS = [
    ("a limit", replace(OLD, memory=MemoryLimits(look_every_s=5.0)), ['memory.look_every: "10s" -> "5s" (at once)']),
    ("a budget", replace(OLD, gpu=GpuLimits(host_budget_bytes=2**30)), ['gpu.host_budget: "16GiB" -> "1GiB" (at once)']),
    ("a folder", replace(OLD, supervisor=SupervisorLimits(log_dir="x")), ['supervisor.log_dir: "logs" -> "x" (after a restart of Warden)']),
    ("a backend", replace(OLD, jobs=JobLimits(backend="memory")), ['jobs.backend: "sqlite" -> "memory" (after a restart of Warden)']),
    (
        "a worker's own clock",
        replace(OLD, workers={"words": replace(WORDS, watchdog=Watchdog(stall_after_s=60.0))}),
        ['workers.words.stall_after: "10m" -> "1m" (at once)'],
    ),
    (
        "a phase",
        replace(OLD, workers={"words": replace(WORDS, phases={"validate": 1800.0, "check data set": 3600.0})}),
        ['workers.words.phases.validate: not set -> "30m" (at once)', 'workers.words.phases."check data set": not set -> "1h" (at once)'],
    ),
    (
        "what a process got at its start",
        replace(OLD, workers={"words": replace(WORDS, command=("words", "-v"), gpu_bytes=2**30)}),
        [
            'workers.words.command: ["words"] -> ["words", "-v"] (with a fresh process, at the next boundary of its work)',
            'workers.words.gpu: "0" -> "1GiB" (with a fresh process, at the next boundary of its work)',
        ],
    ),
    ("where HTTP is served", replace(OLD, api=ApiLimits(bind="off")), ['api.bind: "127.0.0.1:8650" -> "off" (after a restart of Warden)']),
    (
        "what HTTP takes",
        replace(OLD, api=ApiLimits(max_upload_bytes=2**30)),
        ['api.max_upload: "2GiB" -> "1GiB" (with a fresh process, at the next boundary of its work)'],
    ),
    ("how long jobs are kept", replace(OLD, jobs=JobLimits(keep_finished_s=7200.0)), ['jobs.keep_finished: "1h" -> "2h" (at once)']),
    ("a schedule that came", replace(OLD, schedules={"nightly": NIGHTLY}), ["schedules.nightly: added (at once)"]),
    ("nothing", OLD, []),
]


@pytest.mark.parametrize(("what", "new", "lines"), EDITS, ids=[row[0] for row in EDITS])
def test_each_changed_key_is_told_with_what_it_takes(what: str, new: Limits, lines: list[str]) -> None:
    assert [str(change) for change in changes(OLD, new)] == lines


def test_a_worker_that_was_taken_out_or_added_is_one_change() -> None:
    new = replace(OLD, workers={"more": WorkerSpec(command=("more",))})

    assert {(change.key, change.takes) for change in changes(OLD, new)} == {("workers.more", "live"), ("workers.words", "leaves")}


def test_of_a_workers_options_only_those_are_told_that_change() -> None:
    old = replace(OLD, workers={"words": replace(WORDS, options={"size": {"x": 1}, "kept": 1})})
    new = replace(OLD, workers={"words": replace(WORDS, options={"size": {"x": 2}, "kept": 1})})

    assert [str(change) for change in changes(old, new)] == ["workers.words.options.size.x: 1 -> 2 (with a fresh process, at the next boundary of its work)"]


def test_the_keys_of_a_schedule_that_stays_are_told_one_by_one() -> None:
    old = replace(OLD, schedules={"nightly": NIGHTLY, "weekly": NIGHTLY})
    new = replace(OLD, schedules={"nightly": replace(NIGHTLY, priority=3, cron="0 4 * * *")})

    assert [str(change) for change in changes(old, new)] == [
        'schedules.nightly.cron: "0 3 * * *" -> "0 4 * * *" (at once)',
        "schedules.nightly.job.priority: not set -> 3 (at once)",
        "schedules.weekly: removed (at once)",
    ]


def test_a_limit_that_workers_inherit_is_one_change() -> None:
    dog = Watchdog(stall_after_s=60.0)
    new = replace(OLD, watchdog=dog, workers={"words": replace(WORDS, watchdog=dog)})

    assert [str(change) for change in changes(OLD, new)] == ['watchdog.stall_after: "10m" -> "1m" (at once)']


def test_what_needs_a_restart_stays_as_it_is_until_then() -> None:
    new = Limits(
        supervisor=SupervisorLimits(log_dir="x", state_dir="y", log_level="error", health_every_s=5.0),
        gpu=GpuLimits(backend="host", margin_bytes=5),
        jobs=JobLimits(backend="memory", max_running=7),
        api=ApiLimits(bind="off", socket="/run/w.sock", max_upload_bytes=5),
    )

    acting = without_restart(OLD, new)

    assert acting.supervisor == replace(OLD.supervisor, log_level="error", health_every_s=5.0)
    assert (acting.gpu.backend, acting.gpu.margin_bytes) == ("auto", 5)
    assert acting.api == ApiLimits(max_upload_bytes=5)
    assert (acting.jobs.backend, acting.jobs.max_running) == ("sqlite", 7)


def test_what_does_not_fit_beside_a_value_that_stays_is_refused_with_what_to_do() -> None:
    off = replace(OLD, gpu=GpuLimits(backend="none"), api=ApiLimits(bind="off"))
    wants_more = replace(OLD, workers={"words": replace(WORDS, gpu_bytes=2**30)})
    named_api = replace(OLD, api=ApiLimits(bind="off"), workers={"api": WORDS})

    assert clashes(without_restart(OLD, off), "supervisor.toml") == []
    assert clashes(without_restart(off, wants_more), "supervisor.toml") == [
        'supervisor.toml: workers.words.gpu: asks for a device, but gpu.backend is "none". The file alone would hold: restart Warden to take it whole'
    ]
    assert [line.partition(":")[2].partition(":")[0].strip() for line in clashes(without_restart(OLD, named_api), "supervisor.toml")] == ["workers.api"]


def test_phases_and_progress_are_read_from_the_file_and_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.toml"
    path.write_text(
        'schema_version = 1\n[workers.a]\ncommand = ["a"]\nprogress = "file:out/p.json"\n'
        '[workers.b]\ncommand = ["b"]\nphases = { "check data set" = "1h" }\n[workers.c]\ncommand = ["c"]\nprogress = "file:{state_dir}/x"\n'
    )

    limits = load(path, {"WARDEN_WORKERS__B__PHASES__VALIDATE": "30m"}).limits

    assert limits.workers["a"].progress == f"file:{tmp_path}/out/p.json"
    assert limits.workers["b"].phases == {"check data set": 3600.0, "validate": 1800.0}
    assert spelled(limits)["workers.b.phases"] == '{ "check data set" = "1h", validate = "30m" }'
    assert limits.workers["c"].progress == "file:{state_dir}/x"
