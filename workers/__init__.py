"""Processes: projector, sealer, rebuild, gc; the supervisor and the command line."""
