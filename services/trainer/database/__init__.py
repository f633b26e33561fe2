"""The trainer's database: its tables, how they are reached and migrated, and the leases between trainers."""
