"""A tiny C program for the benchmarks: it says when it began to run, and then sleeps, is deaf, or writes a log. What it costs is what its supervisor costs."""

import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final, NamedTuple

SOURCE: Final = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void say(const char *path, double value) {
    char line[64];
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT, 0600);
    int size = snprintf(line, sizeof line, "%d %.9f\n", (int)getpid(), value);
    if (write(fd, line, size) != size) _exit(2);
    close(fd);
}

/* blip FILE sleep | deaf | lines COUNT: each line is 100 bytes and one write */
int main(int count, char **words) {
    if (count < 3) return 1;
    if (!strcmp(words[2], "deaf")) signal(SIGTERM, SIG_IGN);
    if (!strcmp(words[2], "lines")) {
        char line[100];
        memset(line, 'x', sizeof line);
        line[99] = '\n';
        double began = now();
        for (long left = atol(words[3]); left > 0; left--)
            if (write(1, line, sizeof line) != sizeof line) return 3;
        say(words[1], now() - began);
    } else {
        say(words[1], now());
    }
    for (;;) pause();
}
"""


class Blip(NamedTuple):
    """One process said that it runs: since when (CLOCK_MONOTONIC), or how long its lines took."""

    pid: int
    value_s: float


def build(folder: Path) -> Path:
    """Return the compiled program. Raises RuntimeError without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("no C compiler (cc or gcc) was found: install one; the benchmarks of processes start a program of a few lines of C")
    source, program = folder / "blip.c", folder / "blip"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-O1", "-o", str(program), str(source)], check=True)
    return program


def blips(file: Path) -> list[Blip]:
    """Return what was said so far, in its order."""
    if not file.exists():
        return []
    lines = file.read_text().rpartition("\n")[0].splitlines()
    return [Blip(int(pid), float(value)) for pid, value in (line.split() for line in lines)]


def wait_for(file: Path, count: int, *, within_s: float = 60.0) -> list[Blip]:
    """Return what was said, once it is so much. Raises RuntimeError when that takes too long."""
    end_s = time.monotonic() + within_s
    while len(found := blips(file)) < count:
        if time.monotonic() > end_s:
            raise RuntimeError(f"{len(found)} processes said in {file} that they run, {count} were expected within {within_s:g} s")
        pause(0.002 if count - len(found) < 3 else 0.01)  # a coarser look while much is missing: it costs, too
    return found


def wait_gone(pids: list[int], *, within_s: float = 60.0) -> float:
    """Return the instant when the last of these processes was gone, zombies counted as gone. Raises RuntimeError when that takes too long."""
    end_s = time.monotonic() + within_s
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([pidfd], [], [], max(0.0, end_s - time.monotonic()))[0]:
                raise RuntimeError(f"pid {pid} is still there after {within_s:g} s")
        finally:
            os.close(pidfd)
    return time.monotonic()


def pause(seconds: float) -> None:
    """Wait: between two looks, or for a process to settle."""
    select.select([], [], [], seconds)
