"""The services of MoodFood; each subpackage is one process, `transport` is what their edges share."""
