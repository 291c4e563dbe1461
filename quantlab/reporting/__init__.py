"""A model's sweep and plan as one file to hand on."""
