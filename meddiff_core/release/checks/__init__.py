"""What `verify` compares in a release: metadata, tables and volumes, each bounded before it is decoded."""
