"""One thin layer between the core and the engines: retries, clusters, progress, lineage."""
