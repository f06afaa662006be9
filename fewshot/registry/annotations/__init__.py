"""The annotations of a labelling tool, recorded in a registry and applied to its examples."""
