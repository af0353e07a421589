"""Benchmarks of Seekable beside other servers: `make bench`."""
