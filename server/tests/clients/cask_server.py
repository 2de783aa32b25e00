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


class Server:
    """One `cask serve` process at a time on one folder."""

    def __init__(self, cask, folder, log_path):
        self.cask, self.folder, self.log_path = cask, folder, log_path
        self.process = None
        self.address = None

    def start(self):
        """Starts the server and returns the seconds until it said where it listens."""
        command = [self.cask, "serve", "--listen", "127.0.0.1:0", "--dir", str(self.folder), "--max-size", "4GiB"]
        # Settings of the caller's shell are not the ones under test.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CASK_")}
        started = time.monotonic()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        lines = queue.Queue()
        threading.Thread(target=self._copy_stdout, args=(self.process.stdout, lines), daemon=True).start()
        try:
            first = lines.get(timeout=START_SECONDS_MAX)
        except queue.Empty:
            raise Failure(f"the server printed nothing within {START_SECONDS_MAX} s")
        seconds = time.monotonic() - started
        match = re.fullmatch(r"cask: listening on (127\.0\.0\.1:\d+)", first.strip())
        expect(match, f"the server's first line is {first!r}, not where it listens")
        self.address = match.group(1)
        return seconds

    def _copy_stdout(self, stdout, lines):
        # The pipe must be emptied for as long as the server lives, or it would block on a full one.
        with open(self.log_path, "ab") as log:
            for raw in stdout:
                lines.put(raw.decode(errors="replace"))
                log.write(raw)
                log.flush()
        lines.put("")

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
