"""`packing.serialize`: objects to bytes and back, and the errors where that is impossible."""
