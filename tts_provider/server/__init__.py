"""The server: a listener, connections, and the dialects that clients speak."""
