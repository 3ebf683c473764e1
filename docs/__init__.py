"""Pages longer than README.md can carry, and what draws their figures."""
