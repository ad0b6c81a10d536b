#!/usr/bin/env python3
"""Runs every test of the workspace, as `cargo test` does, but the suites on real servers side by side.

    test.py [--threads N]    N tests at once in the largest suite (6)

`cargo test` runs one test program after the other. The suites on real servers mostly wait for time-outs, each on servers of
its own, so that one alone leaves half of two cores idle. Tests beside the code go first: they are quick, and what they find would break the others too.

What the servers of end-to-end tests write lies in memory, if there is room: nobody reads it after a power cut, and a fifth of the kernel's time
went into the disk. `TMPDIR` says otherwise. What a directory of the lake must be, the conformance suite asks of the disk.

Lines of single tests come as they end; a suite's failures come when it has ended, in one piece. Ends with 1 if any test
failed or a program could not be run, after all have ended.

Only the standard library of Python 3.9 or later is used.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# By package and target: which suites use real servers, and what part of the threads each gets.
ON_SERVERS = {("pipeline-tests", "it"): 1.0, ("source-service", "it"): 0.5, ("sink-service", "lake_conformance"): 0.34}

# They were seen to need 2 GiB.
ROOM_BYTES = 8 * 1024**3

PRINT = threading.Lock()


def memory_folder():
    """A folder in memory that programs may be run from, with room for what the servers write; None if there is none."""
    folder = Path("/dev/shm")
    if not folder.is_dir() or not os.access(folder, os.W_OK) or os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return None
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = 1024 * int(memory["MemAvailable"].split()[0])
    return folder if min(available, shutil.disk_usage(folder).free) >= ROOM_BYTES else None


def environment_of_servers():
    folder = None if "TMPDIR" in os.environ else memory_folder()
    return {**os.environ, "TMPDIR": str(folder)} if folder else None


def test_programs():
    """(package, target, kind, program, folder of the package) of all test programs; builds what is not built."""
    command = ["cargo", "test", "--workspace", "--locked", "--no-run", "--message-format=json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["executable"] and message["profile"]["test"]:
            folder = Path(message["manifest_path"]).parent
            target = message["target"]
            package = message["package_id"].rpartition("/")[2].partition("#")
            name = package[2].partition("@")[0] if "@" in package[2] else package[0]
            yield name, target["name"], target["kind"][0], message["executable"], folder


def run(name, program, folder, threads, environment=None):
    """Whether all tests of a program passed."""
    begin = time.monotonic()
    process = subprocess.Popen([program, f"--test-threads={threads}"], cwd=folder, env=environment, text=True,
                               errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    kept = []
    for line in process.stdout:
        if line.startswith("test ") and " ... " in line:
            with PRINT:
                print(line, end="", flush=True)
        else:
            kept.append(line)
    code = process.wait()
    with PRINT:
        print(f"\n     {name}, {time.monotonic() - begin:.0f} s\n{''.join(kept)}", flush=True)
        if code != 0:
            print(f"error: {name} ended with {code}", flush=True)
    return code == 0


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--threads", type=int, default=6)
    threads = arguments.parse_args().threads
    programs = list(test_programs())
    missing = ON_SERVERS.keys() - {(package, target) for package, target, *_ in programs}
    if missing:
        sys.exit(f"there is no test program {missing}: the table in {__file__} is out of date")
    beside_the_code = [program for program in programs if (program[0], program[1]) not in ON_SERVERS]
    with ThreadPoolExecutor(max_workers=2) as pool:
        begun = [pool.submit(run, f"{package} {kind} {target}", program, folder, threads)
                 for package, target, kind, program, folder in beside_the_code]
        # Examples in the documentation have no program of their own.
        examples = subprocess.run(["cargo", "test", "--workspace", "--locked", "--doc"], check=False)
        passed = [each.result() for each in begun]
    if not all(passed) or examples.returncode != 0:
        return 1
    results, environment = [], environment_of_servers()
    print(f"     files of servers: {environment['TMPDIR'] if environment else 'on the disk'}", flush=True)

    def suite(package, target, _kind, program, folder):
        share = max(1, round(threads * ON_SERVERS[package, target]))
        files = environment if target == "it" else None
        results.append(run(f"{package} {target}", program, folder, share, files))

    suites = [threading.Thread(target=suite, args=program)
              for program in programs if (program[0], program[1]) in ON_SERVERS]
    for each in suites:
        each.start()
    for each in suites:
        each.join()
    return 0 if len(results) == len(ON_SERVERS) and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
