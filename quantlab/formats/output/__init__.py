"""How a file is written: whole, verified, or not at all."""
