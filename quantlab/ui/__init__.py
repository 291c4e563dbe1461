"""The web front's shared parts: the only part of quantlab that imports streamlit."""
