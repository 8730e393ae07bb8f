"""Recordings on disk in; `Chunk`s out: one file a format, each through its library, found by content."""
