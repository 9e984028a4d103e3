"""Stage 1: look-ups in the banks beside faiss, and what a listing costs before any model is asked."""
