"""How many steps the runs of each setting take: found out once, kept in plan.json, and the same for all its seeds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from experiments.article_2019 import results
from experiments.article_2019.experiments import paced_as
from lovecraft_jax.runtime.files import write_json

FILE = "plan.json"
DISPATCH = 20
"""Steps, of which the runs are multiples."""


class Plan:
    """The steps of each setting: those that the file has or `rows` took, and those of every pace that it is told.

    `about`: the corpus and the seconds of the runs. Raises UserError where the file is damaged or of others, and where
    a row took other steps than it should have: what trained for another while is not to be compared.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], rows: Sequence[results.Row]) -> None:
        self._path, self._about = folder / FILE, dict(about)
        self._steps: dict[str, int] = {}
        if self._path.exists():
            with results.told_of_damage(self._path, "restore it, or give another --workdir"):
                found = json.loads(self._path.read_text())
                self._steps = {setting: int(steps) for setting, steps in found["steps"].items()}
                if wrong := [f"{setting}: {steps}" for setting, steps in self._steps.items() if steps < 1]:
                    raise ValueError(", ".join(wrong))
            results.check_same(str(self._path), found, about)
        for row in rows:
            if took := row.get("steps"):
                steps = self._steps.setdefault(paced_as(row["setting"]), took)
                results.check_same(results.name(row), row, {"steps": steps})
        self._keep()

    def steps(self, setting: str) -> int | None:
        """Of a run of the setting, once its pace is known."""
        return self._steps.get(paced_as(setting))

    def add(self, setting: str, pace: float) -> None:
        """Sets, for all settings whose steps cost the same, as many as fit at `pace` steps a second."""
        self._steps[paced_as(setting)] = max(1, round(self._about["seconds"] * pace / DISPATCH)) * DISPATCH
        self._keep()

    def _keep(self) -> None:
        write_json(epath.Path(self._path), self._about | {"steps": self._steps})
