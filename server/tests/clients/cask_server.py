"""A `cask serve` process under test, for every real client's runner."""

import collections
import os
import queue
import re
import subprocess
import threading
import time
import urllib.request

START_SECONDS_MAX = 30
DRAIN_SECONDS_MAX = 15
HTTP_SECONDS_MAX = 30


class Failure(Exception):
    """An expectation that did not hold; the text is for the reader of the report."""


def expect(condition, text):
    if not condition:
        raise Failure(text)


def launch(command, log_path):
    """Starts a program of ours; returns its process and a queue of the lines on its stdout, the last one empty. What it
    prints goes to the end of the log."""
    # Settings of the caller's shell are not the ones under test.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CASK_")}
    with open(log_path, "ab") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
    lines = queue.Queue()

    def copy_stdout():
        # The pipe must be emptied for as long as the program lives, or it would block on a full one.
        with open(log_path, "ab") as log:
            for raw in process.stdout:
                lines.put(raw.decode(errors="replace"))
                log.write(raw)
                log.flush()
        lines.put("")

    threading.Thread(target=copy_stdout, daemon=True).start()
    return process, lines


def next_line(who, lines):
    """The next line on the stdout of a program that `launch` started; empty when it ended."""
    try:
        return lines.get(timeout=START_SECONDS_MAX).strip()
    except queue.Empty:
        raise Failure(f"{who} printed nothing within {START_SECONDS_MAX} s")


class Server:
    """One `cask serve` process at a time on one folder, with `flags` beside those that every scenario needs."""

    def __init__(self, cask, folder, log_path, flags=()):
        self.cask, self.folder, self.log_path, self.flags = cask, folder, log_path, flags
        self.process = None
        self.address = None

    def start(self, same_port=False):
        """Starts the server, on the port of the one before if told so, and returns the seconds until it said where it
        listens."""
        listen = self.address if same_port else "127.0.0.1:0"
        command = [self.cask, "serve", "--listen", listen, "--dir", str(self.folder), "--max-size", "4GiB", *self.flags]
        started = time.monotonic()
        self.process, lines = launch(command, self.log_path)
        first = next_line("the server", lines)
        seconds = time.monotonic() - started
        match = re.fullmatch(r"cask: listening on (127\.0\.0\.1:\d+)", first)
        expect(match, f"the server's first line is {first!r}, not where it listens")
        self.address = match.group(1)
        return seconds

    def get(self, path):
        """The body of an answer to a plain HTTP request."""
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=HTTP_SECONDS_MAX) as answer:
            return answer.read()

    def requests(self):
        """How many gRPC requests were answered so far, by method and code as in ("FindMissingBlobs", "OK")."""
        counts = collections.Counter()
        for line in self.get("/metrics").decode().splitlines():
            match = re.fullmatch(r'cask_grpc_requests_total\{.*method="(\w+)",code="(\w+)"\} (\d+)', line)
            if match:
                counts[match.group(1), match.group(2)] += int(match.group(3))
        return counts

    def appended_bytes(self):
        """How many bytes the store has written so far."""
        metrics = self.get("/metrics").decode()
        return int(re.search(r"^cask_appended_bytes_total (\d+)$", metrics, re.MULTILINE).group(1))

    def complaints(self):
        """What the server logged as a warning or worse while it served: nothing a sound client does is worth one."""
        complaints, serves = [], False
        for line in self.log_path.read_text(errors="replace").splitlines():
            # Before it serves it may say things about the machine.
            serves = serves or 'event="serve.started"' in line
            if serves and re.match(r"\S+Z\s+(WARN|ERROR) ", line):
                complaints.append(line)
        return complaints

    def runs(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def drain(self):
        """Ends the server as an operator would."""
        self.process.terminate()
        try:
            code = self.process.wait(timeout=DRAIN_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise Failure(f"the server still runs {DRAIN_SECONDS_MAX} s after SIGTERM")
        expect(code == 0, f"the server ended with {code} after SIGTERM")
