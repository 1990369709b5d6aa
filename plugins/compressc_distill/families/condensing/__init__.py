"""A few samples in place of many: `compressc condense`."""
