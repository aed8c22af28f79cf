"""From a trained network to files that run without this package, each measured on this machine."""

from balenas_plugin.deployment.deploy import ONNX, Deployed, Examples, Form, deploy, require_deployable
from balenas_plugin.deployment.latency import Latency, measure_latency

__all__ = ["ONNX", "Deployed", "Examples", "Form", "Latency", "deploy", "measure_latency", "require_deployable"]
