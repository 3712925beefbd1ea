"""What the benchmark needs of this machine: the C programs, compiled once, and the environment of peers in Python."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from bench import services
from bench.errors import BenchError

HERE = Path(__file__).parent
BUILD = HERE / ".build"
VENV = HERE / ".venv"
PYTHON = str(VENV / "bin/python")
REQUIREMENTS = HERE / "requirements.txt"
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")  # where Debian's package has it
MODULES = {"fastapi": "fastapi, sse_starlette, uvicorn, uvloop", "socketify": "socketify", "picows": "picows, uvloop"}
"""The peers that run in that environment, and what each imports there."""
FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror")


EXTENSION = "tornado_chat.live._fanout"


@dataclass(slots=True)
class Tools:
    """What is at hand on this machine; `notes` tells the user what is not.

    Paths: `load` of the load generator, `bare` of the bare C peer, `nginx` if its module Nchan is there too. `peers`:
    those of MODULES that can run. `extension`: whether the server's own is built. `missing`: of the services that
    cannot run, why.
    """

    load: str
    bare: str
    nginx: str = ""
    peers: list[str] = field(default_factory=list)
    extension: bool = field(default_factory=lambda: find_spec(EXTENSION) is not None)
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=services.missing)


def find_tools(*, make_venv: bool = True) -> Tools:
    """Compile the C programs and make the peers' environment, if they are not there yet.

    BenchError without a C compiler.
    """
    tools = Tools(compiled("load", HERE / "load"), compiled("bare", HERE / "peers"))
    if make_venv:
        tools.notes += environment(VENV, REQUIREMENTS)
    if not tools.extension:
        tools.notes.append(f"The server's C extension, {EXTENSION}, is not built: it ran without.")
    if NCHAN.exists():  # Debian has nginx where not every user's path leads
        tools.nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or ""
    if make_venv and not tools.nginx:
        tools.notes.append(
            "The peer nchan is left out: nginx has no module Nchan (on Debian: apt-get install libnginx-mod-nchan)"
        )
    for peer, modules in MODULES.items():
        why = why_not(VENV, modules)
        if why is None:
            tools.peers.append(peer)
        elif make_venv:
            tools.notes.append(f"The peer {peer} is left out: {why}")
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


def environment(venv: Path, requirements: Path) -> list[str]:
    """Make `venv` with the lines of `requirements`, unless it has them; notes on those that cannot be installed.

    What failed is tried again by the next run.
    """
    made, wanted = venv / "made", requirements.read_text()
    if made.exists() and made.read_text() == wanted:
        return []
    print(f"making {venv} for the peers ...", file=sys.stderr, flush=True)
    why = _failure(sys.executable, "-m", "venv", str(venv))
    if why:
        return [f"The peers in Python are left out, {venv} could not be made: {why}"]
    notes = []
    for line in wanted.splitlines():
        if not line.startswith("#"):
            why = _failure(str(venv / "bin/python"), "-m", "pip", "install", "-q", line)
            if why:
                notes.append(f"{line} could not be installed: {why}")
    if not notes:
        made.write_text(wanted)
    return notes


def why_not(venv: Path, modules: str) -> str | None:
    """Why these cannot be imported there; None if they can."""
    python = venv / "bin/python"
    return _failure(str(python), "-c", f"import {modules}") if python.exists() else f"there is no {venv}"


def _failure(*command: str) -> str | None:
    """The last line of what the command said, if it failed."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired as error:
        return str(error)
    said = (ended.stderr or ended.stdout).strip().splitlines() or ["no reason given"]
    return said[-1] if ended.returncode else None
