"""Models and the places in them: loading, sites, hooks and losses."""
