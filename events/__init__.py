"""The truth: event types, their codec, the log on each backend, artifact bytes, settings."""
