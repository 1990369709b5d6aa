"""What indices of a width are ranked by, one file each."""
