"""What two or more domains measure."""
