"""Waiting threads beside other programs: the same samples, less of the processor, and nothing left afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP runtime is Linux's")

SETUP = """
import contextlib, json, os, sys, threading, time
import torch
from sounding.utils import threads
torch.set_num_threads(2)
start = threads.pool_starter()
values = torch.rand(1 << 18)

def tasks():
    end = time.monotonic() + 10  # those that end are seen a moment longer
    while len(os.listdir("/proc/self/task")) > known and time.monotonic() < end:
        time.sleep(0.01)
    return len(os.listdir("/proc/self/task")) - known

def spent():
    "Processor time of short operations, with pauses between them in which a thread waits."
    before = time.process_time()
    for _ in range(50):
        values + values
        time.sleep(0.004)
    return time.process_time() - before

values + values
time.sleep(0.1)
known = len(os.listdir("/proc/self/task"))
"""


def python(code: str, *arguments: str, **environment: str) -> Any:
    """What a process of its own prints as JSON; it may use two threads, unlike the tests' own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
    command = [sys.executable, "-c", SETUP + code, *arguments]
    ran = subprocess.run(
        command, cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_a_pool_stops_the_spinning_and_goes_again() -> None:
    """The runtime's own rule, seen from outside: processor time while threads wait, and threads of the process."""
    code = """
pool = threads._Pool(start)
freely = spent()
pool.open()
calmly, during = spent(), len(os.listdir("/proc/self/task")) - known
pool.close()
print(json.dumps([freely, calmly, during, tasks(), spent()]))
"""
    freely, calmly, during, left, again = python(code)
    assert calmly < freely / 3
    assert again > 3 * calmly
    assert during >= len(os.sched_getaffinity(0)) + 1
    assert left == 0


def test_who_has_chosen_how_threads_wait_is_left_alone() -> None:
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("GOMP_SPINCOUNT", "1000")):
        assert python("print(json.dumps(start is None))", **{name: value}) is True
    assert python("print(json.dumps(start is None))") is False


def test_starved_threads_are_noticed_and_nothing_is_left_of_it() -> None:
    """Whether the process gets its share of the processors is made up here, so that the test does not depend on it."""
    code = """
opened = []
make = threads._Pool.open
threads._Pool.open = lambda self: (opened.append(time.monotonic()), make(self))
threads.LOOK_SECONDS, threads.RETRY_SECONDS = 0.01, 0.1
clock = [0.0]
share = [1.0]
times = iter(range(10**9))
began = time.monotonic()
class Time:
    sleep, monotonic = time.sleep, time.monotonic
    @staticmethod
    def process_time():
        now = time.monotonic()
        clock[0] += share[0] * 2 * (now - Time.before)
        Time.before = now
        return clock[0]
    before = began
threads.time = Time
def call(seconds, share_then):
    share[0] = share_then
    opened.clear()
    with threads.adaptive_spinning("cpu"):
        time.sleep(seconds)
        return len(opened)
result = [call(0.3, 1.0), call(0.3, 0.5), tasks()]
try:
    with threads.adaptive_spinning("cpu"):
        time.sleep(0.1)
        raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
result.append(tasks())
time.sleep(0.5)
result += [call(0.5, 1.0), torch.get_num_threads()]
with threads.adaptive_spinning("cpu"), threads.adaptive_spinning("cpu"):
    inside = threading.active_count()
others = [threading.Thread(target=call, args=(0.1, 0.5)) for _ in range(4)]
[one.start() for one in others]
[one.join() for one in others]
print(json.dumps([*result, inside, tasks(), threading.active_count()]))
"""
    quiet, starved, left, left_by_error, quiet_again, count, inside, at_last, alive = python(code)
    assert quiet == 0
    assert starved >= 1
    assert quiet_again == 0
    assert (left, left_by_error, at_last) == (0, 0, 0)
    assert count == 2
    assert (inside, alive) == (2, 1)


def test_nothing_happens_elsewhere() -> None:
    code = """
counts = []
for device, number in (("cuda", 2), ("meta", 2), ("cpu", 1)):
    torch.set_num_threads(number)
    with threads.adaptive_spinning(device):
        counts.append(threading.active_count())
print(json.dumps(counts))
"""
    assert python(code) == [1, 1, 1]


def test_a_fork_in_the_middle_of_a_call_can_go_on() -> None:
    code = """
with threads.adaptive_spinning("cpu"):
    child = os.fork()
    if not child:
        with threads.adaptive_spinning("cpu"):
            pass
        os._exit(7)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(ended))
"""
    assert python(code) == 7


def test_the_samples_are_the_same_bit_for_bit(tiny_checkpoint: Path) -> None:
    """Spinning or sleeping, and changing between them at every look, with the same number of threads."""
    code = """
import sounding
model = sounding.load(sys.argv[1], device="cpu")
image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
def make():
    return model.generate(image=image, mask=torch.ones(1, 64, 64), seconds=3.0, steps=8, seed=5).waveform
spinning = make()
pool = threads._Pool(start)
pool.open()
sleeping = make()
pool.close()
threads.LOOK_SECONDS, threads.RETRY_SECONDS, threads.STARVED = 0.001, 0.001, 9.0
changing = make()
print(json.dumps([bool(torch.equal(spinning, one)) for one in (sleeping, changing)]))
"""
    assert python(code, str(tiny_checkpoint)) == [True, True]
