"""The virtual environment of the peers: pinned versions from PyPI, with a torch that needs no CUDA."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

import talk

# The wheel of torch asks for gigabytes of CUDA. Two small wheels of it are needed to load at all, as in the project's
# own setup; the other libraries are empty ones made here, of which nothing is ever called on the CPU.
TORCH = ["torch==2.11.0", "nvidia-cuda-cupti==13.0.85", "nvidia-cuda-runtime==13.0.96"]
# What torch imports.
TORCH_NEEDS = ["jinja2", "networkx", "setuptools<82", "sympy", "typing_extensions"]
LAZY = "import os, sys; sys.setdlopenflags(os.RTLD_LAZY); "
MISSING = re.compile(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object file")


@dataclass(frozen=True)
class Packages:
    """What is installed."""

    # Their dependencies are not.
    alone: list[str]
    # Theirs are.
    others: list[str]
    # Names that are imported and never used, by module: each is an empty class.
    empty: dict[str, list[str]]
    # Those whose versions a report names.
    named: list[str]


class Environment:
    """A folder with a python that can import all peers."""

    def __init__(self, folder, packages):
        self.packages = packages
        text = "\n".join(packages.alone + packages.others + [sys.version])
        self.folder = os.path.join(folder, "venv-" + hashlib.sha256(text.encode()).hexdigest()[:12])
        self.python = os.path.join(self.folder, "bin", "python")
        self.stubs = os.path.join(self.folder, "stubs")

    def variables(self):
        """The variables that its programs need."""
        before = os.environ.get("LD_LIBRARY_PATH")
        path = self.stubs if not before else f"{self.stubs}:{before}"
        return {**os.environ, "LD_LIBRARY_PATH": path, "PYTHONPATH": self.stubs}

    def ensure(self):
        """Makes it, unless it is there. A mark is set last: what a killed run leaves is made anew."""
        mark = os.path.join(self.folder, "whole")
        if os.path.exists(mark):
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        talk.say("installing the peers from PyPI into " + self.folder + " (about 700 MB)")
        subprocess.run([sys.executable, "-m", "venv", self.folder], check=True, stdout=sys.stderr)
        # In this order pip has no conflicts to warn of.
        self.pip(*self.packages.others)
        self.pip("--no-deps", *self.packages.alone)
        self.make_stubs()
        with open(mark, "w"):
            pass

    def pip(self, *what):
        pip = [self.python, "-m", "pip", "install", "--quiet", "--no-input"]
        pip += ["--disable-pip-version-check", *what]
        if subprocess.run(pip, check=False, stdout=sys.stderr).returncode:
            sys.exit("error: pip could not install the peers\nhint: its message is above")

    def make_stubs(self):
        """Writes the empty classes, then imports torch, with an empty library more each time, until it has all."""
        os.makedirs(self.stubs, exist_ok=True)
        for module, names in self.packages.empty.items():
            self.make_module(module, names)
        command = [self.python, "-c", LAZY + "import torch"]
        while True:
            kept = {"capture_output": True, "text": True}
            done = subprocess.run(command, check=False, env=self.variables(), **kept)
            if done.returncode == 0:
                return
            found = MISSING.search(done.stderr)
            if not found or found[1] in os.listdir(self.stubs):
                sys.exit("error: torch cannot be imported\n" + done.stderr)
            self.make_stub(found[1])

    def make_module(self, module, names):
        folder = self.stubs
        for part in module.split("."):
            folder = os.path.join(folder, part)
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, "__init__.py"), "a"):
                pass
        with open(os.path.join(folder, "__init__.py"), "w") as file:
            file.writelines(f"class {name}:\n    pass\n" for name in names)

    def make_stub(self, name):
        compiler = os.environ.get("CC", "cc")
        made = [compiler, "-shared", "-x", "c", "/dev/null", f"-Wl,-soname,{name}"]
        subprocess.run([*made, "-o", os.path.join(self.stubs, name)], check=True)

    def versions(self):
        """The versions of the named packages, and of python."""
        listing = [self.python, "-m", "pip", "list", "--format", "freeze"]
        listing += ["--disable-pip-version-check"]
        lines = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
        found = dict(line.split("==") for line in lines if "==" in line)
        return {
            "python": sys.version.split()[0],
            **{name: found[name] for name in self.packages.named},
        }
