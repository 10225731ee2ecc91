"""The core: one utterance from text to audio, knowing neither sockets nor engines in particular."""
