"""Images and pairs: the catalog of datasets, downloads, reading, and packs."""
