"""What rows look like: logical types, columns, tables. Imports the standard library only."""
