"""A `cask worker` process under test, with the runner that it starts for itself."""

import os
import pathlib
import re
import select
import signal
import subprocess

from cask_server import expect, launch, next_line

# A worker finishes what it runs first; what a test lets it run is short.
DRAIN_SECONDS_MAX = 30
# The runner and all that it runs end with the worker, however that ended.
END_SECONDS_MAX = 15


class Worker:
    """One `cask worker` process at a time on one folder."""

    def __init__(self, cask, server, folder, log_path, name, flags=()):
        self.cask, self.server, self.folder, self.log_path = cask, server, folder, log_path
        self.name, self.flags = name, flags
        self.process = None

    def start(self):
        """Starts the worker and waits until it is connected."""
        command = [self.cask, "worker", "--server", f"grpc://{self.server.address}", "--name", self.name]
        command += ["--dir", str(self.folder), *self.flags]
        self.process, self.lines = launch(command, self.log_path)
        first = next_line(f"worker {self.name}", self.lines)
        expect(
            re.match(rf"cask: worker {re.escape(self.name)} is connected to ", first),
            f"the worker's first line is {first!r}, not that it is connected",
        )
        return self

    def complaints(self):
        """What the worker and its runner logged as a warning or worse."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return [line for line in lines if re.match(r"\S+Z\s+(WARN|ERROR) ", line)]

    def runs(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """Ends the worker as a crash would."""
        self.process.kill()
        self.process.wait()

    def freeze(self):
        """Stops the worker where it stands, but not what its runner runs."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def asks_to_end(self):
        """What an operator does; `expect_drained` waits for the end."""
        self.process.send_signal(signal.SIGTERM)

    def expect_drained(self):
        try:
            code = self.process.wait(timeout=DRAIN_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            expect(False, f"worker {self.name} still runs {DRAIN_SECONDS_MAX} s after SIGTERM")
        expect(code == 0, f"worker {self.name} ended with {code} after SIGTERM")
        self.expect_nothing_left()

    def drain(self):
        self.asks_to_end()
        self.expect_drained()

    def expect_nothing_left(self):
        """Waits for the end of each process that has the worker's folder on its command line: the runner, and what the
        runner runs there."""
        for pid, command in self._companions():
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                ended = select.select([descriptor], [], [], END_SECONDS_MAX)[0]
            finally:
                os.close(descriptor)
            expect(ended, f"{command!r} still runs {END_SECONDS_MAX} s after worker {self.name} ended")

    def _companions(self):
        """Process ids and command lines."""
        for folder in pathlib.Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == os.getpid():
                continue
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            if str(self.folder) in command:
                yield int(folder.name), command
