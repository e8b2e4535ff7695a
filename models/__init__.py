"""The catalogue: one TOML file per model, read by `edgeembed.hub.catalogue`."""
