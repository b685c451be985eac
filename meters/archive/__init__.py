"""Old months of readings as Parquet files in a folder or a bucket (docs/operations/archive.md, docs/adr/0054)."""
