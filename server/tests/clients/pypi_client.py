"""A client program that PyPI distributes: an interpreter that it runs on, and a virtual environment with it in a cache
folder, installed once from the exact versions that a `requirements.txt` names."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

from cask_server import Failure

INSTALL_SECONDS_MAX = 400
# Made when an installation is complete, so that one that was interrupted is not taken for one.
COMPLETE = "complete"


class Unavailable(Exception):
    """The client cannot run on this machine and nobody is to blame; the text says what is missing."""


def find_interpreter(client, oldest, newest):
    """A Python of a minor version from `oldest` to `newest`, both like (3, 9), the newest there is."""
    for minor in range(newest[1], oldest[1] - 1, -1):
        for candidate in _candidates(newest[0], minor):
            if _version(candidate) == (newest[0], minor) and _can_make_environments(candidate):
                return candidate
    wanted = f"{_dotted(oldest)} to {_dotted(newest)}" if oldest != newest else _dotted(oldest)
    raise Unavailable(
        f"{client} needs Python {wanted} with its venv module, and none was found: not on PATH, not under pyenv's or "
        f"uv's folders"
    )


def _dotted(version):
    return ".".join(map(str, version))


def _candidates(major, minor):
    if sys.version_info[:2] == (major, minor):
        yield sys.executable
    name = f"python{major}.{minor}"
    if found := shutil.which(name):
        yield found
    home = pathlib.Path.home()
    # Version managers keep interpreters beside PATH, where a shim may refuse to choose one of several.
    for root, pattern in (
        (pathlib.Path(os.environ.get("PYENV_ROOT", home / ".pyenv")) / "versions", f"{major}.{minor}.*"),
        (home / ".local/share/uv/python", f"cpython-{major}.{minor}.*"),
    ):
        for folder in sorted(root.glob(pattern), reverse=True):
            yield str(folder / "bin" / name)


def _version(interpreter):
    answer = _ask(interpreter, "import sys; print(*sys.version_info[:2])")
    return tuple(map(int, answer.split())) if answer else None


def _can_make_environments(interpreter):
    # Debian keeps these two in a package of their own.
    return _ask(interpreter, "import ensurepip, venv; print('yes')") is not None


def _ask(interpreter, code):
    try:
        return subprocess.run(
            [interpreter, "-c", code], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def install(cache, name, interpreter, requirements):
    """The folder of a virtual environment with exactly `requirements` in it, made unless `cache` has it."""
    version = _version(interpreter)
    key = hashlib.sha256(f"{version}\n{requirements.read_text()}".encode()).hexdigest()[:12]
    folder = cache / f"{name}-{key}"
    if (folder / COMPLETE).exists():
        return folder
    # What is left of older versions or of an interrupted installation.
    for old in cache.glob(f"{name}-*"):
        shutil.rmtree(old)
    cache.mkdir(parents=True, exist_ok=True)
    print(f"installing {name} with Python {_dotted(version)}", flush=True)
    _run(f"making an environment for {name}", [interpreter, "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # Everything is named, so that nothing is chosen anew from one day to the next.
    _run(f"installing {name} from PyPI", [*pip, "--no-deps", "--requirement", str(requirements)])
    (folder / COMPLETE).touch()
    return folder


def _run(what, command):
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=INSTALL_SECONDS_MAX,
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"{what} took longer than {INSTALL_SECONDS_MAX} s")
    if done.returncode != 0:
        raise Failure(f"{what} failed:\n{done.stdout}")
