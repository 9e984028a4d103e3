"""The main job on real listings with an official split."""
