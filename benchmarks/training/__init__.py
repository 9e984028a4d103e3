"""What a training costs: stages, tuning trials, and the distance to a plain PyTorch loop."""
