"""The blocks of SMFNet (`mmfuse.methods.smfnet`)."""
