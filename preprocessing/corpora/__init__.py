"""Collections of sounds -> HDF5 files of clips."""
