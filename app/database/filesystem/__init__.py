"""The filesystem backend: ordinary files in a folder, with a row for each in an SQL database."""
