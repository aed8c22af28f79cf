"""Find schedules by name, and make the one that an option asks for."""

from __future__ import annotations

from typing import Annotated, Any

from balenas_plugin.options import ChosenPart
from balenas_plugin.parts import Parts
from balenas_plugin.schedules._schedule import Schedule

SCHEDULES: Parts[type[Schedule]] = Parts("schedule", "balenas_plugin.schedules", Schedule, classes=True)
list_schedules, get_schedule = SCHEDULES.names, SCHEDULES.get

_CHOICE: ChosenPart[Schedule] = ChosenPart("schedule", SCHEDULES)

schedule_of, schedule_options = _CHOICE.make, _CHOICE.options

ScheduleOption = Annotated[Any, _CHOICE]
"""An option that takes a schedule: its name, a mapping of name and options, a class, or None."""
