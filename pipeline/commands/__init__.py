"""Commands of the CLI that are no stages."""
