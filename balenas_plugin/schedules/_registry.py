"""Find schedules by name."""

from __future__ import annotations

from balenas_plugin.parts import Parts
from balenas_plugin.schedules._schedule import Schedule

SCHEDULES: Parts[type[Schedule]] = Parts("schedule", "balenas_plugin.schedules", Schedule, classes=True)
list_schedules, get_schedule = SCHEDULES.names, SCHEDULES.get
