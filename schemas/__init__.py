"""The nouns: every event, topic, reference and effect; nothing heavier than pydantic.

Public for plugins and notebooks.
"""
