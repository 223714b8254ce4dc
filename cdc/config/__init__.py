"""Configuration: one YAML file, every error with its place."""
