"""Schedules, one a file: what happens to a search between epochs: stages that prune, widen and deepen, early stopping.

To add one, write a module here with a subclass of `Schedule` and its `name`, or offer the class from another package as
an entry point of the group ``balenas_plugin.schedules``.
"""

from balenas_plugin.schedules._edits import Anew, Edit, Keep, Lower, Stop, Widen, edit_of, plain_edit
from balenas_plugin.schedules._registry import (
    ScheduleOption,
    get_schedule,
    list_schedules,
    schedule_of,
    schedule_options,
)
from balenas_plugin.schedules._schedule import Schedule, Seen
from balenas_plugin.schedules._staged import Staged

__all__ = [
    "Anew",
    "Edit",
    "Keep",
    "Lower",
    "Schedule",
    "ScheduleOption",
    "Seen",
    "Staged",
    "Stop",
    "Widen",
    "edit_of",
    "get_schedule",
    "list_schedules",
    "plain_edit",
    "schedule_of",
    "schedule_options",
]
