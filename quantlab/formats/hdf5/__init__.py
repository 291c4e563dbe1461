"""HDF5, as Keras writes it."""
