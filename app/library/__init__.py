"""Changes of stored files, quotas, background maintenance, copies between libraries, deletion of accounts."""
