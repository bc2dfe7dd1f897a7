"""What is measured: meshray, its rivals, and the virtual environment that each runs in."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.plan import MACHINE

ROOT = Path(__file__).parent.parent
VENVS = ROOT / ".bench"


@dataclass(frozen=True)
class Subject:
    """`requirements` are installed into `.bench/<name>`; without any, the subject runs in this interpreter."""

    name: str
    distribution: str = ""  # what `version()` asks for
    requirements: tuple[str, ...] = ()

    @property
    def python(self) -> str:
        return str(VENVS / self.name / "bin" / "python") if self.requirements else sys.executable

    def version(self) -> str:
        """The version that is installed, or that of Python."""
        program = (
            f"import importlib.metadata as m; print(m.version({self.distribution!r}))"
            if self.distribution
            else "import platform; print('Python', platform.python_version())"
        )
        return subprocess.run([self.python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()

    def prepare(self) -> None:
        """Makes the environment and installs the packages, once per set of requirements."""
        if not self.requirements:
            return
        folder = VENVS / self.name
        stamp, wanted = folder / ".installed", "\n".join(self.requirements)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        print(f"installing {' '.join(self.requirements)} into {folder.relative_to(ROOT)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [self.python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, *self.requirements], check=True)
        stamp.write_text(wanted)


# numpy, psutil and pyzmq: for the bench itself
OURS = ("numpy", "psutil", "pyzmq")

SUBJECTS: dict[str, Subject] = {
    subject.name: subject
    for subject in (
        Subject(MACHINE),
        Subject("meshray", "meshray"),
        Subject("ray", "ray", ("ray", *OURS)),
        Subject("processpool"),
        Subject("loky", "loky", ("loky", *OURS)),
        Subject("dask", "distributed", ("distributed", *OURS)),
    )
}
