"""Networks that two or more domains use, as pure Linen modules."""
