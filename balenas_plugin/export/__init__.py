"""Found architectures as files: drawings, plain PyTorch modules, ONNX."""
