"""Events for people: a line each, whole, or with what they refer to fetched and looked at."""
