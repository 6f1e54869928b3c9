"""The libtorch with CUDA that the programs load: python's torch package, or a folder that is named."""

import glob
import os
import re
import subprocess
from dataclasses import dataclass

from missing import Missing

# What the programs are built for.
VERSION = "2.11.0"
ASK = (
    "import importlib.util as it; print(list(it.find_spec('torch').submodule_search_locations)[0])"
)
HINT = f"install torch {VERSION} with CUDA and name its folder: --torch .../site-packages/torch"


@dataclass(frozen=True)
class Torch:
    """A folder with `lib`."""

    folder: str
    # Whether its python package is to be used though python would not find it.
    named: bool

    @property
    def library(self):
        return os.path.join(self.folder, "lib")

    def version(self):
        """As its files say."""
        for name, pattern in (
            ("version.py", r"__version__ = '([^']+)'"),
            ("build-version", r"(\S+)"),
        ):
            try:
                with open(os.path.join(self.folder, name)) as file:
                    return re.search(pattern, file.read())[1]
            except (FileNotFoundError, TypeError):
                pass
        return "not known"

    def library_path(self):
        """LD_LIBRARY_PATH for programs that are linked to it: wheels keep CUDA's libraries beside torch."""
        beside = sorted(glob.glob(os.path.join(os.path.dirname(self.folder), "nvidia", "*", "lib")))
        before = os.environ.get("LD_LIBRARY_PATH")
        return ":".join([self.library, *beside, *([before] if before else [])])

    def python_path(self):
        """For a python that is to import it."""
        is_package = os.path.exists(os.path.join(self.folder, "__init__.py"))
        return [os.path.dirname(self.folder)] if self.named and is_package else []


def find(named, python):
    """The folder that is named, else that of python's torch."""
    folder = os.path.realpath(named) if named else of_python(python)
    if not folder:
        raise Missing(f"{python} has no torch", HINT)
    torch = Torch(folder, bool(named))
    if not os.path.exists(os.path.join(torch.library, "libtorch_cuda.so")):
        raise Missing(f"{torch.library} has no libtorch_cuda.so: no libtorch with CUDA", HINT)
    return torch


def of_python(python):
    """None where it has none."""
    try:
        asked = {"capture_output": True, "text": True}
        done = subprocess.run([python, "-c", ASK], check=False, **asked)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
