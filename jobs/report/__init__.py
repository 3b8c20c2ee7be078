"""What prepare did, on a page for people: gathered as plain data, drawn without any address or script."""
