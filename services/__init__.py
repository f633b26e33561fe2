"""The services of MoodFood, and what they share.

`inference`, `trainer` and `gateway` each run as a process. `cli` is the `moodfood` command. `transport` and
`language` are libraries: how the processes talk, and how a text is read.
"""
