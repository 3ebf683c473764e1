"""Trained models in formats that other programs read: a web page, safetensors, ONNX, a Hugging Face Hub folder."""
