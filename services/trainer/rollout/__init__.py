"""Decides and changes what serves: replicas, champion, rehearsals and experiments."""
