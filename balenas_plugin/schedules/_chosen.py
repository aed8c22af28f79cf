"""A schedule as a user chooses it: which one, with which options."""

from __future__ import annotations

from typing import Annotated, Any

from balenas_plugin.part_option import PartOption
from balenas_plugin.schedules._registry import SCHEDULES
from balenas_plugin.schedules._schedule import Schedule

_OPTION: PartOption[Schedule] = PartOption(SCHEDULES)

ScheduleOption = Annotated[Any, _OPTION]
"""An option that takes a schedule: its name, a mapping of name and options, a class, or None."""

schedule_of, schedule_options = _OPTION.made, _OPTION.options
"""What an option asks for; and the options that users may give to one."""
