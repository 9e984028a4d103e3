"""Engines: what runs the graph of one tower. The reference is fp32 ONNX Runtime; any other is shown to agree first."""
