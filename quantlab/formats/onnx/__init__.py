"""ONNX: models read, written anew, and written again with quantized weights."""
