"""One thin layer between the core and the engines: retries, caching, clusters, progress, lineage."""
