#!/usr/bin/env python3
"""Runs every test of the workspace, as `cargo test` does, but the suites on real servers side by side.

    test.py [--threads N]    N tests at once in the largest suite (6)

`cargo test` runs one test program after the other. The suites on real servers mostly wait for time-outs, each on servers of
its own, so that one alone leaves half of two cores idle. Tests beside the code go first: they are quick, and what they find would break the others too.

Lines of single tests come as they end; a suite's failures come when it has ended, in one piece. Ends with 1 if any test
failed or a program could not be run, after all have ended.

Only the standard library of Python 3.9 or later is used.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# By package and target: which suites use real servers, and what part of the threads each gets.
ON_SERVERS = {("pipeline-tests", "it"): 1.0, ("source-service", "it"): 0.5, ("sink-service", "lake_conformance"): 0.34}

PRINT = threading.Lock()


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


def run(name, program, folder, threads):
    """Whether all tests of a program passed."""
    begin = time.monotonic()
    process = subprocess.Popen([program, f"--test-threads={threads}"], cwd=folder, text=True, errors="replace",
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
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
    results = []

    def suite(package, target, _kind, program, folder):
        share = max(1, round(threads * ON_SERVERS[package, target]))
        results.append(run(f"{package} {target}", program, folder, share))

    suites = [threading.Thread(target=suite, args=program)
              for program in programs if (program[0], program[1]) in ON_SERVERS]
    for each in suites:
        each.start()
    for each in suites:
        each.join()
    return 0 if len(results) == len(ON_SERVERS) and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
