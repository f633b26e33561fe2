"""What serves: the replicas, the champion, rehearsals, experiments."""
