"""A schedule as a user chooses it: which one, with which options."""

from __future__ import annotations

from typing import Annotated, Any

from balenas_plugin.options import ChosenPart
from balenas_plugin.schedules._registry import get_schedule, list_schedules
from balenas_plugin.schedules._schedule import Schedule

_CHOICE: ChosenPart[Schedule] = ChosenPart("schedule", "schedule", Schedule, list_schedules, get_schedule)

schedule_of, schedule_options = _CHOICE.make, _CHOICE.options

ScheduleOption = Annotated[Any, _CHOICE]
"""An option that takes a schedule: its name, a mapping of name and options, a class, or None."""
