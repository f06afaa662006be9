"""Networks of this project; ``registration`` makes them known to timm."""
