"""Zonos: voice cloning from a few seconds of audio, streamed and batched, on torch and transformers' DAC codec."""
