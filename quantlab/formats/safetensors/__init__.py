"""safetensors: single files, models' folders, and the layouts that other programs keep in them."""
