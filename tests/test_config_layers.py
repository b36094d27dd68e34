"""Who sets what: the file, the environment and the command line; and where the file is looked for."""

import sys
from pathlib import Path

import pytest

from supervisor.config import fill, find, inspect, load, missing, spelled
from supervisor.config.source import key_lines
from supervisor.core.limits import GIB, ApiLimits, Limits, Retries, ScheduleSpec
from supervisor.errors import ConfigError

FILE = """\
schema_version = 1
[watchdog]
stall_after = "5m"
silent_after = "20s"
[workers.sam]
command = ["{python}", "-m", "sam"]
serves = ["sam.segment"]
gpu = "4GiB"
stall_after = "7m"
options = { device = "auto", "image.size" = 1024 }
[workers.my-yolo]
command = ["bin/yolo"]
serves = ["yolo.train"]
cwd = "data"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a good file."""
    path = tmp_path / "supervisor.toml"
    path.write_text(FILE)
    return path


def problems(path: Path, environ: dict[str, str], overrides: dict[str, str] | None = None) -> list[str]:
    """Return what is wrong."""
    with pytest.raises(ConfigError) as caught:
        load(path, environ, overrides or {})
    return [str(problem) for problem in caught.value.problems]


def test_a_file_with_its_version_alone_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.toml"
    path.write_text("schema_version = 1")

    loaded = load(path, {})

    assert spelled(loaded.limits) == spelled(Limits()) | {"supervisor.state_dir": f'"{tmp_path}/var"', "supervisor.log_dir": f'"{tmp_path}/logs"'}
    assert set(loaded.origins.values()) == {"default"}


def test_a_worker_has_the_watchdog_of_all_with_its_own_keys_replaced(path: Path) -> None:
    limits = load(path, {}).limits

    assert limits.workers["sam"].watchdog.stall_after_s == 420.0
    assert limits.workers["sam"].watchdog.silent_after_s == 20.0
    assert limits.workers["my-yolo"].watchdog == limits.watchdog
    assert limits.workers["sam"].gpu_bytes == 4 * GIB
    assert limits.workers["sam"].command == ("{python}", "-m", "sam")
    assert limits.workers["sam"].options == {"device": "auto", "image.size": 1024}


def test_relative_paths_are_relative_to_the_file(path: Path) -> None:
    limits = load(path, {}).limits

    assert limits.supervisor.state_dir == str(path.parent / "var")
    assert limits.supervisor.log_dir == str(path.parent / "logs")
    assert limits.workers["my-yolo"].command == (str(path.parent / "bin/yolo"),)
    assert limits.workers["my-yolo"].cwd == str(path.parent / "data")
    assert limits.workers["sam"].cwd == "{state_dir}"


def test_each_key_says_who_set_it(path: Path) -> None:
    environ = {"WARDEN_WATCHDOG__SILENT_AFTER": "9s", "JOB_MAX_WORKERS": "3"}

    origins = load(path, environ, {"gpu.margin": "1GiB"}).origins

    assert origins["watchdog.stall_after"] == "file:3"
    assert origins["watchdog.silent_after"] == "environment WARDEN_WATCHDOG__SILENT_AFTER"
    assert origins["workers.sam.stall_after"] == "file:9"
    assert origins["workers.sam.silent_after"] == "environment WARDEN_WATCHDOG__SILENT_AFTER"
    assert origins["workers.my-yolo.stall_after"] == "file:3"
    assert origins["jobs.max_running"] == "environment JOB_MAX_WORKERS"
    assert origins["jobs.retries.crash"] == "default"
    assert origins["gpu.margin"] == "flag"


@pytest.mark.parametrize(
    ("environ", "overrides", "seconds"),
    [
        ({}, {}, 300.0),
        ({"WARDEN_WATCHDOG__STALL_AFTER": "6m"}, {}, 360.0),
        ({"WARDEN_WATCHDOG__STALL_AFTER": "6m"}, {"watchdog.stall_after": "8m"}, 480.0),
    ],
)
def test_a_flag_beats_the_environment_which_beats_the_file(path: Path, environ: dict[str, str], overrides: dict[str, str], seconds: float) -> None:
    assert load(path, environ, overrides).limits.watchdog.stall_after_s == seconds


