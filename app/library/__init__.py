"""The library: every change of what is stored, quotas, background maintenance, copies between libraries."""
