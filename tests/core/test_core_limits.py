"""Rules between limits: both edges of each, and a sentence that says where."""

import pytest
from msgspec.structs import replace

from supervisor.core.addresses import address_of
from supervisor.core.limits import (
    GIB,
    MIB,
    ApiLimits,
    GpuLimits,
    JobLimits,
    Limits,
    MemoryLimits,
    Retries,
    ScheduleSpec,
    SupervisorLimits,
    Watchdog,
    WorkerSpec,
)
from supervisor.core.rules import conflicts

SAM = WorkerSpec(command=("sam",), serves=("sam.propagate",), gpu_bytes=14 * GIB)


def limits(**changes: object) -> Limits:
    return replace(Limits(workers={"sam": SAM}), **changes)


def spec(**changes: object) -> Limits:
    return limits(workers={"sam": replace(SAM, **changes)})


GOOD = [
    ("the defaults", limits()),
    ("no worker", Limits()),
    ("two pings before a worker leaves", limits(supervisor=SupervisorLimits(orphan_after_s=10))),
    ("shutdown_grace equal to stop_grace", limits(supervisor=SupervisorLimits(shutdown_grace_s=30))),
    ("margin zero", limits(gpu=GpuLimits(margin_bytes=0))),
    ("need and margin exactly the budget", spec(gpu_bytes=16 * GIB - 256 * MIB)),
    ("no device and no need", Limits(gpu=GpuLimits(backend="none"), workers={"sam": replace(SAM, gpu_bytes=0)})),
    ("backoff_first equal to backoff_max", limits(watchdog=Watchdog(backoff_first_s=300))),
    ("a grace of zero", limits(watchdog=Watchdog(stop_grace_s=0))),
    ("a program that does not speak and serves nothing", spec(serves=(), progress="none")),
    ("oom_score_adj at its edges", Limits(workers={"a": WorkerSpec(command=("x",), oom_score_adj=1000), "b": WorkerSpec(command=("x",), oom_score_adj=-1000)})),
    ("a program with its own signal and user", spec(serves=(), progress="none", stop_signal="INT", user="nobody")),
    ("one after the other", Limits(workers={"sam": replace(SAM, after=("cache",)), "cache": WorkerSpec(command=("cache",))})),
    ("phases", spec(phases={"validate": 1800.0})),
    ("no disk floor", limits(supervisor=SupervisorLimits(disk_floor_bytes=0))),
    ("HTTP for everybody who knows the token", limits(api=ApiLimits(bind="0.0.0.0:80", token_file="/t"))),
    ("HTTP for this machine", limits(api=ApiLimits(bind="[::1]:0", socket="x" * 107))),
    ("a worker named api while HTTP is off", Limits(api=ApiLimits(bind="off"), workers={"api": SAM})),
    ("a schedule", limits(schedules={"nightly": ScheduleSpec(cron="0 3 * * *", kind="sam.propagate")})),
    ("one of everything", limits(jobs=JobLimits(max_running=1, max_queued=1))),
]
BAD = [
    ("a worker that leaves between two pings", limits(supervisor=SupervisorLimits(orphan_after_s=9.9)), "supervisor", "orphan_after_s", "must be at least 10s"),
    ("HTTP for everybody", limits(api=ApiLimits(bind="0.0.0.0:80")), "api", "bind", "api.token_file must name a file"),
    ("HTTP at a name that may be anywhere", limits(api=ApiLimits(bind="box:80")), "api", "bind", "api.token_file must name a file"),
    ("HTTP nowhere", limits(api=ApiLimits(bind="127.0.0.1")), "api", "bind", "must be"),
    ("a path too long for a socket", limits(api=ApiLimits(socket="x" * 108)), "api", "socket", "longer than the 107 bytes"),
    ("a worker named api, HTTP at a socket", Limits(api=ApiLimits(bind="off", socket="/s"), workers={"api": SAM}), "workers.api", "", 'api.socket = ""'),
    ("a worker named api", Limits(workers={"api": SAM}), "workers.api", "", "Warden's own worker"),
    (
        "a schedule of what nobody serves",
        limits(schedules={"n": ScheduleSpec(cron="0 3 * * *", kind="x")}),
        "schedules.n.job",
        "kind",
        "known are sam.propagate",
    ),
    ("no upload", limits(api=ApiLimits(max_upload_bytes=0)), "api", "max_upload_bytes", "above zero"),
    ("nothing kept", limits(jobs=JobLimits(keep_finished_s=0)), "jobs", "keep_finished_s", "above zero"),
    (
        "shutdown_grace under stop_grace",
        limits(supervisor=SupervisorLimits(shutdown_grace_s=29.9)),
        "supervisor",
        "shutdown_grace_s",
        "longest stop_grace, 30s",
    ),
    (
        "shutdown_grace under a worker's own stop_grace",
        spec(watchdog=Watchdog(stop_grace_s=90)),
        "supervisor",
        "shutdown_grace_s",
        "longest stop_grace, 1m30s",
    ),
    ("margin as large as the budget", Limits(gpu=GpuLimits(host_budget_bytes=MIB, margin_bytes=MIB)), "gpu", "margin_bytes", "below gpu.host_budget"),
    ("need over the budget", spec(gpu_bytes=16 * GIB - 256 * MIB + 1), "workers.sam", "gpu_bytes", "never be granted"),
    ("a need without a device", limits(gpu=GpuLimits(backend="none")), "workers.sam", "gpu_bytes", 'backend is "none"'),
    ("jobs for a program that does not speak", spec(progress="none"), "workers.sam", "progress", 'must be "sdk"'),
    ("one kind twice", Limits(workers={"a": SAM, "b": SAM}), "workers.b", "serves", "served by workers.a already"),
    ("a soft limit over the limit", limits(memory=MemoryLimits(worker_soft_bytes=8 * GIB)), "memory", "worker_soft_bytes", "below memory.worker_limit, 8GiB"),
    ("a brake over the warning", limits(memory=MemoryLimits(emergency_below_bytes=5 * GIB)), "memory", "emergency_below_bytes", "below memory.warn_below"),
    ("a floor over the brake", limits(memory=MemoryLimits(hard_floor_bytes=3 * GIB)), "memory", "hard_floor_bytes", "below memory.emergency_below, 2GiB"),
    ("a check under a look", limits(memory=MemoryLimits(check_every_s=1.0)), "memory", "check_every_s", "under memory.look_every, 10s"),
    ("a duration of zero", limits(memory=MemoryLimits(look_every_s=0)), "memory", "look_every_s", "above zero"),
    ("a duration below zero in a worker", spec(watchdog=Watchdog(stall_after_s=-1)), "workers.sam", "stall_after_s", "above zero"),
    ("a size of zero", limits(gpu=GpuLimits(host_budget_bytes=0)), "gpu", "host_budget_bytes", "above zero"),
    ("no log kept", limits(supervisor=SupervisorLimits(log_keep=0)), "supervisor", "log_keep", "at least 1"),
    ("set aside at once", limits(watchdog=Watchdog(quarantine_after=0)), "watchdog", "quarantine_after", "at least 1"),
    ("nothing may run", limits(jobs=JobLimits(max_running=0)), "jobs", "max_running", "at least 1"),
    ("nothing may wait", limits(jobs=JobLimits(max_queued=0)), "jobs", "max_queued", "at least 1"),
    ("backoff_first over backoff_max", limits(watchdog=Watchdog(backoff_first_s=301)), "watchdog", "backoff_first_s", "above backoff_max"),
    ("a negative budget", limits(jobs=JobLimits(retries=Retries(lost=-1))), "jobs", "retries", "lost must not be below zero"),
    ("no replica", spec(replicas=0), "workers.sam", "replicas", "at least 1"),
    ("no job at once", spec(concurrency=0), "workers.sam", "concurrency", "at least 1"),
    ("a signal of no name", spec(serves=(), progress="none", stop_signal="SIGTERM"), "workers.sam", "stop_signal", "one of TERM"),
    ("another signal for the SDK", spec(stop_signal="INT"), "workers.sam", "stop_signal", 'must be "TERM"'),
    ("another user for the SDK", spec(user="nobody"), "workers.sam", "user", "private to Warden"),
    ("after nobody", spec(after=("cache",)), "workers.sam", "after", "is no [workers.cache]"),
    ("after itself", spec(after=("sam",)), "workers.sam", "after", "circle"),
    (
        "after each other",
        Limits(workers={"a": WorkerSpec(command=("x",), after=("b",)), "b": WorkerSpec(command=("x",), after=("a",))}),
        "workers.b",
        "after",
        "circle",
    ),
    (
        "after one that comes and goes",
        Limits(workers={"a": WorkerSpec(command=("x",), after=("b",)), "b": WorkerSpec(command=("x",), serves=("y",), resident=False)}),
        "workers.a",
        "after",
        "not resident",
    ),
    ("after the other holder", Limits(workers={"sam": replace(SAM, after=("b",)), "b": replace(SAM, serves=())}), "workers.sam", "after", "leave it"),
    ("a phase of no length", spec(phases={"validate": 0.0}), "workers.sam", "phases", '"validate" must be above zero'),
    ("no command", spec(command=()), "workers.sam", "command", "name a program"),
    ("oom_score_adj too high", spec(oom_score_adj=1001), "workers.sam", "oom_score_adj", "-1000 to 1000"),
    ("oom_score_adj too low", spec(oom_score_adj=-1001), "workers.sam", "oom_score_adj", "-1000 to 1000"),
]


