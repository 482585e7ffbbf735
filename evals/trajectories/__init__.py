"""What benchmarks of repairs say of a `CodeMonkeys` job besides right and wrong."""
