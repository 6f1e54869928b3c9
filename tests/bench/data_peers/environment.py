"""The virtual environment of the peers: pinned versions from PyPI, with a torch that needs no CUDA."""

import hashlib
import os
import re
import shutil
import subprocess
import sys

import talk

# The wheel of torch asks for gigabytes of CUDA. Two small wheels of it are needed to load at all, as in the project's
# own setup; the other libraries are empty ones made here, of which nothing is ever called on the CPU.
WITHOUT_DEPENDENCIES = [
    "torch==2.11.0",
    "nvidia-cuda-cupti==13.0.85",
    "nvidia-cuda-runtime==13.0.96",
    # Asks for other clouds' clients, matplotlib, transformers and torchvision.
    "mosaicml-streaming==0.13.0",
    # Asks for torchvision and tifffile, for images only.
    "litdata==0.2.76",
    "webdataset==1.0.2",
]
OTHERS = [
    "pyarrow==26.0.1",
    "datasets==5.2.0",
    "boto3==1.44.5",
    "obstore==0.12.1",
    "xxhash==3.6.0",
    "numpy==2.1.3",
    "requests",
    # What those above import.
    "Brotli",
    "braceexpand",
    "catalogue<3",
    "lightning-utilities",
    "python-snappy<1",
    "zstd<2",
    "jinja2",
    "networkx",
    "pillow",
    "setuptools<82",
    "sympy",
    "typing_extensions",
]
# What MosaicML Streaming imports for its text and image sets, by module. It wants transformers < 5, which wants an older
# huggingface-hub than datasets does, and torchvision wants CUDA. Here each name is an empty class.
EMPTY = {
    "transformers.feature_extraction_utils": ["BatchFeature"],
    "transformers.tokenization_utils_base": ["BatchEncoding"],
    "transformers.models.auto.tokenization_auto": ["AutoTokenizer"],
    "torchvision.datasets": ["VisionDataset"],
    "torchvision.transforms.functional": ["to_tensor"],
}
# The packages whose versions a report names.
NAMED = ["mosaicml-streaming", "litdata", "webdataset", "pyarrow", "datasets", "torch", "numpy"]
LAZY = "import os, sys; sys.setdlopenflags(os.RTLD_LAZY); "
MISSING = re.compile(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object file")


class Environment:
    """A folder with a python that can import all peers."""

    def __init__(self, folder):
        text = "\n".join(WITHOUT_DEPENDENCIES + OTHERS + [sys.version])
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
        self.pip(*OTHERS)
        self.pip("--no-deps", *WITHOUT_DEPENDENCIES)
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
        for module, names in EMPTY.items():
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
        return {"python": sys.version.split()[0], **{name: found[name] for name in NAMED}}
