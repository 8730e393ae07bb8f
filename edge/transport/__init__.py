"""Where bytes come from: the only input I/O of the edge."""
