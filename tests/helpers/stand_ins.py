"""Stand-ins for the programs that scripts call (gcloud, srun, sudo ...), which write down their arguments."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
FLAGS = ["--config=configs/c150.py", "--workdir=gs://b/c", '--config.sample.prompt=The "old" house & its $HOME\'s *']
BASH = shutil.which("bash") or "bash"


class Bin:
    """A folder of stand-ins, first in PATH, and what was called of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder / "bin", folder / "calls"
        self.folder.mkdir()
        self.log.touch()

    def add(self, name: str, body: str = "") -> None:
        file = self.folder / name
        file.write_text(f'#!{BASH}\nprintf "%q " {name} "$@" >>{self.log}\necho >>{self.log}\n{body}\n')
        file.chmod(0o755)

    def calls(self, name: str = "") -> list[list[str]]:
        lines = [shlex.split(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if name in ("", line[0])]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        return kept | {"PATH": f"{self.folder}:{os.environ['PATH']}", "POLL": "0.05"} | more

    def run(self, script: str, *args: str, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess:
        command = [BASH, str(cwd / "launch" / script), *args]
        env = self.environment(**more)
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)
