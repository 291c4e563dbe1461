"""The name under which a sweep on a cluster is asked for: `quantlab.cluster.ClusterRunner`."""

from .sweeping.cluster import ClusterRunner

__all__ = ["ClusterRunner"]
