"""All that touches libhdf5: a program that runs in a process of its own and knows nothing of quantlab.

It imports h5py and the standard library, so that it starts in a fraction of a second; `..process` starts it.
"""
