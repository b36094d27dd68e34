"""A file that is wrong: the exact sentence, with its line, and all of them at once."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config import load
from supervisor.errors import ConfigError, Problem

HEAD = "schema_version = 1\n"
WORKER = '[workers.sam]\ncommand = ["sam"]\n'
SERVES = WORKER + 'serves = ["x"]\n'


CRON_MUST = 'must be a cron line of five fields (minute hour day month weekday), such as "0 3 * * *"'


def scheduled(cron: str) -> str:
    """Return a file with a schedule."""
    return f'{HEAD}{SERVES}[schedules.n]\ncron = "{cron}"\njob = {{ kind = "x" }}\n'


def refused(tmp_path: Path, text: str) -> list[str]:
    """Return the problems of a file with this text, one a line."""
    path = tmp_path / "supervisor.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return str(caught.value).split("\n")


BAD_FILES = {
    "no version": ("[gpu]\n", "supervisor.toml: schema_version is missing: add the line schema_version = 1 at the top of the file"),
    "another version": (
        "\nschema_version = 2",
        "supervisor.toml:2: schema_version = 2 must be 1, the only one this release reads: write schema_version = 1",
    ),
    "version of another type": (
        "schema_version = true",
        "supervisor.toml:1: schema_version = true must be 1, the only one this release reads: write schema_version = 1",
    ),
    "unknown table": (HEAD + "[watchdgo]\n", "supervisor.toml:2: [watchdgo]: unknown table; did you mean [watchdog]?"),
    "unknown table, like none": (
        HEAD + "[zzz]\n",
        ("supervisor.toml:2: [zzz]: unknown table; there are [supervisor], [api], [watchdog], [memory], [gpu], [jobs], [notify], [workers], [schedules]"),
    ),
    "unknown key": (HEAD + '[watchdog]\nstal_after = "5m"\n', 'supervisor.toml:3: watchdog.stal_after: unknown key; did you mean "stall_after"?'),
    "unknown key, like none": (
        HEAD + "[memory]\nzzz = 1\n",
        (
            "supervisor.toml:3: memory.zzz: unknown key; [memory] has check_every, emergency_below, hard_floor, look_every, "
            "warn_below, worker_limit, worker_soft"
        ),
    ),
    "key of another table": (HEAD + "[gpu]\nmax_running = 3\n", "supervisor.toml:3: gpu.max_running: unknown key; it belongs in [jobs]"),
    "key above the tables": (HEAD + 'stall_after = "5m"\n', "supervisor.toml:2: stall_after: unknown key; it belongs in [watchdog]"),
    "key of two tables above them": (HEAD + 'age_step = "5m"\n', "supervisor.toml:2: age_step: unknown key; it belongs in [gpu] or [jobs]"),
    "unknown key of a worker": (HEAD + WORKER + "gpus = 1\n", 'supervisor.toml:4: workers.sam.gpus: unknown key; did you mean "gpu"?'),
    "unknown retry": (HEAD + "[jobs]\nretries = { crsh = 1 }\n", 'supervisor.toml:3: jobs.retries.crsh: unknown key; did you mean "crash"?'),
    "dotted key": (HEAD + "gpu.margn = 1\n", 'supervisor.toml:2: gpu.margn: unknown key; did you mean "margin"?'),
    "quoted key": (HEAD + '["gpu"]\n"margin" = 1.5\n', None),
    "bare duration": (
        HEAD + "[watchdog]\nstall_after = 600\n",
        (
            'supervisor.toml:3: watchdog.stall_after = 600 must be a duration with its unit, such as "90s", "10m" or "1h30m", '
            'found a bare number: write "600s" if seconds are meant'
        ),
    ),
    "wrong duration": (
        HEAD + '[watchdog]\nstall_after = "10 minutes"\n',
        'supervisor.toml:3: watchdog.stall_after = "10 minutes" must be a duration with its unit, such as "90s", "10m" or "1h30m"',
    ),
    "bare size": (
        HEAD + "[gpu]\nmargin = 256\n",
        (
            'supervisor.toml:3: gpu.margin = 256 must be a size with its unit, such as "8GiB" or "512MiB" ("0" for none), '
            'found a bare number: write "256B" if bytes are meant'
        ),
    ),
    "size of another type": (
        HEAD + "[gpu]\nmargin = []\n",
        'supervisor.toml:3: gpu.margin = [] must be a size with its unit, such as "8GiB" or "512MiB" ("0" for none), found an array',
    ),
    "count as text": (
        HEAD + '[jobs]\nmax_running = "two"\n',
        'supervisor.toml:3: jobs.max_running = "two" must be a whole number, such as 2, found a string',
    ),
    "count with a fraction": (
        HEAD + "[jobs]\nmax_running = 2.0\n",
        "supervisor.toml:3: jobs.max_running = 2.0 must be a whole number, such as 2, found a number with a fraction",
    ),
    "count as switch": (
        HEAD + "[jobs]\nmax_running = true\n",
        "supervisor.toml:3: jobs.max_running = true must be a whole number, such as 2, found true or false",
    ),
    "enormous count": (HEAD + "[jobs]\nmax_queued = 10000000000\n", "supervisor.toml:3: jobs.max_queued = 10000000000 must be at most 1000000000"),
    "switch as text": (
        HEAD + WORKER + 'resident = "yes"\n',
        'supervisor.toml:4: workers.sam.resident = "yes" must be true or false, found a string: write true without quotes',
    ),
    "word of no set": (
        HEAD + '[supervisor]\nlog_level = "warn"\n',
        'supervisor.toml:3: supervisor.log_level = "warn" must be "debug", "info", "warning" or "error"; did you mean "warning"?',
    ),
    "jobs of a later release": (
        HEAD + '[jobs]\nbackend = "celery"\n',
        'supervisor.toml:3: jobs.backend = "celery" is not offered by this release yet: it offers "memory" or "sqlite"',
    ),
    "no source of progress": (
        HEAD + WORKER + 'progress = "stdout"\n',
        (
            'supervisor.toml:4: workers.sam.progress = "stdout" must be "sdk", "notify", "output", "none" or "file:PATH", '
            'such as "file:{state_dir}/progress.json"'
        ),
    ),
    "progress of a file without a name": (
        HEAD + WORKER + 'progress = "file:"\n',
        (
            'supervisor.toml:4: workers.sam.progress = "file:" must be "sdk", "notify", "output", "none" or "file:PATH", '
            'such as "file:{state_dir}/progress.json"'
        ),
    ),
    "progress of a file nowhere": (
        HEAD + WORKER + 'progress = "file:{stat_dir}/x"\n',
        'supervisor.toml:4: workers.sam.progress = "file:{stat_dir}/x" has the unknown placeholder {stat_dir}: did you mean {state_dir}?',
    ),
    "jobs for a program": (
        HEAD + WORKER + 'serves = ["x"]\nprogress = "output"\n',
        'supervisor.toml:5: workers.sam.progress = "output" must be "sdk" for a worker that serves jobs: they reach it through the SDK',
    ),
    "phase with a bare number": (
        HEAD + WORKER + '[workers.sam.phases]\ntrain = "1h"\n"check data set" = 60\n',
        (
            'supervisor.toml:6: workers.sam.phases.check data set = 60 must be a duration with its unit, such as "90s", "10m" or "1h30m", '
            'found a bare number: write "60s" if seconds are meant'
        ),
    ),
    "phases as a word": (
        HEAD + WORKER + 'phases = "30m"\n',
        'supervisor.toml:4: workers.sam.phases = "30m" must be a table of durations, such as { "validate" = "30m" }, found a string',
    ),
    "phase of no length": (
        HEAD + WORKER + 'phases = { validate = "0s" }\n',
        'supervisor.toml:4: workers.sam.phases: the limit of "validate" must be above zero',
    ),
    "after nobody": (HEAD + WORKER + 'after = ["cache"]\n', 'supervisor.toml:4: workers.sam.after: "cache" is no [workers.cache]'),
    "after itself": (HEAD + WORKER + 'after = ["sam"]\n', "supervisor.toml:4: workers.sam.after: goes round in a circle: it would wait for itself"),
    "after one that comes and goes": (
        HEAD + WORKER + 'after = ["b"]\n[workers.b]\ncommand = ["b"]\nserves = ["x"]\nresident = false\n',
        'supervisor.toml:4: workers.sam.after: "b" is not resident, so it is ready only while it has work',
    ),
    "after the other holder": (
        HEAD + WORKER + 'after = ["b"]\ngpu = "1GiB"\n[workers.b]\ncommand = ["b"]\ngpu = "1GiB"\n',
        'supervisor.toml:4: workers.sam.after: "b" needs the device as well, and one of them has to leave it for the other',
    ),
    "no signal": (
        HEAD + WORKER + 'progress = "none"\nstop_signal = "SIGINT"\n',
        'supervisor.toml:5: workers.sam.stop_signal = "SIGINT" must be one of TERM, INT, HUP, QUIT, USR1, USR2',
    ),
    "another signal for a worker of the SDK": (
        HEAD + WORKER + 'stop_signal = "INT"\n',
        'supervisor.toml:4: workers.sam.stop_signal = "INT" must be "TERM" for a worker of the SDK: that is what it saves its work by',
    ),
    "another user for a worker of the SDK": (
        HEAD + WORKER + 'user = "nobody"\n',
        (
            'supervisor.toml:4: workers.sam.user = "nobody" is for programs with progress "none", "output" or "file:": '
            "the sockets lie in a folder that is private to Warden's own user"
        ),
    ),
    "no policy after a crash": (
        HEAD + '[supervisor]\non_crash = "keep"\n',
        'supervisor.toml:3: supervisor.on_crash = "keep" must be "adopt" or "kill"',
    ),
    "table as value": (HEAD + "gpu = 3\n", "supervisor.toml:2: gpu must be a table, found a whole number: write it as [gpu] with its keys below"),
    "worker as value": (
        HEAD + "[workers]\nsam = 3\n",
        "supervisor.toml:3: workers.sam must be a table, found a whole number: write it as [workers.sam] with its keys below",
    ),
    "workers as array": (
        HEAD + "[[workers]]\n",
        "supervisor.toml:2: workers must be a table, found an array: write it as [workers.NAME] with its keys below",
    ),
    "wrong worker name": (
        HEAD + '[workers.SAM]\ncommand = ["sam"]\n',
        'supervisor.toml:2: workers."SAM" has a name that must begin with a letter and hold only a-z, 0-9, _ and -: rename it',
    ),
    "worker named like a replica": (
        HEAD + '[workers.sam-0]\ncommand = ["sam"]\n',
        'supervisor.toml:2: workers.sam-0 must not end in "-" and a number, because replicas are named so ("sam-0"): rename it',
    ),
    "no command": (
        HEAD + "[workers.sam]\n",
        'supervisor.toml:2: workers.sam.command is missing: add what to run, such as command = ["{python}", "-P", "-m", "workers.sam"]',
    ),
    "empty command": (HEAD + "[workers.sam]\ncommand = []\n", "supervisor.toml:3: workers.sam.command: must name a program"),
    "command as text": (
        HEAD + '[workers.sam]\ncommand = "sam -v"\n',
        'supervisor.toml:3: workers.sam.command = "sam -v" must be an array of strings, such as ["one", "two"], found a string',
    ),
    "command over lines": (
        HEAD + '[workers.sam]\ncommand = [\n  "sam",  # ] not the end\n  "a = {x",\n  7,\n]\n',
        "supervisor.toml:6: workers.sam.command[2] = 7 must be a string, found a whole number",
    ),
    "unknown placeholder": (
        HEAD + '[workers.sam]\ncommand = [\n  "{pyton}",\n]\n',
        'supervisor.toml:4: workers.sam.command[0] = "{pyton}" has the unknown placeholder {pyton}: did you mean {python}?',
    ),
    "unknown placeholder in the folder": (
        HEAD + WORKER + 'cwd = "{nowhere}"\n',
        ('supervisor.toml:4: workers.sam.cwd = "{nowhere}" has the unknown placeholder {nowhere}: there are {python}, {config_dir}, {state_dir}, {name}'),
    ),
    "unknown placeholder in the environment": (
        HEAD + WORKER + '[workers.sam.env]\nA = "1"\nB = "{nme}"\n',
        'supervisor.toml:6: workers.sam.env.B = "{nme}" has the unknown placeholder {nme}: did you mean {name}?',
    ),
    "environment of numbers": (
        HEAD + WORKER + "env = { OMP_NUM_THREADS = 2 }\n",
        'supervisor.toml:4: workers.sam.env.OMP_NUM_THREADS = 2 must be a string, such as "2", found a whole number',
    ),
    "NUL in a path": (
        HEAD + '[supervisor]\nlog_dir = "a\\u0000b"\n',
        'supervisor.toml:3: supervisor.log_dir = "a\\u0000b" must not hold a NUL character: take it out',
    ),
    "home": (
        HEAD + '[supervisor]\nstate_dir = "~/warden"\n',
        'supervisor.toml:3: supervisor.state_dir = "~/warden" must be a path without ~, which is not expanded here: write the whole path',
    ),
    "options with a date": (
        HEAD + WORKER + "[workers.sam.options]\nwhen = { at = 2026-01-01 }\n",
        ("supervisor.toml:5: workers.sam.options.when.at = 2026-01-01 must be a string, a finite number, true, false, an array or a table: write it in quotes"),
    ),
    "umask as number": (
        HEAD + WORKER + "umask = 77\n",
        'supervisor.toml:4: workers.sam.umask = 77 must be an octal mask in quotes, such as "0077", found a whole number',
    ),
    "priority below zero": (HEAD + WORKER + "priority = -1\n", "supervisor.toml:4: workers.sam.priority = -1 must be 0 or more; 0 is the most urgent"),
    "a rule between fields": (
        HEAD + '[supervisor]\nshutdown_grace = "10s"\n',
        'supervisor.toml:3: supervisor.shutdown_grace = "10s" must not be under the longest stop_grace, 30s',
    ),
    "a rule, the default breaks it": (
        HEAD + WORKER + 'stop_grace = "90s"\n[supervisor]\nlog_keep = 2\n',
        'supervisor.toml:5: supervisor.shutdown_grace = "1m" (the default) must not be under the longest stop_grace, 1m30s',
    ),
    "zero in a worker": (HEAD + WORKER + 'stall_after = "0s"\n', 'supervisor.toml:4: workers.sam.stall_after = "0s" must be above zero'),
    "zero for all workers is said once": (
        HEAD + WORKER + 'silent_after = "5s"\n[watchdog]\nstall_after = "0s"\n',
        'supervisor.toml:6: watchdog.stall_after = "0s" must be above zero',
    ),
    "a job served twice": (
        HEAD + '[workers.a]\ncommand = ["a"]\nserves = ["x"]\n[workers.b]\ncommand = ["b"]\nserves = ["x"]\n',
        'supervisor.toml:7: workers.b.serves: "x" is served by workers.a already',
    ),
    "a need that never fits": (
        HEAD + WORKER + 'gpu = "16GiB"\n',
        (
            'supervisor.toml:4: workers.sam.gpu = "16GiB" plus gpu.margin is more than gpu.host_budget, so it could never be granted '
            'on a machine without a card; with a card that is larger, set gpu.backend = "nvml"'
        ),
    ),
    "a later key of the wrong form": (
        HEAD + "[memory]\nworker_limit = 8\n",
        (
            'supervisor.toml:3: memory.worker_limit = 8 must be a size with its unit, such as "8GiB" or "512MiB" ("0" for none), '
            'found a bare number: write "8B" if bytes are meant'
        ),
    ),
    "an address without a port": (
        HEAD + '[api]\nbind = "localhost"\n',
        'supervisor.toml:3: api.bind = "localhost" must be "ADDRESS:PORT", such as "127.0.0.1:8650" or "[::1]:8650", or "off"',
    ),
    "an address of IPv6 without brackets": (
        HEAD + '[api]\nbind = "::1:8650"\n',
        'supervisor.toml:3: api.bind = "::1:8650" must be "ADDRESS:PORT", such as "127.0.0.1:8650" or "[::1]:8650", or "off"',
    ),
    "a port that is none": (
        HEAD + '[api]\nbind = "127.0.0.1:65536"\n',
        (
            'supervisor.toml:3: api.bind = "127.0.0.1:65536" must be "ADDRESS:PORT", such as "127.0.0.1:8650" or "[::1]:8650", or "off"; '
            "a port is a number from 0 (any that is free) to 65535"
        ),
    ),
    "open to everybody": (
        HEAD + '[api]\nbind = "0.0.0.0:8650"\n',
        'supervisor.toml:3: api.bind = "0.0.0.0:8650" can be reached from other machines, so api.token_file must name a file with a token',
    ),
    "no room for an upload": (HEAD + '[api]\nmax_upload = "0"\n', 'supervisor.toml:3: api.max_upload = "0" must be above zero'),
    "a root at home": (
        HEAD + '[api]\nallowed_roots = ["/data", "~/films"]\n',
        'supervisor.toml:3: api.allowed_roots[1] = "~/films" must be a path without ~, which is not expanded here: write the whole path',
    ),
    "a worker with the name of Warden's own": (
        HEAD + '[workers.api]\ncommand = ["x"]\n',
        'supervisor.toml:2: workers.api: has the name of Warden\'s own worker for HTTP: rename it, or switch that off with api.bind = "off"',
    ),
    "nothing is kept": (HEAD + '[jobs]\nkeep_finished = "0s"\n', 'supervisor.toml:3: jobs.keep_finished = "0s" must be above zero'),
    "a cron line of four fields": (scheduled("0 3 * *"), f'supervisor.toml:6: schedules.n.cron = "0 3 * *" {CRON_MUST}, found 4 fields'),
    "a cron line with an hour that is none": (scheduled("0 25 * * *"), f'supervisor.toml:6: schedules.n.cron = "0 25 * * *" {CRON_MUST}: bad hour'),
    "a cron line for a day that never comes": (scheduled("0 3 31 2 *"), f'supervisor.toml:6: schedules.n.cron = "0 3 31 2 *" {CRON_MUST}: bad day-of-month'),
    "a cron line without end": (
        scheduled("9" * 250 + " * * * *"),
        f'supervisor.toml:6: schedules.n.cron = "{"9" * 56}... {CRON_MUST}, found 258 characters',
    ),
    "a schedule without a time": (
        HEAD + SERVES + '[schedules.n]\njob = { kind = "x" }\n',
        'supervisor.toml:5: schedules.n.cron is missing: add when it runs, such as cron = "0 3 * * *"',
    ),
    "a schedule without a job": (
        HEAD + SERVES + '[schedules.n]\ncron = "0 3 * * *"\n',
        'supervisor.toml:5: schedules.n.job.kind is missing: add what it runs, such as job = { kind = "yolo.train" }',
    ),
    "a schedule of a job that nobody serves": (
        HEAD + SERVES + '[schedules.n]\ncron = "0 3 * * *"\njob = { kind = "y" }\n',
        'supervisor.toml:7: schedules.n.job.kind = "y" is served by no worker; known are x',
    ),
    "a schedule with an unknown key of its job": (
        HEAD + SERVES + '[schedules.n]\ncron = "0 3 * * *"\njob = { kind = "x", prams = {} }\n',
        'supervisor.toml:7: schedules.n.job.prams: unknown key; did you mean "params"?',
    ),
    "a schedule that overlaps otherwise": (
        HEAD + SERVES + '[schedules.n]\ncron = "0 3 * * *"\njob = { kind = "x" }\noverlap = "replace"\n',
        'supervisor.toml:8: schedules.n.overlap = "replace" must be "skip" or "queue"',
    ),
    "no quotes": (
        HEAD + "[watchdog]\nstall_after = 10m  # ten\n",
        ('supervisor.toml:3: this is not TOML: Expected newline or end of document after a statement (column 17); write the value in quotes: "10m"'),
    ),
    "a key twice": (HEAD + 'gpu.margin = "1GiB"\n\ngpu.margin = "2GiB"\n', "supervisor.toml:4: this is not TOML: Cannot overwrite a value (column 20)"),
}


@pytest.mark.parametrize(("text", "line"), [case for case in BAD_FILES.values() if case[1]], ids=[name for name, case in BAD_FILES.items() if case[1]])
def test_a_bad_file_is_refused_with_one_sentence(tmp_path: Path, text: str, line: str) -> None:
    assert refused(tmp_path, text) == [line]


def test_all_mistakes_are_said_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
# nothing is right here
[supervisor]
log_level = "loud"
[watchdog]
stall_after = 5
hartbeat = "1s"
[gpu]
margin = "20GiB"
[workers.sam]
command = ["{pyhton}"]
serves = "sam.segment"
"""

    lines = refused(tmp_path, text)

    assert [line.split(":")[1] for line in lines] == ["3", "5", "6", "8", "10", "11", " schema_version is missing"]


