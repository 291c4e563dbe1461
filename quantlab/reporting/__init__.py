"""A model's sweep and plan as one file to hand on."""

from .reports import Report, report

__all__ = ["Report", "report"]