def test_the_environment_sets_keys_of_every_type(path: Path) -> None:
    environ = {
        "WARDEN_WORKERS__SAM__GPU": "2GiB",
        "WARDEN_WORKERS__MY_YOLO__RESIDENT": "0",
        "WARDEN_WORKERS__MY_YOLO__PRIORITY": "3",
        "WARDEN_WORKERS__SAM__COMMAND": '["other", "-v"]',
        "WARDEN_WORKERS__SAM__ENV__OMP_NUM_THREADS": "2",
        "WARDEN_WORKERS__SAM__OPTIONS__DEVICE": "cpu",
        "WARDEN_WORKERS__SAM__OPTIONS__IMAGE_SIZE": "512",
        "WARDEN_JOBS__RETRIES__CRASH": "5",
        "WARDEN_CONFIG": "ignored here",
        "WARDEN_TOKEN": "ignored here",
    }

    limits = load(path, environ).limits

    assert limits.workers["sam"].gpu_bytes == 2 * GIB
    assert limits.workers["my-yolo"].resident is False
    assert limits.workers["my-yolo"].priority == 3
    assert limits.workers["sam"].command == ("other", "-v")
    assert limits.workers["sam"].env == {"OMP_NUM_THREADS": "2"}
    assert limits.workers["sam"].options == {"device": "cpu", "image.size": 1024, "image_size": 512}
    assert limits.jobs.retries == Retries(crash=5)


def test_the_names_from_before_stand_below_the_new_ones(path: Path) -> None:
    environ = {
        "JOB_BACKEND": "memory",
        "JOB_MAX_WORKERS": "4",
        "WARDEN_JOBS__MAX_RUNNING": "5",
        "SAM2_MODEL_SIZE": "tiny",
        "SAM2_DEVICE": "cuda:0",
        "SAM2_QUANTIZE": "int8",
        "SAM2_MEMORY_BANK_SIZE": "7",
        "SAM2_DISABLE_POSTPROC": "1",
        "WARDEN_WORKERS__SAM__OPTIONS__DEVICE": "cpu",
    }

    limits = load(path, environ).limits

    assert limits.jobs.backend == "memory"
    assert limits.jobs.max_running == 5
    assert limits.workers["sam"].options == {
        "device": "cpu",
        "image.size": 1024,
        "model_size": "tiny",
        "quantize": "int8",
        "memory_bank_size": 7,
        "disable_postproc": True,
    }
    assert limits.workers["my-yolo"].options == {}


def test_an_old_name_that_is_empty_is_not_set(path: Path) -> None:
    assert load(path, {"JOB_BACKEND": "", "SAM2_DEVICE": ""}).limits == load(path, {}).limits


BAD_NAMES = {
    "value": (
        {"WARDEN_WATCHDOG__STALL_AFTER": "600"},
        'environment WARDEN_WATCHDOG__STALL_AFTER: watchdog.stall_after = "600" must be a duration with its unit, such as "90s", "10m" or "1h30m"',
    ),
    "old value": ({"JOB_MAX_WORKERS": "many"}, 'environment JOB_MAX_WORKERS: jobs.max_running = "many" must be a whole number, such as 2, found a string'),
    "later word": (
        {"JOB_BACKEND": "celery"},
        'environment JOB_BACKEND: jobs.backend = "celery" is not offered by this release yet: it offers "memory" or "sqlite"',
    ),
    "table": ({"WARDEN_WATCHDGO__STALL_AFTER": "1m"}, 'environment WARDEN_WATCHDGO__STALL_AFTER: "WATCHDGO" names nothing; did you mean "WATCHDOG"?'),
    "key": ({"WARDEN_GPU__MARGN": "1GiB"}, 'environment WARDEN_GPU__MARGN: "MARGN" names nothing; did you mean "MARGIN"?'),
    "worker": ({"WARDEN_WORKERS__SAN__GPU": "1GiB"}, 'environment WARDEN_WORKERS__SAN__GPU: "SAN" names nothing; did you mean "SAM"?'),
    "below a key": (
        {"WARDEN_GPU__MARGIN__MORE": "1GiB"},
        "environment WARDEN_GPU__MARGIN__MORE: gpu.margin has no keys of its own, found MORE below it",
    ),
    "a rule": (
        {"WARDEN_WORKERS__SAM__GPU": "99GiB"},
        (
            'environment WARDEN_WORKERS__SAM__GPU: workers.sam.gpu = "99GiB" plus gpu.margin is more than gpu.host_budget, so it could never be granted '
            'on a machine without a card; with a card that is larger, set gpu.backend = "nvml"'
        ),
    ),
}


