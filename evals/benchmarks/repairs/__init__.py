"""Five small repositories of ours, each with one seeded bug and an issue that describes it."""
