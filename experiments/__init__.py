"""Studies that train many models and write a page."""