@pytest.mark.parametrize(("environ", "sentence"), BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_bad_variable_is_named(path: Path, environ: dict[str, str], sentence: str) -> None:
    assert problems(path, environ) == [sentence]


def test_a_bad_flag_is_named(path: Path) -> None:
    overrides = {"gpu.margn": "1", "gpu": "1", "jobs.backend": "celery"}

    assert problems(path, {}, overrides) == [
        'command line: "margn" names nothing; did you mean "margin"?',
        (
            "command line: gpu is a table: name one of its keys, "
            "backend, host_budget, sharing, margin, vacate_timeout, poll_max, lock_timeout, lease_ttl, max_hold, age_step, load_timeout"
        ),
        'command line: jobs.backend = "celery" is not offered by this release yet: it offers "memory" or "sqlite"',
    ]


def test_a_wrong_value_in_the_file_is_said_even_where_the_environment_hides_it(path: Path) -> None:
    path.write_text(FILE.replace('"20s"', "20"))

    assert len(problems(path, {"WARDEN_WATCHDOG__SILENT_AFTER": "9s"})) == 1


@pytest.mark.parametrize(("text", "kept_s"), [("7200", 7200.0), ("2h", 7200.0)])
def test_the_clean_up_age_is_in_seconds_unless_it_says_otherwise(path: Path, text: str, kept_s: float) -> None:
    loaded = load(path, {"JOB_CLEANUP_AGE": text})

    assert loaded.limits.jobs.keep_finished_s == kept_s
    assert loaded.origins["jobs.keep_finished"] == "environment JOB_CLEANUP_AGE"


def test_the_digest_is_that_of_the_bytes(path: Path) -> None:
    before = load(path, {})
    path.write_text(FILE + "# a comment\n")

    after = load(path, {})

    assert before.limits == after.limits
    assert before.digest != after.digest
    assert len(after.digest) == 64
    assert after.path == path


def test_each_key_and_item_has_its_line() -> None:
    text = """\
a.b = '''x = 1
[not.a.table]
''''
c = \"\"\"
d = 2\"\"\" # e = 3
f = [ # [
  "]", { g = 1 },
  [2, 3],
]
[t . 'u v']
w = 2026-01-01 10:00:00
x = { y.z = 1.5, q = [ 1 ] }
[[list]]
k = 1
[[list]]
k = 2
"""

    assert key_lines(text) == {
        ("a",): 1,
        ("a", "b"): 1,
        ("c",): 4,
        ("f",): 6,
        ("f", "0"): 7,
        ("f", "1"): 7,
        ("f", "1", "g"): 7,
        ("f", "2"): 8,
        ("f", "2", "0"): 8,
        ("f", "2", "1"): 8,
        ("t",): 10,
        ("t", "u v"): 10,
        ("t", "u v", "w"): 11,
        ("t", "u v", "x"): 12,
        ("t", "u v", "x", "y"): 12,
        ("t", "u v", "x", "y", "z"): 12,
        ("t", "u v", "x", "q"): 12,
        ("t", "u v", "x", "q", "0"): 12,
        ("list",): 15,
        ("list", "0"): 13,
        ("list", "0", "k"): 14,
        ("list", "1"): 15,
        ("list", "1", "k"): 16,
    }


def test_placeholders_are_filled_in_once() -> None:
    text = fill('{python} {"a": {config_dir}} {name} {state_dir}', python="py", config_dir="/etc", state_dir="/{name}", name="sam-0")

    assert text == 'py {"a": /etc} sam-0 /{name}'


def test_a_placeholder_that_nobody_knows_is_not_filled_in() -> None:
    with pytest.raises(ConfigError, match=r"unknown placeholder \{pyton\}: did you mean \{python\}\?"):
        fill("{pyton}", python="py", config_dir="/etc", state_dir="/var", name="sam-0")


def test_the_file_is_found_in_the_order_of_the_contract(tmp_path: Path) -> None:
    places = [tmp_path / "given.toml", tmp_path / "env.toml", tmp_path / "supervisor.toml", tmp_path / "xdg/warden/supervisor.toml"]
    (tmp_path / "xdg/warden").mkdir(parents=True)
    for place in places:
        place.touch()
    environ = {"WARDEN_CONFIG": "env.toml", "XDG_CONFIG_HOME": str(tmp_path / "xdg")}

    assert find("given.toml", environ, tmp_path) == places[0]
    assert find(None, environ, tmp_path) == places[1]
    del environ["WARDEN_CONFIG"]
    assert find(None, environ, tmp_path) == places[2]
    places[2].unlink()
    assert find(None, environ, tmp_path) == places[3]


def test_a_file_that_is_nowhere_names_every_place_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find(None, {"HOME": "/nowhere"}, tmp_path)

    assert str(caught.value) == (
        f"configuration: there is no supervisor.toml; looked at --config (not given), $WARDEN_CONFIG (not set), {tmp_path}/supervisor.toml, "
        "/nowhere/.config/warden/supervisor.toml, /etc/warden/supervisor.toml: write one, or name one with --config"
    )


@pytest.mark.parametrize(("explicit", "environ", "name"), [("x.toml", {}, "--config"), (None, {"WARDEN_CONFIG": "x.toml"}, "$WARDEN_CONFIG")])
def test_a_named_file_that_is_missing_is_never_replaced_by_another(tmp_path: Path, explicit: str | None, environ: dict[str, str], name: str) -> None:
    (tmp_path / "supervisor.toml").touch()

    with pytest.raises(ConfigError) as caught:
        find(explicit, environ, tmp_path)

    assert str(caught.value) == f"{name}: {tmp_path}/x.toml: there is no such file; name the right one, or leave {name} out to have it looked for"


def test_a_program_that_is_not_there_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").touch()
    path = tmp_path / "supervisor.toml"
    path.write_text("""\
schema_version = 1
[workers.good]
command = ["{python}", "-c", "1"]
[workers.shell]
command = ["sh"]
[workers.nowhere]
command = ["no-such-program-here"]
[workers.path]
command = ["bin/none"]
[workers.text]
command = ["./plain.txt"]
[workers.elsewhere]
command = ["sh"]
env = { PATH = "{config_dir}" }
""")

    loaded = load(path, {"WARDEN_WORKERS__PATH__COMMAND": '["/none/{name}"]'})
    found = [str(problem) for problem in missing(loaded, {"PATH": "/usr/bin:/bin"}, python=sys.executable)]

    assert found == [
        (
            'supervisor.toml:7: workers.nowhere.command names the program "no-such-program-here", which is on no folder of PATH: '
            "install it, or write its whole path"
        ),
        (
            'environment WARDEN_WORKERS__PATH__COMMAND: workers.path.command names the program "/none/path", which does not exist: '
            "install it, or correct the path"
        ),
        (
            f'supervisor.toml:11: workers.text.command names the program "{tmp_path}/plain.txt", which is no program that may be run: '
            "check what it is, and its permissions"
        ),
        'supervisor.toml:13: workers.elsewhere.command names the program "sh", which is on no folder of PATH: install it, or write its whole path',
    ]


SCHEDULED = (
    'schema_version = 1\n[workers.a]\ncommand = ["a"]\nserves = ["x"]\n[schedules.nightly]\ncron = "0  3 * * *"\njob = { kind = "x", params = { n = 1 } }\n'
)


def test_a_schedule_is_read_from_the_file_and_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.toml"
    path.write_text(SCHEDULED)
    environ = {"WARDEN_SCHEDULES__NIGHTLY__JOB__PRIORITY": "3", "WARDEN_SCHEDULES__NIGHTLY__JOB__PARAMS__M": "2", "WARDEN_SCHEDULES__NIGHTLY__OVERLAP": "queue"}

    loaded = load(path, environ)

    assert loaded.limits.schedules == {"nightly": ScheduleSpec(cron="0 3 * * *", kind="x", params={"n": 1, "m": 2}, priority=3, overlap="queue")}
    shown = spelled(loaded.limits)
    assert {key: value for key, value in shown.items() if key.startswith("schedules")} == {
        "schedules.nightly.cron": '"0 3 * * *"',
        "schedules.nightly.job.kind": '"x"',
        "schedules.nightly.job.params": "{ n = 1, m = 2 }",
        "schedules.nightly.job.priority": "3",
        "schedules.nightly.overlap": '"queue"',
        "schedules.nightly.catch_up": '"one"',
    }
    assert loaded.origins["schedules.nightly.job.kind"] == "file:7"
    assert loaded.origins["schedules.nightly.job.priority"] == "environment WARDEN_SCHEDULES__NIGHTLY__JOB__PRIORITY"


def test_the_paths_of_the_api_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.toml"
    path.write_text('schema_version = 1\n[api]\nbind = "[::]:0"\nsocket = "api.sock"\ntoken_file = "token"\nallowed_roots = ["films", "/data"]\n')

    api = load(path, {}).limits.api

    assert api == ApiLimits(bind="[::]:0", socket=f"{tmp_path}/api.sock", token_file=f"{tmp_path}/token", allowed_roots=(f"{tmp_path}/films", "/data"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read (No such file or directory): write a token into it, correct the path, or check its permissions"),
        (" \n# none yet\n", "holds no token: write one into it, such as the output of: openssl rand -hex 32"),
        ("secret\n", ""),
    ],
)
def test_a_token_file_without_a_token_is_named_with_its_line(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "supervisor.toml"
    path.write_text('schema_version = 1\n[api]\ntoken_file = "token"\n')
    if content is not None:
        (tmp_path / "token").write_text(content)

    found = [str(problem) for problem in missing(load(path, {}), {}, python=sys.executable)]

    assert found == ([f'supervisor.toml:3: api.token_file names the file "{tmp_path}/token", which {says}'] if says else [])
    assert missing(load(path, {"WARDEN_API__BIND": "off"}), {}, python=sys.executable) == ()


def test_a_folder_and_a_user_that_are_not_there_are_named_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").touch()
    path = tmp_path / "supervisor.toml"
    path.write_text("""\
schema_version = 1
[workers.none]
command = ["sh"]
progress = "none"
cwd = "nowhere/{name}"
user = "no-such-user-here"
[workers.file]
command = ["sh"]
progress = "none"
cwd = "plain.txt"
user = "0"
[workers.good]
command = ["sh"]
progress = "none"
user = "root"
""")

    found = [str(problem) for problem in missing(load(path, {}), {"PATH": "/usr/bin:/bin"}, python=sys.executable)]

    assert found == [
        f'supervisor.toml:5: workers.none.cwd names the folder "{tmp_path}/nowhere/none", which does not exist: make it, or correct the path',
        'supervisor.toml:6: workers.none.user names the user "no-such-user-here", whom this machine does not know: add it, or correct the name',
        f'supervisor.toml:10: workers.file.cwd names the folder "{tmp_path}/plain.txt", which is no folder: correct the path',
    ]


def test_what_is_wrong_with_one_worker_hides_nothing_of_another(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.toml"
    path.write_text("""\
schema_version = 1
[jobs]
max_running = "two"
[workers.a]
command = 7
[workers.b]
command = []
gpus = 1
[workers.c]
command = ["no-such-program-here"]
concurrency = 1000000
""")

    loaded, problems = inspect(path, {})
    absent = missing(loaded, {"PATH": "/usr/bin:/bin"}, python=sys.executable)

    assert [problem.line for problem in problems] == [3, 5, 7, 8, 11]
    assert str(problems[2]) == "supervisor.toml:7: workers.b.command: must name a program"
    assert str(problems[4]) == "supervisor.toml:11: workers.c.concurrency = 1000000 must be at least 1 and at most 1000"
    assert [problem.line for problem in absent] == [10]
