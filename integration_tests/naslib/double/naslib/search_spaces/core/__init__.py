"""See the package."""

from naslib.search_spaces.core.query_metrics import Metric as Metric
