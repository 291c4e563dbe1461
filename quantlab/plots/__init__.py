"""Results -> Plotly figures: the only part of quantlab that imports plotly."""
