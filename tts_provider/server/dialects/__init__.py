"""Dialects: each turns its bytes into calls on an utterance and back, and knows nothing else."""
