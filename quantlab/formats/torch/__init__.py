"""PyTorch's zip archives, without running the pickle in them."""
