"""The science of meddiff, without any engine: it needs no Prefect, MLflow or Dask."""
