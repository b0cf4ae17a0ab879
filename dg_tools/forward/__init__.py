"""One forward of a transformer: what a call is, what is replaced and put back, a fork, a restart in the middle."""
