"""Bytes in any cut in; `Chunk`s of samples in mV out, without I/O, clock or thread."""