@pytest.mark.parametrize(("what", "good"), GOOD, ids=[row[0] for row in GOOD])
def test_limits_that_go_together_have_no_conflict(what: str, good: Limits) -> None:
    assert list(conflicts(good)) == []


@pytest.mark.parametrize(("what", "bad", "table", "field", "words"), BAD, ids=[row[0] for row in BAD])
def test_limits_that_do_not_go_together_are_told_where_and_why(what: str, bad: Limits, table: str, field: str, words: str) -> None:
    found = [(conflict.table, conflict.field) for conflict in conflicts(bad) if words in conflict.sentence]

    assert (table, field) in found


def test_every_broken_rule_is_told_at_once() -> None:
    broken = limits(jobs=JobLimits(max_running=0, max_queued=0), memory=MemoryLimits(look_every_s=-1))

    assert len(list(conflicts(broken))) == 3


def test_a_kind_is_served_by_its_model_or_by_none() -> None:
    assert limits().model_for("sam.propagate") == "sam"
    assert limits().model_for("cat.count") is None


def test_a_cause_without_a_budget_has_none() -> None:
    assert Retries().for_cause("no such cause") == 0
    assert Retries(crash=2, memory=1, lost=2, stall=0, user_error=0).total() == 5


@pytest.mark.parametrize(
    ("bind", "address"),
    [
        ("off", None),
        ("127.0.0.1:8650", ("127.0.0.1", 8650)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("box.lan:080", ("box.lan", 80)),
    ],
)
def test_an_address_is_read(bind: str, address: tuple[str, int] | None) -> None:
    assert address_of(bind) == address


@pytest.mark.parametrize(
    "bind", ["", ":80", "127.0.0.1", "127.0.0.1:", "::1:80", "[127.0.0.1]:80", "[]:80", "a b:80", "x:-1", "x:65536", "x:٣", "x:8650/", "OFF"]
)
def test_what_is_no_address_is_refused(bind: str) -> None:
    with pytest.raises(ValueError, match=r'must be "ADDRESS:PORT"'):
        address_of(bind)
