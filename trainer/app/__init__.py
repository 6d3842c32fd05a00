"""The page of `rtd app`: what it answers, as functions without a browser, and the page itself."""

from trainer.app.service import SearchDesk, Voice, find_root, list_voices, new_state


__all__ = ["SearchDesk", "Voice", "find_root", "list_voices", "new_state"]
