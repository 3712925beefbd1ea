"""Whether the C extension is built, which is optional; all else of the package is in setup.cfg.

Without a compiler, or Python's headers, the package is pure: a slower server, and not a failed installation. pip says
which it is by the name of the wheel that it made, and `tornado-chat serve` when it starts.
"""

import sys
import tempfile

from setuptools import Distribution, Extension, setup
from setuptools.errors import BaseError, CCompilerError, CompileError

FANOUT = Extension("tornado_chat.live._fanout", ["tornado_chat/live/_fanout.c"], optional=True)


def why_not(extension: Extension) -> str | None:
    """Why the extension cannot be built here; None if it can be, which is tried."""
    with tempfile.TemporaryDirectory() as folder:
        probe = Distribution({"name": "probe", "ext_modules": [Extension(extension.name, extension.sources)]})
        command = probe.get_command_obj("build_ext")
        command.build_lib = command.build_temp = folder
        try:
            command.ensure_finalized()
            command.run()
        except (BaseError, CCompilerError, CompileError, OSError) as error:
            return str(error)
    return None


reason = why_not(FANOUT)
if reason:
    print(f"tornado_chat: without its C extension, so the server is slower: {reason}", file=sys.stderr)
setup(ext_modules=[] if reason else [FANOUT])
