"""HTTP and its relatives as the RFCs define them: pure functions over headers and bytes, without I/O."""
