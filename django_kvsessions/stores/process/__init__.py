"""What a store needs of its process: locks, clients of drivers, forks."""
