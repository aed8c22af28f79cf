"""From a posterior to ranked architectures."""
