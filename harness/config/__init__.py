"""From YAML files and overrides to a typed configuration that was checked."""
