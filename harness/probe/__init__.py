"""Questions put to a pair's pipelines, and the answers kept."""
