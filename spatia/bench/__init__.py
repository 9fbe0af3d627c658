"""Tasks that methods are measured on."""
