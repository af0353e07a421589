"""Who may do what: accounts, and the ways in which requests say whose they are."""
