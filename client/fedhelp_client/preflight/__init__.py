"""What a security team looks at before a node may run: checks that change nothing."""
