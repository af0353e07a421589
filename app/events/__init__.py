"""The change feed, and the connections of the clients that receive it."""
