"""What a batch gets of a teacher, `teacher(batch) -> Outputs`: live, or from a teacher cache."""
