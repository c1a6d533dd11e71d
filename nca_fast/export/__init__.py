"""Automata for other engines: rule and weights as JSON, steps as an ONNX graph."""
