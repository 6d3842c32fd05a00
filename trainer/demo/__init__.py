"""The demo: every part trained and judged on an embedded world."""
