"""Dead letters and what becomes of them: found, looked at, sent again once, or dropped."""
