"""Configurations x tensors: what is swept, on which machines, and where the rows are kept."""
