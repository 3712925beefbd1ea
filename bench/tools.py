"""What the benchmark needs of this machine: the C programs, compiled once, and the FastAPI peer's environment."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import services
from bench.errors import BenchError

HERE = Path(__file__).parent
BUILD = HERE / ".build"
VENV = HERE / ".venv"
FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror")


@dataclass(slots=True)
class Tools:
    """What is at hand on this machine; `notes` tells the user what is not.

    Paths: `load` of the load generator, `bare` of the bare C peer, `fastapi_python` of the FastAPI peer's Python, if it
    has one. `missing`: of the services that cannot run here, why.
    """

    load: str
    bare: str
    fastapi_python: str | None = None
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=services.missing)


def find_tools(*, make_venv: bool = True) -> Tools:
    """Compile the C programs and make the FastAPI peer's environment, if they are not there yet.

    BenchError without a C compiler.
    """
    tools = Tools(compiled("load", HERE / "load"), compiled("bare", HERE / "peers"))
    if make_venv and not (VENV / "made").exists():
        tools.notes += _make_venv()
    if (VENV / "made").exists():
        tools.fastapi_python = str(VENV / "bin/python")
    return tools


def compiled(name: str, folder: Path, build: Path = BUILD) -> str:
    """The path of the program made of all C files in `folder`; compiled anew only if one of them, or FLAGS, changed."""
    sources = sorted(folder.glob("*.[ch]"))
    digest = hashlib.sha256(repr((FLAGS, [(source.name, source.read_bytes()) for source in sources])).encode())
    program = build / f"{name}-{digest.hexdigest()[:16]}"
    if not program.exists():
        build.mkdir(exist_ok=True)
        _compile([source for source in sources if source.suffix == ".c"], program)
        for older in build.glob(f"{name}-*"):
            if older != program:
                older.unlink(missing_ok=True)
    return str(program)


def _compile(sources: Sequence[Path], program: Path) -> None:
    cc = shutil.which("cc")
    if cc is None:
        raise BenchError(
            "no C compiler: `cc` is needed for the load generator; on Debian: apt-get install gcc libc6-dev"
        )
    unfinished = f"{program}.{os.getpid()}"  # another run may compile it too
    command = [cc, *FLAGS, "-o", unfinished, *map(str, sources)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if built.returncode:
        raise BenchError(f"{program.name.partition('-')[0]} was not compiled: {built.stderr.strip()}")
    os.replace(unfinished, program)


def _make_venv() -> list[str]:
    """Notes on what went wrong."""
    print("making bench/.venv for the FastAPI peer ...", file=sys.stderr, flush=True)
    for step in (
        [sys.executable, "-m", "venv", "--clear", str(VENV)],
        [str(VENV / "bin/python"), "-m", "pip", "install", "-q", "-r", str(HERE / "requirements.txt")],
    ):
        made = subprocess.run(step, capture_output=True, text=True, timeout=600)
        if made.returncode:
            why = (made.stderr or made.stdout).strip().splitlines() or ["no reason given"]
            return [f"The FastAPI peer is left out, bench/.venv could not be made: {why[-1]}"]
    (VENV / "made").touch()
    return []
