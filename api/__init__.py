"""MLflow's HTTP: per entity its requests, answers and routes; errors; security; pages."""
