"""How fast quantlab is, beside other people's ways to do the same work: `python -m benchmarks`."""
