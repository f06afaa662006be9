"""A machine learning backend of Label Studio, without a web framework: its events, tasks, images and predictions."""
