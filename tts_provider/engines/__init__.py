"""Engines: what turns text into speech. Each is one file or folder here and one line in `catalog`."""
