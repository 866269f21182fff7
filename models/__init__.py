"""Reference networks and their offline tasks: each module has `build()` (an untrained network) and `task()`."""
