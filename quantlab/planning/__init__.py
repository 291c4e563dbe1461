"""Which configuration for which tensor: the best under a budget, for the program that will load it."""
