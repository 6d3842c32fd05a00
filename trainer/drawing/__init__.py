"""Pictures: contact sheets and loss curves."""
