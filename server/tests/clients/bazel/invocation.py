"""Bazel as a child process: commands with a time limit, and what Bazel itself reports about a build."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import time

from cask_server import Failure, expect

WORKSPACE = pathlib.Path(__file__).resolve().parent / "workspace"
BUILD_SECONDS_MAX = 600
COMMAND_SECONDS_MAX = 120


def remote_cache(server, protocol, instance=""):
    """The flags that point a build at the server."""
    if protocol == "grpc":
        flags = [f"--remote_cache=grpc://{server.address}"]
        return flags + ([f"--remote_instance_name={instance}"] if instance else [])
    return [f"--remote_cache=http://{server.address}" + (f"/{instance}" if instance else "")]


@dataclasses.dataclass
class Build:
    """What Bazel itself says about one build."""

    seconds: float
    text: str
    # One entry a spawned action, as in --execution_log_json_file.
    spawns: list
    summary: str
    code: int = 0

    def hits(self):
        return sum(1 for spawn in self.spawns if spawn["runner"] == "remote cache hit" and spawn["remoteCacheHit"])

    def output_digests(self):
        digests = {}
        for spawn in self.spawns:
            for output in spawn["actualOutputs"]:
                digests[output["path"]] = (output["digest"]["hash"], int(output["digest"]["sizeBytes"]))
        return digests


class Bazel:
    """Bazel on a private copy of the workspace, with `more` folders copied over it, with a private output root and nothing
    of the user's settings."""

    def __init__(self, scratch, *more):
        self.workspace = scratch / "workspace"
        self.output_root = scratch / "output"
        self.scratch = scratch
        self.log_path = scratch / "bazel.log"
        for source in (WORKSPACE, *more):
            shutil.copytree(source, self.workspace, symlinks=True, dirs_exist_ok=True)
        home = scratch / "home"
        home.mkdir()
        self.temporary = scratch / "tmp"
        self.temporary.mkdir()
        # A fresh environment: no proxy, no JAVA_HOME and no rc file of the caller's may decide what this test sees.
        self.environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(home),
            "USER": "cask-fixture",
            "LANG": "C.UTF-8",
        }

    def run(self, *arguments, seconds_max=COMMAND_SECONDS_MAX, on_line=None):
        """Runs one Bazel command, shows each line it prints to `on_line`; returns its exit code, all lines, the seconds."""
        # The system rc file stays: Debian's carries the install base.
        command = [
            "bazel",
            f"--output_user_root={self.output_root}",
            "--nohome_rc",
            "--max_idle_secs=300",
            f"--host_jvm_args=-Djava.io.tmpdir={self.temporary}",
            *arguments,
        ]
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=self.workspace,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        timed_out = threading.Event()

        def give_up():
            timed_out.set()
            process.kill()
            self.kill_daemon()

        timer = threading.Timer(seconds_max, give_up)
        timer.start()
        lines = []
        with open(self.log_path, "w") as log:
            for line in process.stdout:
                log.write(line)
                lines.append(line)
                if on_line:
                    on_line(line)
        code = process.wait()
        timer.cancel()
        expect(not timed_out.is_set(), f"bazel {arguments[0]} did not end within {seconds_max} s")
        return code, "".join(lines), time.monotonic() - started

    def build(self, *flags, on_line=None):
        """Builds and tests everything, and succeeds."""
        # An action's long stdout is shown too, or a hit's could not be looked at.
        shows_all = f"--experimental_ui_max_stdouterr_bytes={16 << 20}"
        build = self.watched("test", "//...", shows_all, "--remote_timeout=60", *flags, on_line=on_line)
        expect(build.code == 0, f"bazel test ended with {build.code}")
        return build

    def watched(self, *arguments, logged=True, on_line=None):
        """A command that executes actions, and what Bazel itself says about each. Bazel 4 cannot sort its log of a flaky
        test's attempts and falls over: `logged` is false for such a command, and `spawns` empty."""
        execution_log = self.scratch / "execution.json"
        execution_log.unlink(missing_ok=True)
        log_flags = [f"--execution_log_json_file={execution_log}"] if logged else []
        verb, *more = arguments
        code, text, seconds = self.run(verb, *log_flags, *more, seconds_max=BUILD_SECONDS_MAX, on_line=on_line)
        summaries = re.findall(r"^INFO: (\d+ process(?:es)?:.*)$", text, re.MULTILINE)
        expect(summaries, "bazel printed no summary line")
        spawns = list(read_json_stream(execution_log)) if logged else []
        return Build(seconds, text, spawns, summaries[-1], code)

    def clean(self):
        code, _, _ = self.run("clean")
        expect(code == 0, f"bazel clean ended with {code}")
        expect(not self.outputs().exists(), "bazel clean left the outputs")

    def outputs(self):
        return self.workspace / "bazel-bin"

    def output_hashes(self):
        """SHA-256 of every output file, by path; a symbolic link by its target."""
        hashes = {}
        root = self.outputs().resolve()
        for folder, _, files in os.walk(root):
            for name in files:
                path = pathlib.Path(folder, name)
                key = str(path.relative_to(root))
                hashes[key] = os.readlink(path) if path.is_symlink() else sha256_of_file(path)
        return hashes

    def shutdown(self):
        try:
            self.run("shutdown")
        except Failure:
            self.kill_daemon()

    def kill_daemon(self):
        """Ends a Bazel server that no longer answers, by the pid file in its own output root."""
        for pid_file in self.output_root.glob("*/server/server.pid.txt"):
            try:
                os.kill(int(pid_file.read_text()), signal.SIGKILL)
            except (ValueError, ProcessLookupError):
                pass


def read_json_stream(path):
    """The objects of a file that holds one JSON object after the other."""
    decoder, text, at = json.JSONDecoder(), path.read_text(), 0
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        yield value
        while at < len(text) and text[at].isspace():
            at += 1


def sha256_of_file(path):
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            sha256.update(piece)
    return sha256.hexdigest()
