"""Keys at rest: files and tokens that hold them, and the passphrase that opens them."""