def test_a_rule_is_not_judged_on_a_value_that_is_wrong_already(tmp_path: Path) -> None:
    text = HEAD + '[supervisor]\nshutdown_grace = 600\n[watchdog]\nstop_grace = "5m"\n'

    assert len(refused(tmp_path, text)) == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"schema_version = 1\n# caf\xe9\n", "supervisor.toml:2: byte 0xe9 is not UTF-8 text: save the file as UTF-8"),
        (b"a = " + b"[" * 50_000, "supervisor.toml: its arrays or tables are nested too deep to be read: make it flatter"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "supervisor.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        load(path, {})

    assert str(caught.value) == sentence


def test_a_place_that_is_no_file_is_refused_with_its_reason(tmp_path: Path) -> None:
    large = tmp_path / "large.toml"
    large.write_text("#" * (2**20 + 1))
    cases = {
        tmp_path / "none.toml": "there is no such file: write one, or name another with --config",
        tmp_path: f"is a folder, expected a file: did you mean {tmp_path / 'supervisor.toml'}?",
        large / "below": "cannot be read (Not a directory): check the path and its permissions",
        large: "is larger than 1 MiB, so it is hardly a configuration: check the path",
    }

    for path, sentence in cases.items():
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert str(caught.value) == f"{path}: {sentence}"


SHIPPED = (Path(__file__).parent.parent / "supervisor.toml").read_text()


@given(at=st.integers(0, len(SHIPPED)), length=st.integers(0, 40), insert=st.text("{}[]=\"'\n#.,-ab1é\0", max_size=4))
def test_no_damage_to_a_file_ends_in_anything_but_limits_or_problems(tmp_path_factory: pytest.TempPathFactory, at: int, length: int, insert: str) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.toml"
    path.write_text(SHIPPED[:at] + insert + SHIPPED[at + length :])

    problems: tuple[Problem, ...] = ()
    try:
        load(path, {})
    except ConfigError as error:
        problems = error.problems
        found = bool(problems)
    else:
        found = True

    assert found
    assert all(problem.sentence and problem.where.startswith("damaged.toml") for problem in problems)
