"""The frame of a runner: its command line, its scratch folder, one server a scenario, a line each, the exit code.

A runner gives a preparation (what must be there before anything can be played; it returns the client) and scenarios,
each a function of `Stage` that raises `Failure` when something does not hold.
"""

import argparse
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from cask_server import Failure, Server
from cask_worker import Worker
from pypi_client import Unavailable

# The exit code of a runner that could not say anything.
SKIPPED = 77
CACHE = pathlib.Path(__file__).resolve().parents[3] / "target" / "clients"


@dataclasses.dataclass
class Stage:
    """What a scenario plays with: a server that listens on an empty store, the client, an empty folder of its own."""

    server: Server
    client: object
    folder: pathlib.Path
    # What was checked, for the reader of the report.
    checked: list = dataclasses.field(default_factory=list)
    workers: list = dataclasses.field(default_factory=list)
    # What else to show of a scenario that failed: whose words, and the file they are in.
    logs: dict = dataclasses.field(default_factory=dict)
    # Parts of warnings that may be logged here, because the scenario does what deserves one.
    tolerated: list = dataclasses.field(default_factory=list)

    def says(self, text):
        self.checked.append(text)

    def start_worker(self, name="worker", *flags):
        """A worker that is connected to the server; the scenario's end is its end."""
        folder, log_path = self.folder / name, self.folder / f"{name}.log"
        worker = Worker(self.server.cask, self.server, folder, log_path, name, flags)
        self.workers.append(worker)
        self.logs[name] = log_path
        return worker.start()

    def complaints(self):
        """Warnings of the server and of its workers, but for the tolerated ones."""
        found = self.server.complaints()
        for worker in self.workers:
            found += [f"{worker.name}: {line}" for line in worker.complaints()]
        return [line for line in found if not any(part in line for part in self.tolerated)]


def executes(*flags):
    """Marks a scenario whose server executes actions; the workers are the scenario's to start. What a lost worker had is given
    to others soon, or every scenario with one would wait."""
    def mark(scenario):
        scenario.server_flags = ("--execution", "--execution-reconnect-grace=1s", *flags)
        return scenario

    return mark


def cache_folder():
    """The folder of installed clients that the command line names, for whoever needs one before `run`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--cache", type=pathlib.Path, default=CACHE)
    return parser.parse_known_args()[0].cache.resolve()


def run(name, description, prepare, scenarios, finish=lambda client: None):
    """Plays `scenarios`, a list of functions, against the cask binary that the command line names. `finish` is called with
    the client at the end."""
    names = [scenario.__name__.replace("_", "-") for scenario in scenarios]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cask", nargs="?", help="the cask binary")
    parser.add_argument("--scenario", action="append", choices=names, help="play only this one (may be repeated)")
    parser.add_argument("--cache", type=pathlib.Path, default=CACHE, help="folder of installed clients")
    parser.add_argument("--keep", action="store_true", help="keep the scratch folder and say where it is")
    parser.add_argument("--list", action="store_true", help="print the scenarios and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(names))
        return 0
    if not options.cask:
        parser.error("which cask binary?")

    # A caller's time limit ends the script the orderly way too: no server and no scratch folder stay behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scratch = pathlib.Path(tempfile.mkdtemp(prefix=f"cask-{name}-"))
    # Root's worker runs commands as others, who have to pass it.
    scratch.chmod(0o755)
    # Workers run commands as users that own nothing here.
    scratch.chmod(0o755)
    client = None
    try:
        try:
            client = prepare(options.cache.resolve(), scratch)
        except Unavailable as missing:
            print(f"skipped: {missing}")
            return SKIPPED
        chosen = [
            (title, scenario)
            for title, scenario in zip(names, scenarios)
            if not options.scenario or title in options.scenario
        ]
        failed = sum(not _play(options, scratch, client, title, scenario) for title, scenario in chosen)
    except Failure as failure:
        print(f"{name}: {failure}")
        return 1
    finally:
        if client is not None:
            finish(client)
        if options.keep:
            print(f"kept {scratch}")
        else:
            # Clients make what they stored read-only; root does not mind, anybody else does.
            subprocess.run(["chmod", "-R", "u+w", str(scratch)], check=False)
            shutil.rmtree(scratch, ignore_errors=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _play(options, scratch, client, title, scenario):
    folder = scratch / title
    folder.mkdir()
    flags = getattr(scenario, "server_flags", ())
    server = Server(os.path.abspath(options.cask), folder / "store", scratch / f"{title}.log", flags)
    stage, problem = Stage(server, client, folder), None
    started = time.monotonic()
    try:
        server.start()
        scenario(stage)
        for worker in stage.workers:
            if worker.runs():
                worker.drain()
        complaints = stage.complaints()
        if complaints:
            raise Failure("there are complaints:\n    " + "\n    ".join(complaints[:10]))
        server.drain()
    except (Failure, OSError) as failure:
        problem = failure
    except Exception:
        # What a client said was not of the expected shape, and nobody foresaw it.
        problem = traceback.format_exc()
    finally:
        for process in (*stage.workers, server):
            if process.runs():
                process.kill()
    result = "FAILED" if problem else "ok"
    print(f"{title:24}{time.monotonic() - started:>7.1f} s  {result:8}{'; '.join(stage.checked)}", flush=True)
    if problem:
        print(f"  {problem}\n  the server said:\n{_tail(server.log_path)}", flush=True)
        for who, log_path in stage.logs.items():
            print(f"  {who} said:\n{_tail(log_path)}", flush=True)
    return problem is None


def _tail(path, lines=30):
    text = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join("    " + line for line in text[-lines:]) or "    (nothing)"
