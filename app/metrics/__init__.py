"""Counters and timings, under the names that Prometheus reads."""
