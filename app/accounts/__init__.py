"""Accounts, and the credentials by which a request is authenticated: passwords, sessions, tokens, links."""
