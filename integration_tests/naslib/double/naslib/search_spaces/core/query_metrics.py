"""What a benchmark can be asked for."""

from enum import Enum, auto


class Metric(Enum):
    TEST_ACCURACY = auto()
