"""The number of training steps of each setting: measured once, kept in plan.json, the same for all its seeds.

A setting that is added later, perhaps on another machine, gets the steps of a known setting (the reference, if that has
steps) times the ratio of their throughputs, both measured on this machine.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from experiments.study import results
from experiments.study.study import Row, Study
from lovecraft_jax.runtime.files import write_json

FILE = "plan.json"
DISPATCH = 20
"""Steps of a dispatch. The steps of every run are a multiple of it."""


class Plan:
    """The steps of each setting: from plan.json, from the finished `rows`, and from the throughputs that are added.

    `about` is the corpus and the seconds of the runs. Raises UserError if the file is damaged or belongs to other runs,
    or if a row took another number of steps: runs that trained for different times must not be compared.
    """

    def __init__(self, study: Study, folder: Path, about: Mapping[str, Any], rows: Sequence[Row]) -> None:
        self._study, self._path, self._about = study, folder / FILE, dict(about)
        self._steps: dict[str, int] = {}
        if self._path.exists():
            with results.report_damage(self._path, "restore it, or give another --workdir"):
                saved = json.loads(self._path.read_text())
                self._steps = {setting: int(steps) for setting, steps in saved["steps"].items()}
                if wrong := [f"{setting}: {steps}" for setting, steps in self._steps.items() if steps < 1]:
                    raise ValueError(", ".join(wrong))
            results.check_same(str(self._path), saved, about)
        for row in rows:
            if taken := row.get("steps"):
                steps = self._steps.setdefault(study.same_cost_as(row["setting"]), taken)
                results.check_same(results.name(row), row, {"steps": steps})
        self._save()

    def steps(self, setting: str) -> int | None:
        """Returns the steps of a run, or None while the setting's throughput is unknown."""
        return self._steps.get(self._study.same_cost_as(setting))

    def to_measure(self, settings: Iterable[str]) -> list[str]:
        """Returns the settings whose throughput the steps of all `settings` need: one for all that cost the same."""
        missing = (self._study.same_cost_as(setting) for setting in settings if not self.steps(setting))
        unknown = list(dict.fromkeys(missing))
        return [self._reference, *unknown] if unknown and self._reference else unknown

    def add(self, throughputs: Mapping[str, float]) -> None:
        """Sets the steps of settings that have none, and of all that cost the same, by their throughputs in steps per
        second. Does nothing where another setting has steps but its throughput could not be measured."""
        reference, seconds = self._reference, self._about["seconds"]
        if reference:
            if reference not in throughputs:
                return
            seconds = self._steps[reference] / throughputs[reference]
        for setting, steps_per_second in throughputs.items():
            if not self.steps(setting):
                steps = max(1, round(seconds * steps_per_second / DISPATCH)) * DISPATCH
                self._steps[self._study.same_cost_as(setting)] = steps
        self._save()

    @property
    def _reference(self) -> str:
        """A setting that has steps; "" where none has."""
        return self._study.reference if self._study.reference in self._steps else next(iter(self._steps), "")

    def _save(self) -> None:
        write_json(epath.Path(self._path), self._about | {"steps": self._steps})
