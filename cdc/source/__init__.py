"""What sources that are databases have in common: what of them is captured, and how their tables are read.

The log that a database writes, and how a read of a table is ordered against it, are a connector's own.
"""
