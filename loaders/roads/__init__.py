"""The roads that others take to the same batches, ours and bare loops beside them, behind one protocol."""
