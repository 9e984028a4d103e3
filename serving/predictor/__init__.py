"""The predictor: a bundle behind KServe's model server, speaking the Open Inference Protocol."""
